// Compiled, never run: how an application uses the types, and what must not compile.
import {
  ERRORS,
  MAX_IMAGES,
  SESSION_TRANSITIONS,
  SIZES,
  TASK_LIST,
  type EstimateBodyRequest,
  type EstimateBodyResponse,
  type GenerationTask,
  type SessionStatus,
  type SessionUpdate,
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
