import assert from "node:assert/strict";
import { test } from "node:test";
import { SupabaseError, watchGeneration } from "@wearon/contracts";
import { FakeSupabase } from "./fake-supabase.js";

const sessionId = "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11";
const QUEUED = { status: "queued", generated_image_url: null, error_message: null };
const UNREACHABLE = { data: null, error: { message: "TypeError: fetch failed", code: "" }, status: 0 };

/** A watch whose polls hardly wait, on a session that is queued. */
function start(options = {}) {
  const supabase = new FakeSupabase();
  supabase.row = QUEUED;
  const watch = watchGeneration(supabase, { channel: "b2c", sessionId, pollMs: 1, checkMs: 60_000, ...options });
  return { supabase, watch, status: async () => (await watch.next()).value?.status };
}

/** The same, once Realtime works and the first look is over. */
async function startLive(options = {}) {
  const started = start(options);
  assert.equal(await started.status(), "queued");
  started.supabase.channels[0].report("SUBSCRIBED");
  return started;
}

test("a session is followed to its end through Realtime", async () => {
  const { supabase, watch, status } = await startLive();
  const next = status();
  supabase.update({ status: "processing" });
  assert.equal(await next, "processing");
  supabase.update({ status: "completed", generated_image_url: "https://x.example/y", processing_time_ms: 20_000 });
  const { value } = await watch.next();
  assert.equal(value.generated_image_url, "https://x.example/y");
  assert.equal(value.processing_time_ms, 20_000);
  assert.deepEqual(await watch.next(), { value: undefined, done: true });
  assert.deepEqual(supabase.removed, [supabase.channels[0].name]);
});

test("it asks for that row alone, and only for what tells how it goes", async () => {
  const { supabase, watch, status } = start({ channel: "b2b" });
  await status();
  await watch.return();
  const [channel] = supabase.channels;
  assert.equal(channel.type, "postgres_changes");
  assert.deepEqual(channel.filter, {
    event: "UPDATE",
    schema: "public",
    table: "store_generation_sessions",
    filter: `id=eq.${sessionId}`,
  });
  const [look] = supabase.looks;
  assert.equal(look.table, "store_generation_sessions");
  assert.deepEqual([look.column, look.value], ["id", sessionId]);
  assert.ok(look.columns.includes("status") && !look.columns.includes("prompt_system"));
});

test("while Realtime is away the row is looked at", async () => {
  const { supabase, status } = start();
  assert.equal(await status(), "queued");
  supabase.channels[0].report("CHANNEL_ERROR");
  supabase.row = { ...QUEUED, status: "processing" };
  assert.equal(await status(), "processing");
  supabase.row = { ...QUEUED, status: "failed", error_message: "No." };
  assert.equal(await status(), "failed");
  assert.ok(supabase.looks.length >= 3);
});

test("what happened while Realtime came up is not missed", async () => {
  const { supabase, status } = start({ pollMs: 60_000 });
  assert.equal(await status(), "queued");
  supabase.row = { ...QUEUED, status: "completed" }; // and nobody told
  const next = status();
  supabase.channels[0].report("SUBSCRIBED");
  assert.equal(await next, "completed");
});

test("what happened during a look is not missed when Realtime comes up meanwhile", async () => {
  const { supabase, status } = start({ pollMs: 60_000 });
  supabase.whenLookedAt = async () => {
    supabase.whenLookedAt = async () => {};
    supabase.row = { ...QUEUED, status: "completed" };
    supabase.channels[0].report("SUBSCRIBED");
  };
  assert.equal(await status(), "queued");
  assert.equal(await status(), "completed");
});

test("a look that an update overtook is forgotten: a status never seems to go back", async () => {
  const { supabase, status } = start();
  supabase.whenLookedAt = async () => {
    supabase.whenLookedAt = async () => {};
    supabase.update({ status: "processing" });
  };
  assert.equal(await status(), "processing");
  supabase.update({ status: "completed" });
  assert.equal(await status(), "completed");
});

test("an update that Realtime lost is found by looking now and then", async () => {
  const { supabase, status } = await startLive({ checkMs: 1 });
  supabase.row = { ...QUEUED, status: "completed" };
  assert.equal(await status(), "completed");
});

test("nothing is told twice", async () => {
  const { supabase, status } = await startLive();
  supabase.update({ status: "processing" });
  supabase.update({ status: "processing", credits_used: 1 });
  supabase.update({ status: "completed" });
  assert.equal(await status(), "processing");
  assert.equal(await status(), "completed");
});

test("a step back to wait for a rate limit is told", async () => {
  const { supabase, status } = await startLive();
  for (const step of ["processing", "queued", "processing"]) supabase.update({ status: step });
  assert.deepEqual([await status(), await status(), await status()], ["processing", "queued", "processing"]);
});

test("columns that Realtime leaves out keep their values", async () => {
  const { supabase, watch } = await startLive();
  supabase.update({ status: "processing", input_tokens: 7 });
  await watch.next();
  supabase.channels[0].update({ new: { status: "completed" } });
  const { value } = await watch.next();
  assert.deepEqual([value.status, value.input_tokens], ["completed", 7]);
});

test("a session that has ended is told once", async () => {
  const { supabase, watch } = start();
  supabase.row = { ...QUEUED, status: "failed" };
  const told = [];
  for await (const { status } of watch) told.push(status);
  assert.deepEqual(told, ["failed"]);
});

test("a network that is away is waited for", async () => {
  const { supabase, status } = start();
  supabase.answers = [UNREACHABLE, { ...UNREACHABLE, status: 503 }];
  assert.equal(await status(), "queued");
  assert.equal(supabase.looks.length, 3);
});

for (const [name, answer, code] of [
  ["a session nobody knows", { data: null, error: null, status: 200 }, "session_not_found"],
  ["an expired login", { data: null, error: { message: "JWT expired", code: "PGRST303" }, status: 401 }, "PGRST303"],
]) {
  test(`${name} ends the watch`, async () => {
    const { supabase, watch } = start();
    supabase.answers = [answer];
    await assert.rejects(watch.next(), (error) => error instanceof SupabaseError && error.code === code);
    assert.equal(supabase.removed.length, 1);
  });
}

test("an abort ends the watch whatever it is waiting for", async () => {
  for (const waiting of ["for news", "for a look"]) {
    const caller = new AbortController();
    const { supabase, watch, status } = start({ signal: caller.signal, pollMs: 60_000 });
    if (waiting === "for news") {
      await status();
    } else {
      supabase.whenLookedAt = () => new Promise(() => {});
    }
    const next = watch.next();
    const reason = new Error(`tired of waiting ${waiting}`);
    caller.abort(reason);
    await assert.rejects(next, reason);
    assert.equal(supabase.removed.length, 1);
  }
});

test("a watch that was aborted before it began asks nothing", async () => {
  const { supabase, watch } = start({ signal: AbortSignal.abort() });
  await assert.rejects(watch.next(), { name: "AbortError" });
  assert.deepEqual([supabase.looks, supabase.channels], [[], []]);
});

test("leaving the loop ends the subscription, and two watches have two", async () => {
  const { supabase, watch } = start();
  const other = watchGeneration(supabase, { channel: "b2c", sessionId, pollMs: 1 });
  await other.next();
  for await (const _ of watch) break;
  assert.equal(new Set(supabase.channels.map((channel) => channel.name)).size, 2);
  assert.deepEqual(supabase.removed, [supabase.channels[1].name]);
  await other.return();
});
