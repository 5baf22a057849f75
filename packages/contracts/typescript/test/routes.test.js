import assert from "node:assert/strict";
import { createServer } from "node:http";
import { Readable } from "node:stream";
import { test } from "node:test";
import { createTryOnRoutes, ERRORS, followTryOn, PLACE_SCRIPT } from "@wearon/contracts";
import { FakeSupabase } from "./fake-supabase.js";

const sessionId = "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11";
const userId = "9b2e4c10-6f0d-4d1e-8c57-2f1a7e5d3c21";
const storeId = "c3a1f9d2-0b8e-4f6a-9d24-7e5b1c2a3f32";
const stranger = "11111111-6f0d-4d1e-8c57-2f1a7e5d3c21";
const imageUrls = ["https://shop.example/person.jpg", "https://shop.example/dress.jpg"];
const user = { channel: "b2c", userId };
const store = { channel: "b2b", storeId };

function application({ caller = user, row = null, answers = [], ...rest } = {}) {
  const supabase = Object.assign(new FakeSupabase(), { row, answers });
  const pushed = [];
  const routes = createTryOnRoutes({
    caller: async () => caller,
    redis: () => ({ lpush: async (key, value) => pushed.push(JSON.parse(value)) }),
    supabase: () => supabase,
    bucket: () => "virtual-tryon-images",
    ...rest,
  });
  return { routes, supabase, pushed };
}

const get = () => new Request("https://app.example/api/try-on");
const post = (body) => new Request("https://app.example/api/try-on", { method: "POST", body: JSON.stringify(body) });

/** Every handler, called for one session. */
const HANDLERS = {
  enqueue: (routes, id) => routes.enqueue(post({ sessionId: id, imageUrls })),
  cancel: (routes, id) => routes.cancel(post({}), id),
  events: (routes, id) => routes.events(get(), id),
  show: (routes, id) => routes.show(get(), id),
};

for (const [name, handle] of Object.entries(HANDLERS)) {
  test(`${name} refuses who is not signed in`, async () => {
    const { routes, supabase, pushed } = application({ caller: null, row: { status: "queued", user_id: userId } });
    assert.equal((await handle(routes, sessionId)).status, 401);
    assert.deepEqual([supabase.looks, supabase.calls, pushed], [[], [], []]);
  });

  for (const [whose, caller, row] of [
    ["another user's", user, { status: "queued", user_id: stranger }],
    ["another store's", store, { status: "queued", store_id: stranger }],
    ["an unknown", user, null],
  ]) {
    test(`${name} answers 404 for ${whose} session`, async () => {
      const { routes, supabase, pushed } = application({ caller, row });
      const answer = await handle(routes, sessionId);
      assert.equal(answer.status, 404);
      assert.equal((await answer.json()).error, "session_not_found");
      assert.deepEqual([supabase.calls, supabase.channels, pushed], [[], [], []]);
    });
  }

  test(`${name} answers 404 for what is no session id, without asking the database`, async () => {
    const { routes, supabase } = application({ row: { status: "queued", user_id: userId } });
    for (const id of ["", "x", `${sessionId}' or '1'='1`, "../users"]) {
      assert.equal((await handle(routes, id)).status, 404);
    }
    assert.deepEqual(supabase.looks, []);
  });

  test(`${name} answers 503 while Supabase is away`, async () => {
    const { routes } = application({ answers: [{ data: null, error: { message: "no" }, status: 0 }] });
    assert.equal((await handle(routes, sessionId)).status, 503);
  });
}

test("the caller's own queued session is pushed in the caller's name", async () => {
  const { routes, pushed } = application({ row: { status: "queued", user_id: userId.toUpperCase() } });
  const answer = await routes.enqueue(post({ sessionId, imageUrls, userId: stranger, channel: "b2b" }));
  assert.equal(answer.status, 202);
  assert.equal(pushed.length, 1);
  assert.deepEqual([pushed[0].user_id, pushed[0].channel, pushed[0].session_id], [userId, "b2c", sessionId]);
  assert.deepEqual(await answer.json(), { taskId: pushed[0].task_id });
});

test("a store's task carries the request id under which its credit was deducted", async () => {
  const row = { status: "queued", store_id: storeId, request_id: "req-77" };
  const { routes, pushed } = application({ caller: store, row });
  assert.equal((await routes.enqueue(post({ sessionId, imageUrls }))).status, 202);
  assert.deepEqual([pushed[0].store_id, pushed[0].request_id], [storeId, "req-77"]);
});

test("a session that is no longer queued is not pushed again", async () => {
  const { routes, pushed } = application({ row: { status: "processing", user_id: userId } });
  assert.equal((await routes.enqueue(post({ sessionId, imageUrls }))).status, 409);
  assert.deepEqual(pushed, []);
});

test("a session with the old word for queued is pushed too", async () => {
  const { routes, pushed } = application({ row: { status: "pending", user_id: userId } });
  assert.equal((await routes.enqueue(post({ sessionId, imageUrls }))).status, 202);
  assert.equal(pushed.length, 1);
});

test("a Redis that never answers is not waited for", async () => {
  const never = () => new Promise(() => {});
  const { routes } = application({
    row: { status: "queued", user_id: userId },
    redis: () => ({ lpush: never, evalsha: never, eval: never }),
  });
  assert.equal((await routes.enqueue(post({ sessionId, imageUrls }))).status, 503);
  assert.deepEqual(await (await routes.show(get(), sessionId)).json(), { status: "queued", place: null });
});

test("an application without a REDIS_URL shows a waiting session without its place", async () => {
  const { routes } = application({
    row: { status: "queued", user_id: userId },
    redis: () => {
      throw new Error("no REDIS_URL");
    },
  });
  assert.deepEqual(await (await routes.show(get(), sessionId)).json(), { status: "queued", place: null });
});

test("a task that no worker would take is refused with its problems", async () => {
  const { routes, pushed } = application({ row: { status: "queued", user_id: userId } });
  const answer = await routes.enqueue(post({ sessionId, imageUrls: [] }));
  assert.equal(answer.status, 400);
  assert.equal((await answer.json()).problems[0].key, "image_urls");
  assert.deepEqual(pushed, []);
});

for (const [verdict, status, body] of [
  ["cancelled", 200, { givenBack: true }],
  ["already_cancelled", 200, { givenBack: true }],
  ["too_late", 409, { error: "too_late", sentence: "This try-on is being made already and can no longer be cancelled." }],
  ["completed", 409, { error: "completed", sentence: "This try-on has ended already." }],
  ["failed", 409, { error: "failed", sentence: "This try-on has ended already." }],
  ["session_not_found", 404, { error: "session_not_found", sentence: ERRORS.session_not_found.sentence }],
]) {
  test(`a cancellation that the database answers with ${verdict} has status ${status}`, async () => {
    const { routes, supabase } = application({
      answers: [
        { data: { status: "queued", user_id: userId }, error: null, status: 200 },
        { data: { verdict, session_id: sessionId, given_back: true, refund: null }, error: null, status: 200 },
      ],
    });
    const answer = await routes.cancel(post({}), sessionId);
    assert.equal(answer.status, status);
    assert.deepEqual(await answer.json(), body);
    assert.deepEqual(supabase.calls, [{ name: "generation_cancel", parameters: { p_session_id: sessionId } }]);
  });
}

test("a body that is no JSON object is nobody's session", async () => {
  const { routes } = application();
  for (const body of ["", "[]", "null", "{"]) {
    const request = new Request("https://app.example/", { method: "POST", body });
    assert.equal((await routes.enqueue(request)).status, 404);
  }
});

test("a completed session is shown with a new link from the configured bucket", async () => {
  const row = { status: "completed", user_id: userId };
  const { routes, supabase } = application({
    answers: [
      { data: row, error: null, status: 200 },
      { data: { signedUrl: "https://x.example/signed" }, error: null },
    ],
  });
  assert.deepEqual(await (await routes.show(get(), sessionId)).json(), {
    status: "completed",
    url: "https://x.example/signed",
  });
  assert.equal(supabase.calls[0].bucket, "virtual-tryon-images");
});

test("the link to a result works for six hours, or for as long as the application says", async () => {
  for (const [linkSeconds, expected] of [
    [undefined, 21_600],
    [600, 600],
  ]) {
    const { routes, supabase } = application({
      answers: [
        { data: { status: "completed", user_id: userId }, error: null, status: 200 },
        { data: { signedUrl: "https://x.example/signed" }, error: null },
      ],
      linkSeconds,
    });
    await routes.show(get(), sessionId);
    assert.equal(supabase.calls[0].seconds, expected);
  }
});

test("a completed session whose picture is gone from Storage is an answer, not an error", async () => {
  const { routes } = application({
    answers: [
      { data: { status: "completed", user_id: userId }, error: null, status: 200 },
      { data: null, error: { message: "Object not found", status: 400 } },
    ],
  });
  const answer = await routes.show(get(), sessionId);
  assert.equal(answer.status, 404);
  assert.equal((await answer.json()).error, "result_not_found");
});

test("a bucket that is not there is the application's mistake, and no picture that is gone", async () => {
  const { routes } = application({
    answers: [
      { data: { status: "completed", user_id: userId }, error: null, status: 200 },
      { data: null, error: { message: "Bucket not found", status: 400 } },
    ],
  });
  await assert.rejects(routes.show(get(), sessionId), /Bucket not found/);
});

test("enqueue answers 503 while Redis is away", async () => {
  const { routes } = application({
    row: { status: "queued", user_id: userId },
    redis: () => ({ lpush: () => Promise.reject(new Error("Connection is closed.")) }),
  });
  assert.equal((await routes.enqueue(post({ sessionId, imageUrls }))).status, 503);
});

/** Lets everything go on that waits for nothing but its turn. */
async function everythingDone() {
  for (let turn = 0; turn < 50; turn += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

for (const [how, leave] of [
  ["hangs up", (answer, request) => request.abort()],
  ["cancels the stream", (answer) => answer.body.cancel()],
]) {
  test(`a client that ${how} without having read anything leaves no channel behind`, async () => {
    const { routes, supabase } = application({ row: { status: "queued", user_id: userId } });
    const request = new AbortController();
    const answer = await routes.events(new Request("https://app.example/", { signal: request.signal }), sessionId);
    await everythingDone();
    assert.equal(supabase.looks.length, 2, "for the owner, and to watch: what it says lies in the stream");
    await leave(answer, request);
    await everythingDone();
    assert.deepEqual(supabase.removed, supabase.channels.map(({ name }) => name));
  });
}

for (const [answer, place] of [
  [[12, 34_500], { before: 12, seconds: 34.5 }],
  [[12, -1], { before: 12, seconds: null }],
  [null, null],
  [new Error("Redis is away"), null],
]) {
  test(`a waiting session is shown with its place in line: ${JSON.stringify(place)}`, async () => {
    const asked = [];
    const run = async (...parameters) => {
      asked.push(parameters);
      if (answer instanceof Error) throw answer;
      return answer;
    };
    const { routes } = application({ row: { status: "queued", user_id: userId }, redis: () => ({ eval: run }) });
    assert.deepEqual(await (await routes.show(get(), sessionId)).json(), { status: "queued", place });
    assert.deepEqual(asked, [[PLACE_SCRIPT, 0, sessionId, `user:${userId}`]]);
  });
}

test("a failed session is shown with its code, its sentence and whether the credit came back", async () => {
  const { routes } = application({
    answers: [
      { data: { status: "failed", user_id: userId }, error: null, status: 200 },
      { data: { error_code: "rate_limited", given_back: true }, error: null, status: 200 },
    ],
  });
  const shown = await (await routes.show(get(), sessionId)).json();
  assert.deepEqual(
    [shown.status, shown.code, shown.retryable, shown.givenBack],
    ["failed", "rate_limited", true, true],
  );
  assert.match(shown.sentence, /\.$/);
});

test("a failed session with a code of newer services is shown with a sentence all the same", async () => {
  const { routes } = application({
    answers: [
      { data: { status: "failed", user_id: userId }, error: null, status: 200 },
      { data: { error_code: "brand_new", given_back: false }, error: null, status: 200 },
    ],
  });
  const { sentence, retryable } = ERRORS.internal_error;
  assert.deepEqual(await (await routes.show(get(), sessionId)).json(), {
    status: "failed",
    code: "brand_new",
    sentence,
    retryable,
    givenBack: false,
  });
});

/** Serves the event route as an application does; gives its address. */
async function serving(routes, use) {
  const server = createServer(async (request, response) => {
    const leaving = new AbortController();
    response.on("close", () => leaving.abort());
    const answer = await routes.events(new Request("http://app.example/", { signal: leaving.signal }), sessionId);
    response.writeHead(answer.status, Object.fromEntries(answer.headers));
    Readable.fromWeb(answer.body).on("error", () => {}).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await use(`http://127.0.0.1:${server.address().port}/`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test("the event stream tells every change, stays alive in between, and says when it ends", async () => {
  const { routes, supabase } = application({ row: { status: "queued", user_id: userId }, heartbeatMs: 5 });
  const answer = await routes.events(get(), sessionId);
  assert.equal(answer.headers.get("Content-Type"), "text/event-stream");
  assert.match(answer.headers.get("Cache-Control"), /no-cache/);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let completed = false;
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    text += chunk.value;
    if (!completed && text.includes('"queued"') && text.includes(": alive")) {
      completed = true;
      supabase.update({ status: "completed", generated_image_url: "https://x.example/signed" });
    }
  }
  assert.match(text, /data: \{.*"completed".*\}\n\nevent: end\ndata: \{\}\n\n$/s);
});

test("the browser's side follows a session to its end and then stops", async () => {
  const { routes, supabase } = application({ row: { status: "completed", user_id: userId } });
  await serving(routes, async (url) => {
    const seen = [];
    for await (const update of followTryOn(url, { signal: AbortSignal.timeout(20_000) })) {
      seen.push(update.status);
    }
    assert.deepEqual(seen, ["completed"]);
  });
  assert.equal(supabase.channels.length, supabase.removed.length);
});

test("the browser's side comes back when the stream breaks off before its end", async () => {
  const { routes, supabase } = application({ row: { status: "queued", user_id: userId } });
  let broken = 0;
  await serving(
    {
      events: async (request, id) => {
        const answer = await routes.events(request, id);
        if (broken > 0) {
          supabase.row = { ...supabase.row, status: "completed" };
          return answer;
        }
        broken += 1;
        const [first] = [answer.body.getReader()];
        const { value } = await first.read();
        await first.cancel();
        return new Response(value, { headers: answer.headers });
      },
    },
    async (url) => {
      const seen = [];
      for await (const update of followTryOn(url, { signal: AbortSignal.timeout(20_000), retryMs: 1 })) {
        seen.push(update.status);
      }
      assert.deepEqual(seen.at(-1), "completed");
      assert.equal(broken, 1);
    },
  );
});

test("the browser's side throws what the server refuses with", async () => {
  const { routes } = application({ caller: null });
  await serving(routes, async (url) => {
    await assert.rejects(followTryOn(url).next(), (error) => error.name === "FollowError" && error.status === 401);
  });
});

test("routes are made without an environment: nothing is called before a request", () => {
  const never = () => assert.fail("called while the module loads");
  createTryOnRoutes({ caller: never, redis: never, supabase: never, bucket: never });
});
