import assert from "node:assert/strict";
import { test } from "node:test";
import { getOutcome, resignResult, SupabaseError } from "@wearon/contracts";
import { FakeSupabase } from "./fake-supabase.js";

const sessionId = "0196F0A4-7C1E-7B3A-9D52-3F6A1C0E8B11";
const userId = "9B2E4C10-6F0D-4D1E-8C57-2F1A7E5D3C21";

function answering(...answers) {
  return Object.assign(new FakeSupabase(), { answers });
}

test("an outcome is what the database says", async () => {
  const outcome = { session_id: sessionId, error_code: "moderation_blocked", attempts: 1, given_back: true };
  const supabase = answering({ data: outcome, error: null, status: 200 });
  assert.deepEqual(await getOutcome(supabase, sessionId), outcome);
  assert.deepEqual(supabase.calls, [{ name: "generation_outcome", parameters: { p_session_id: sessionId } }]);
});

test("somebody else's session has no outcome", async () => {
  assert.equal(await getOutcome(answering({ data: null, error: null, status: 200 }), sessionId), null);
});

for (const [status, code, retryable] of [
  [404, "PGRST202", false],
  [503, "PGRST001", true],
  [0, "", true],
]) {
  test(`status ${status} is an error${retryable ? " that may pass" : ""}`, async () => {
    const supabase = answering({ data: null, error: { message: "no", code }, status });
    await assert.rejects(getOutcome(supabase, sessionId), (error) => {
      assert.ok(error instanceof SupabaseError);
      assert.deepEqual([error.code, error.status, error.retryable], [code, status, retryable]);
      return true;
    });
  });
}

test("a result is signed again at the path the services store it under", async () => {
  const supabase = answering({ data: { signedUrl: "https://x.example/signed" }, error: null });
  assert.equal(await resignResult(supabase, { channel: "b2c", userId, sessionId }), "https://x.example/signed");
  assert.deepEqual(supabase.calls, [
    { bucket: "images", path: `generated/${userId.toLowerCase()}/${sessionId.toLowerCase()}.jpg`, seconds: 21_600 },
  ]);
});

test("a store's result is the store's, in the bucket and for the time one asks for", async () => {
  const storeId = "c3a1f9d2-0b8e-4f6a-9d24-7e5b1c2a3f32";
  const supabase = answering({ data: { signedUrl: "https://x.example/signed" }, error: null });
  await resignResult(supabase, { channel: "b2b", storeId, sessionId }, { bucket: "virtual-tryon-images", seconds: 60 });
  assert.deepEqual(supabase.calls, [
    {
      bucket: "virtual-tryon-images",
      path: `stores/${storeId}/generated/${sessionId.toLowerCase()}.jpg`,
      seconds: 60,
    },
  ]);
});

test("no result is an error", async () => {
  const supabase = answering({ data: null, error: { message: "Object not found", status: 400 } });
  await assert.rejects(resignResult(supabase, { channel: "b2c", userId, sessionId }), {
    name: "SupabaseError",
    message: "Object not found",
    status: 400,
  });
});

for (const [what, session] of [
  ["session", { channel: "b2c", userId, sessionId: `../11111111-6f0d-4d1e-8c57-2f1a7e5d3c21/${sessionId}` }],
  ["user", { channel: "b2c", userId: "..", sessionId }],
  ["store", { channel: "b2b", storeId: `${userId}/../x`, sessionId }],
]) {
  test(`a ${what} id that leads to another path is signed nothing`, async () => {
    const supabase = answering({ data: { signedUrl: "https://x.example/signed" }, error: null });
    await assert.rejects(resignResult(supabase, session), { name: "SupabaseError", status: 404 });
    assert.deepEqual(supabase.calls, []);
  });
}
