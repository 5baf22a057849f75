import assert from "node:assert/strict";
import { test } from "node:test";
import { context, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { enqueueGeneration, InvalidTaskError, MAX_TASK_BYTES } from "@wearon/contracts";

const GENERATION = {
  channel: "b2c",
  userId: "9b2e4c10-6f0d-4d1e-8c57-2f1a7e5d3c21",
  sessionId: "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11",
  imageUrls: ["https://cdn.shop.example/person.jpg", "https://cdn.shop.example/jacket.jpg"],
  requestId: "req_1",
};

/** What was pushed, and the error that pushing ends with. */
function list(error) {
  const pushed = [];
  return {
    pushed,
    async lpush(key, value) {
      pushed.push([key, JSON.parse(value)]);
      if (error) throw error;
      return pushed.length;
    },
  };
}

test("a task is pushed in the form the services read", async () => {
  const redis = list();
  const taskId = "5f0c7d7e-2a44-4a5f-8a86-1b0f6f1f6a10";
  const createdAt = new Date("2026-11-23T21:00:00.123Z");
  const task = await enqueueGeneration(redis, { ...GENERATION, taskId, createdAt, prompt: "Keep the background" });
  assert.deepEqual(redis.pushed, [
    [
      "wearon:tasks:generation",
      {
        task_id: taskId,
        channel: "b2c",
        user_id: GENERATION.userId,
        session_id: GENERATION.sessionId,
        image_urls: GENERATION.imageUrls,
        prompt: "Keep the background",
        request_id: "req_1",
        version: 1,
        created_at: "2026-11-23T21:00:00.123Z",
      },
    ],
  ]);
  assert.deepEqual(task, redis.pushed[0][1]);
});

test("a store's task names the store and no user", async () => {
  const redis = list();
  const storeId = "c3a1f9d2-0b8e-4f6a-9d24-7e5b1c2a3f32";
  await enqueueGeneration(redis, { ...GENERATION, channel: "b2b", userId: undefined, storeId });
  const [[, task]] = redis.pushed;
  assert.equal(task.store_id, storeId);
  assert.ok(!("user_id" in task));
});

test("every call without a task id is another task, made now, for the default prompt", async () => {
  const redis = list();
  const before = Date.now();
  const first = await enqueueGeneration(redis, GENERATION);
  const second = await enqueueGeneration(redis, GENERATION);
  assert.notEqual(first.task_id, second.task_id);
  assert.equal(first.prompt, "");
  assert.ok(Date.parse(first.created_at) >= before && Date.parse(second.created_at) <= Date.now());
});

for (const [name, change, key] of [
  ["no owner", { userId: undefined }, "user_id"],
  ["a session id that is no UUID", { sessionId: "session-1" }, "session_id"],
  ["no images", { imageUrls: [] }, "image_urls"],
  ["images left out", { imageUrls: undefined }, "image_urls"],
  ["seventeen images", { imageUrls: Array(17).fill("https://cdn.shop.example/a.jpg") }, "image_urls"],
  ["an address that is not absolute", { imageUrls: ["/person.jpg"] }, "image_urls.0"],
  ["a prompt that PostgreSQL cannot store", { prompt: "a\0b" }, "prompt"],
  ["half a surrogate pair", { prompt: "a\ud800" }, "prompt"],
  ["a date that is none", { createdAt: new Date(NaN) }, "created_at"],
  ["an unknown channel", { channel: "b2g" }, "channel"],
  ["no request id", { requestId: undefined }, "request_id"],
  ["more than a worker reads", { prompt: "é".repeat(MAX_TASK_BYTES / 2) }, ""],
]) {
  test(`${name} is refused and not pushed`, async () => {
    const redis = list();
    await assert.rejects(enqueueGeneration(redis, { ...GENERATION, ...change }), (error) => {
      assert.ok(error instanceof InvalidTaskError);
      assert.deepEqual([...new Set(error.problems.map((problem) => problem.key))], [key]);
      assert.match(error.message, /^Invalid generation task: /);
      return true;
    });
    assert.deepEqual(redis.pushed, []);
  });
}

test("what Redis fails with is what the caller gets", async () => {
  const broken = new Error("READONLY You can't write against a read only replica.");
  await assert.rejects(enqueueGeneration(list(broken), GENERATION), broken);
});

test("a task belongs to the trace that is handed in", async () => {
  const redis = list();
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  await enqueueGeneration(redis, { ...GENERATION, traceparent });
  assert.equal(redis.pushed[0][1].traceparent, traceparent);
});

test("a task belongs to the trace that is active in the app, and to none without one", async () => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  const active = trace.setSpanContext(context.active(), {
    traceId: "0af7651916cd43dd8448eb211c80319c",
    spanId: "b7ad6b7169203331",
    traceFlags: 1,
  });
  const redis = list();
  await context.with(active, () => enqueueGeneration(redis, GENERATION));
  await enqueueGeneration(redis, GENERATION);
  context.disable();
  const [traced, untraced] = redis.pushed.map(([, task]) => task);
  assert.equal(traced.traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  assert.ok(!("traceparent" in untraced));
});
