// Compiled, never run: how an application uses the types, and what must not compile.
import {
  createSizingClient,
  createWebhookRoute,
  enqueueGeneration,
  ERRORS,
  cancelGeneration,
  getOutcome,
  getPlace,
  MAX_IMAGES,
  resignResult,
  SESSION_TRANSITIONS,
  SIZES,
  TASK_LIST,
  verifyWebhook,
  watchGeneration,
  type EstimateBodyRequest,
  type EstimateBodyResponse,
  type FunctionCaller,
  type GenerationTask,
  type LinkSigner,
  type ListPusher,
  type RowFollower,
  type ScriptRunner,
  type SessionStatus,
  type SessionUpdate,
  type SizingResult,
} from "@wearon/contracts";

export const task: GenerationTask = {
  task_id: "5f0c7d7e-2a44-4a5f-8a86-1b0f6f1f6a10",
  channel: "b2c",
  user_id: "9b2e4c10-6f0d-4d1e-8c57-2f1a7e5d3c21",
  store_id: null,
  session_id: "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11",
  image_urls: ["https://cdn.shop.example/person.jpg"],
  prompt: "",
  request_id: "req_1",
  created_at: "2026-11-23T21:00:00.123Z",
};

// @ts-expect-error a misspelt key
export const misspelt: GenerationTask = { ...task, imageUrls: [] };
// @ts-expect-error a channel nobody sells through
export const elsewhere: GenerationTask = { ...task, channel: "b2g" };
// @ts-expect-error a version that does not exist
export const newer: GenerationTask = { ...task, version: 2 };
// @ts-expect-error one address instead of a list
export const single: GenerationTask = { ...task, image_urls: "https://cdn.shop.example/person.jpg" };
// @ts-expect-error nothing but a channel
export const incomplete: GenerationTask = { channel: "b2c" };

export const list: "wearon:tasks:generation" = TASK_LIST;
export const most: 16 = MAX_IMAGES;
export const sentence: string = ERRORS.moderation_blocked.sentence;
// @ts-expect-error a code that does not exist
export const unknown = ERRORS.no_such_code;
// @ts-expect-error constants stay as they are
SIZES.push("M");

export const next = (status: SessionStatus): readonly SessionStatus[] => SESSION_TRANSITIONS[status];
export const shown = (update: SessionUpdate): string => update.error_message ?? update.status;
// @ts-expect-error a status that does not exist
export const done: SessionUpdate = { status: "done" };

export const request: EstimateBodyRequest = { image_url: "https://cdn.shop.example/me.jpg", height_cm: 175.5 };
// @ts-expect-error unknown keys are refused
export const wrong: EstimateBodyRequest = { ...request, height: 175.5 };

export const chest = (response: EstimateBodyResponse): number =>
  response.intervals.chest_cm?.upper ?? response.measurements.chest_cm;
// @ts-expect-error an interval may be missing
export const upper = (response: EstimateBodyResponse): number => response.intervals.chest_cm.upper;
// @ts-expect-error there is no such measurement
export const neck = (response: EstimateBodyResponse): number => response.measurements.neck_cm;

declare const scripts: ScriptRunner;
declare const redis: ListPusher;
declare const supabase: RowFollower & FunctionCaller & LinkSigner;
const common = { sessionId: task.session_id, imageUrls: task.image_urls, requestId: "req_1" };

export async function enqueue(): Promise<GenerationTask[]> {
  // @ts-expect-error a user's task without the user
  await enqueueGeneration(redis, { ...common, channel: "b2c" });
  // @ts-expect-error a store's task with a user instead
  await enqueueGeneration(redis, { ...common, channel: "b2b", userId: "u" });
  // @ts-expect-error keys of the message instead of those of the function
  await enqueueGeneration(redis, { ...common, channel: "b2c", user_id: "u" });
  // @ts-expect-error a date as text
  await enqueueGeneration(redis, { ...common, channel: "b2c", userId: "u", createdAt: "2026-11-23" });
  return [
    await enqueueGeneration(redis, { ...common, channel: "b2c", userId: "u" }),
    await enqueueGeneration(redis, { ...common, channel: "b2b", storeId: "s", prompt: "", createdAt: new Date() }),
  ];
}

export async function follow(signal: AbortSignal): Promise<string> {
  // @ts-expect-error no session
  watchGeneration(supabase, { channel: "b2c" });
  for await (const update of watchGeneration(supabase, { channel: "b2c", sessionId: "", signal })) {
    if (update.status === "completed") return update.generated_image_url ?? "";
    // @ts-expect-error a column of the row that is not told
    update.prompt_system;
  }
  const place = await getPlace(scripts, { channel: "b2c", userId: "u", sessionId: "" });
  // @ts-expect-error it may not wait
  place.before;
  // @ts-expect-error a place has an owner
  await getPlace(scripts, { sessionId: "" });
  const cancelled = await cancelGeneration(supabase, "");
  if (cancelled.verdict === "too_late") return "it is being made";
  // @ts-expect-error no such verdict
  if (cancelled.verdict === "perhaps") return "";
  const outcome = await getOutcome(supabase, "");
  // @ts-expect-error there may be no outcome
  outcome.attempts;
  if (outcome?.error_code) return ERRORS[outcome.error_code].sentence;
  // @ts-expect-error a store's result by a user
  await resignResult(supabase, { channel: "b2b", userId: "u", sessionId: "" });
  return resignResult(supabase, { channel: "b2b", storeId: "s", sessionId: "" }, { bucket: "images" });
}

export async function size(): Promise<string> {
  const client = createSizingClient("https://sizing.example", { apiKey: "k", timeoutMs: 4000 });
  // @ts-expect-error no height
  await client.estimateBody({ image_url: "" });
  // @ts-expect-error a photo where there is none
  await client.estimateWithoutPhoto({ height_cm: 170, image_url: "" });
  const check = await client.checkPhoto({ image_url: "", purpose: "try_on" });
  if (check.ok && !check.response.usable) return `${check.response.sentence} ${check.response.seen.body}`;
  // @ts-expect-error only of a refusal
  check.fallback;
  const chart = { rows: [{ label: "M", chest_cm: { lower: 96, upper: 104 } }] };
  const charted = await client.estimateBody({ ...request, size_chart: chart });
  if (charted.ok && charted.response.chart_size) return charted.response.chart_size.recommended;
  createSizingClient(undefined);
  const result: SizingResult = await client.estimateBody(request, { signal: AbortSignal.timeout(1) });
  // @ts-expect-error not before it is known to be there
  result.response;
  if (result.ok) return result.response.recommended_size;
  switch (result.code) {
    case "timeout":
    case "unreachable":
      return `${result.detail} ${result.retryAfterSeconds satisfies null}`;
    case "overloaded":
      return `${result.detail} ${result.status satisfies number}`;
    // @ts-expect-error a code that does not exist
    case "no_such_code":
      return "";
    default:
      return result.detail;
  }
}

export const webhooks: (request: Request) => Promise<Response> = createWebhookRoute({
  secret: () => ["whsec_b2xk", "whsec_bmV3"],
  handle: ({ event }) => console.log(event.data.code === "moderation_blocked", event.data.url),
});
export const webhookId: string = verifyWebhook("{}", { "webhook-id": "1" }, "whsec_bmV3").id;
// @ts-expect-error a secret is asked for at a request, not when the module is loaded
createWebhookRoute({ secret: "whsec_bmV3", handle: () => undefined });
