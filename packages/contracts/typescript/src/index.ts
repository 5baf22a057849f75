export * from "#contracts";
export { cancelGeneration } from "./cancel.js";
export {
  enqueueGeneration,
  InvalidTaskError,
  type ListPusher,
  type NewGeneration,
  type TaskProblem,
} from "./enqueue.js";
export { FollowError, followTryOn, type FollowOptions } from "./follow.js";
export { getOutcome } from "./outcome.js";
export type { SessionOwner } from "./owner.js";
export { getPlace, type Place, type ScriptRunner } from "./place.js";
export { resignResult, resultPath, type LinkSigner, type ResignOptions } from "./result.js";
export { createTryOnRoutes, type TryOnRoutes, type TryOnRoutesOptions } from "./routes.js";
export {
  createSizingClient,
  type Answered,
  type PhotoCheckResult,
  type Refused,
  type Sized,
  type SizingCallOptions,
  type SizingClient,
  type SizingClientOptions,
  type SizingResult,
  type Unanswered,
} from "./sizing.js";
export { SupabaseError, type FunctionCaller, type TableReader } from "./supabase.js";
export { watchGeneration, type RowChannel, type RowFollower, type WatchOptions } from "./watch.js";
export {
  createWebhookRoute,
  verifyWebhook,
  WebhookError,
  type VerifiedWebhook,
  type WebhookRouteOptions,
} from "./webhooks.js";
