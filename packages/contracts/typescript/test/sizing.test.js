import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { createSizingClient } from "@wearon/contracts";

const REQUEST = { image_url: "https://cdn.shop.example/me.jpg", height_cm: 175.5 };
const RESPONSE = { recommended_size: "M", measurements: { chest_cm: 98 }, confidence: 0.7 };

// Stands for the service and for whatever may stand before it; `answer` is set by each test.
let answer;
let seen;
const server = createServer(async (request, response) => {
  const chunks = await request.toArray();
  seen = { path: request.url, headers: request.headers, body: JSON.parse(Buffer.concat(chunks)) };
  answer(response);
});
let base;

before(async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  base = `http://127.0.0.1:${server.address().port}`;
});

after(() => {
  server.closeAllConnections();
  server.close();
});

function json(status, body, headers = {}) {
  return (response) => {
    response.writeHead(status, { "Content-Type": "application/json", ...headers });
    response.end(JSON.stringify(body));
  };
}

test("a size comes with the request as it was asked", async () => {
  answer = json(200, RESPONSE, { "X-Request-Id": "req_7" });
  const client = createSizingClient(`${base}/`, { apiKey: "key-1" });
  const result = await client.estimateBody(REQUEST, { requestId: "req_7" });
  assert.deepEqual(result, { ok: true, requestId: "req_7", response: RESPONSE });
  assert.equal(seen.path, "/estimate-body");
  assert.deepEqual(seen.body, REQUEST);
  assert.equal(seen.headers["x-request-id"], "req_7");
  assert.equal(seen.headers["x-api-key"], "key-1");
});

test("without a key none is sent, and the service's request id is told", async () => {
  answer = json(200, RESPONSE, { "X-Request-Id": "made-up" });
  const result = await createSizingClient(base).estimateBody(REQUEST);
  assert.equal(result.requestId, "made-up");
  assert.ok(!("x-api-key" in seen.headers) && !("x-request-id" in seen.headers));
});

test("a refused photo says what to change, and that the same one will not do", async () => {
  const detail = "Your feet are cut off. Please step back until they are in the photo.";
  answer = json(422, { detail, code: "feet_outside_frame", request_id: "r" });
  const result = await createSizingClient(base).estimateBody(REQUEST);
  assert.deepEqual(
    [result.ok, result.code, result.status, result.detail, result.retryable],
    [false, "feet_outside_frame", 422, detail, false],
  );
});

test("a refused photo brings the size that can be told without it", async () => {
  answer = json(422, { detail: "No.", code: "blurred", request_id: "r", fallback: RESPONSE });
  assert.deepEqual((await createSizingClient(base).estimateBody(REQUEST)).fallback, RESPONSE);
  answer = json(422, { detail: "No.", code: "request_invalid", request_id: "r" });
  assert.equal((await createSizingClient(base).estimateBody(REQUEST)).fallback, null);
});

test("a size without a photo is asked for at its own path", async () => {
  answer = json(200, RESPONSE, { "X-Request-Id": "r" });
  const result = await createSizingClient(base).estimateWithoutPhoto({ height_cm: 175, weight_kg: 70 });
  assert.deepEqual(result, { ok: true, requestId: "r", response: RESPONSE });
  assert.equal(seen.path, "/estimate-without-photo");
  assert.deepEqual(seen.body, { height_cm: 175, weight_kg: 70 });
});

test("a photo is checked at its own path, and an unusable one is an answer", async () => {
  const check = { usable: false, code: "several_people", sentence: "More than one.", seen: { people: 2 } };
  answer = json(200, check);
  const request = { image_url: "https://cdn.shop.example/us.jpg", purpose: "try_on" };
  const result = await createSizingClient(base).checkPhoto(request);
  assert.deepEqual([result.ok, result.response], [true, check]);
  assert.equal(seen.path, "/check-photo");
  assert.deepEqual(seen.body, request);
  answer = json(200, RESPONSE);
  assert.equal((await createSizingClient(base).checkPhoto(request)).code, "unexpected_answer");
});

for (const nothing of [undefined, ""]) {
  test(`a client made with ${JSON.stringify(nothing)} as its base URL answers that it is not configured`, async () => {
    const client = createSizingClient(nothing);
    const result = await client.estimateBody(REQUEST, { requestId: "req_8" });
    assert.deepEqual([result.ok, result.code, result.status, result.requestId], [false, "not_configured", null, "req_8"]);
    assert.match(result.detail, /^Sizing is not available/);
  });
}

test("a service with too much to do says when to come back", async () => {
  answer = json(503, { detail: "Many people.", code: "overloaded", request_id: "r" }, { "Retry-After": "2" });
  const result = await createSizingClient(base).estimateBody(REQUEST);
  assert.deepEqual([result.code, result.retryable, result.retryAfterSeconds], ["overloaded", true, 2]);
});

for (const [status, retryable] of [
  [422, false],
  [500, true],
]) {
  test(`a code of a newer service is handed on and judged by its status ${status}`, async () => {
    answer = json(status, { detail: "New.", code: "brand_new", request_id: "r" });
    const result = await createSizingClient(base).estimateBody(REQUEST);
    assert.deepEqual([result.code, result.retryable], ["brand_new", retryable]);
  });
}

for (const [name, status, body] of [
  ["an HTML page of a proxy", 502, "<html>Bad Gateway</html>"],
  ["JSON that is not the service's", 503, '{"message":"no healthy upstream"}'],
  ["an empty answer", 200, ""],
  ["a number", 200, "7"],
  ["null", 500, "null"],
]) {
  test(`${name} is an unexpected answer`, async () => {
    answer = (response) => response.writeHead(status).end(body);
    const result = await createSizingClient(base).estimateBody(REQUEST);
    assert.deepEqual([result.ok, result.code, result.status], [false, "unexpected_answer", status]);
    assert.match(result.detail, /^Sizing is not available/);
  });
}

for (const [name, late] of [
  ["no answer", () => {}],
  ["half an answer", (response) => response.writeHead(200).write("{")],
]) {
  test(`${name} in time is a timeout`, async () => {
    answer = late;
    const result = await createSizingClient(base, { timeoutMs: 50 }).estimateBody(REQUEST);
    assert.deepEqual([result.ok, result.code, result.retryable], [false, "timeout", true]);
  });
}

test("a key that the service does not take is the shop's affair, and no word about the photo", async () => {
  answer = json(401, { detail: "A valid API key is needed.", code: "unauthorized", request_id: "r" });
  const result = await createSizingClient(base, { apiKey: "old" }).checkPhoto({ image_url: REQUEST.image_url, purpose: "try_on" });
  assert.deepEqual([result.ok, result.code, result.status, result.retryable], [false, "unauthorized", 401, true]);
  assert.doesNotMatch(result.detail, /key/);
});

test("a redirect is not followed: neither key nor photo's link go to another host", async (t) => {
  let stolen = 0;
  const other = createServer((_, response) => {
    stolen += 1;
    response.end("{}");
  });
  t.after(() => {
    other.closeAllConnections();
    other.close();
  });
  other.listen(0, "127.0.0.1");
  await once(other, "listening");
  for (const status of [301, 307, 308]) {
    answer = json(status, {}, { Location: `http://127.0.0.1:${other.address().port}/estimate-body` });
    const result = await createSizingClient(base, { apiKey: "key-1" }).estimateBody(REQUEST);
    assert.deepEqual([result.code, result.status], ["unexpected_answer", status]);
  }
  assert.equal(stolen, 0);
});

test("a request id that no header can carry is left out", async () => {
  answer = json(200, RESPONSE);
  for (const requestId of ["заказ-7", "a\nb", ""]) {
    const result = await createSizingClient(base).estimateBody(REQUEST, { requestId });
    assert.equal(result.ok, true);
    assert.ok(!("x-request-id" in seen.headers));
  }
});

test("nobody there is unreachable", async () => {
  const gone = createServer().listen(0, "127.0.0.1");
  await once(gone, "listening");
  const { port } = gone.address();
  gone.close();
  await once(gone, "close");
  const result = await createSizingClient(`http://127.0.0.1:${port}`).estimateBody(REQUEST);
  assert.deepEqual([result.ok, result.code, result.status], [false, "unreachable", null]);
});

test("an aborted call rejects with the reason", async () => {
  const shopper = new AbortController();
  const reason = new Error("the shopper went away");
  answer = () => shopper.abort(reason);
  await assert.rejects(createSizingClient(base).estimateBody(REQUEST, { signal: shopper.signal }), reason);
});
