// Whether a webhook is who it says, as the reference library signs it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Webhook } from "standardwebhooks";
import { createWebhookRoute, verifyWebhook, WebhookError } from "../dist/esm/index.js";

const secret = `whsec_${Buffer.from("0123456789abcdef0123456789abcdef").toString("base64")}`;
const other = `whsec_${Buffer.from("another secret of as many bytes.").toString("base64")}`;
const event = {
  type: "generation.completed",
  timestamp: "2026-11-23T21:00:42.123456+00:00",
  data: {
    session_id: "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11",
    channel: "b2c",
    user_id: "11111111-1111-4111-8111-111111111111",
    store_id: null,
    request_id: "req-ü",
    code: null,
    attempts: 1,
    given_back: false,
    url: "https://x.example/signed",
  },
};
const body = JSON.stringify(event);

/** The headers with which `body` was sent so many seconds ago, signed with each of the keys. */
function headersOf(keys, { id = "msg-1", seconds = 0 } = {}) {
  const sent = new Date(Date.now() - seconds * 1000);
  return {
    "Webhook-Id": id,
    "Webhook-Timestamp": String(Math.floor(sent / 1000)),
    "Webhook-Signature": keys.map((key) => new Webhook(key).sign(id, sent, body)).join(" "),
  };
}

test("a webhook that was signed with the secret is given back with its id", () => {
  for (const headers of [headersOf([secret]), new Headers(headersOf([secret]))]) {
    assert.deepEqual(verifyWebhook(body, headers, secret), { id: "msg-1", event });
  }
});

test("while a secret is replaced either side may know both", () => {
  assert.equal(verifyWebhook(body, headersOf([other, secret]), secret).id, "msg-1");
  assert.equal(verifyWebhook(body, headersOf([secret]), [other, secret]).id, "msg-1");
});

for (const [what, text, headers, key] of [
  ["another secret", body, headersOf([secret]), other],
  ["a changed body", body.replace("b2c", "b2b"), headersOf([secret]), secret],
  ["another id", body, { ...headersOf([secret]), "Webhook-Id": "msg-2" }, secret],
  ["an age of six minutes", body, headersOf([secret], { seconds: 360 }), secret],
  ["a time to come", body, headersOf([secret], { seconds: -360 }), secret],
  ["a signature of another kind", body, { ...headersOf([secret]), "Webhook-Signature": "v1a,AAAA" }, secret],
  ["a signature that is none", body, { ...headersOf([secret]), "Webhook-Signature": "v1" }, secret],
  ["no headers", body, {}, secret],
  ["no secret to check by", body, headersOf([secret]), []],
]) {
  test(`a webhook with ${what} is refused`, () => {
    assert.throws(() => verifyWebhook(text, headers, key), WebhookError);
  });
}

const post = (headers, text = body) => new Request("https://shop.example/hook", { method: "POST", headers, body: text });

test("the route hands a verified webhook on and answers 204", async () => {
  const handled = [];
  const route = createWebhookRoute({ secret: () => secret, handle: (webhook) => void handled.push(webhook) });
  const answer = await route(post(headersOf([secret])));
  assert.deepEqual([answer.status, handled], [204, [{ id: "msg-1", event }]]);
});

test("the route answers 401 to what was not signed, and hands nothing on", async () => {
  const route = createWebhookRoute({ secret: () => secret, handle: () => assert.fail("handed on") });
  for (const request of [post({}), post(headersOf([other])), post(headersOf([secret]), "{}")]) {
    const answer = await route(request);
    assert.deepEqual([answer.status, (await answer.json()).error], [401, "invalid_signature"]);
  }
});

test("what the handler throws is not an answer of 2xx, so that the event comes again", async () => {
  const route = createWebhookRoute({
    secret: () => secret,
    handle: async () => {
      throw new Error("the shop's database is away");
    },
  });
  await assert.rejects(route(post(headersOf([secret]))), /away/);
});

test("a secret that is none is the application's mistake, not the sender's", async () => {
  assert.throws(() => verifyWebhook(body, headersOf([secret]), "whsec_"), (error) => !(error instanceof WebhookError));
});

test("the route is made without an environment: nothing is called before a request", () => {
  const never = () => assert.fail("called while the module loads");
  createWebhookRoute({ secret: never, handle: never });
});
