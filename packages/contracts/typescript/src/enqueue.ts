import { MAX_TASK_BYTES, TASK_LIST, TASK_VERSION, type GenerationTask } from "#contracts";
import { GENERATION_TASK_SCHEMA } from "#task-schema";
import { context, isSpanContextValid, trace } from "@opentelemetry/api";
import { Ajv2020, type ErrorObject, type ValidateFunction } from "ajv/dist/2020.js";
import { fullFormats } from "ajv-formats/dist/formats.js";
import type { SessionOwner } from "./owner.js";

/** What is needed of a Redis client; an ioredis client fits. */
export interface ListPusher {
  lpush(key: string, value: string): Promise<unknown>;
}

/** A try-on to make. Its session row exists and its credit has been deducted. */
export type NewGeneration = SessionOwner & {
  /** Primary key of the session row. */
  sessionId: string;
  /** First the person, then the garment, then accessories. */
  imageUrls: readonly string[];
  /** Without it the service's own default prompt is used. */
  prompt?: string | undefined;
  /** Correlation id; for b2b the one under which the credit was deducted. */
  requestId: string;
  /** Unique per enqueue; made up if absent. */
  taskId?: string | undefined;
  /** Now, if absent. */
  createdAt?: Date | undefined;
  /** The trace the try-on belongs to, as W3C Trace Context writes it; if absent, the active one of OpenTelemetry. */
  traceparent?: string | undefined;
};

/** One thing that is wrong with a task: the key it is about, empty for the task as a whole, and the rule. */
export interface TaskProblem {
  key: string;
  rule: string;
}

/** The task was not pushed, since no worker would take it. */
export class InvalidTaskError extends Error {
  override readonly name = "InvalidTaskError";

  constructor(readonly problems: readonly TaskProblem[]) {
    super(`Invalid generation task: ${problems.map(({ key, rule }) => `${key} ${rule}`.trim()).join("; ")}`);
  }
}

/**
 * Validates a task against its JSON Schema and pushes it to the queue.
 *
 * @returns the message as it was pushed.
 * @throws {InvalidTaskError} and nothing is pushed; also whatever the Redis client rejects with, after which
 *   the task may have been pushed or not. Pushing the same `taskId` again is safe.
 */
export async function enqueueGeneration(redis: ListPusher, generation: NewGeneration): Promise<GenerationTask> {
  const text = JSON.stringify(messageOf(generation));
  const message: unknown = JSON.parse(text);
  const problems = [...problemsOf(message), ...problemsOfText(text)];
  if (problems.length > 0) {
    throw new InvalidTaskError(problems);
  }
  await redis.lpush(TASK_LIST, text);
  return message as GenerationTask;
}

function messageOf(generation: NewGeneration): unknown {
  return {
    task_id: generation.taskId ?? crypto.randomUUID(),
    channel: generation.channel,
    user_id: generation.userId,
    store_id: generation.storeId,
    session_id: generation.sessionId,
    image_urls: generation.imageUrls,
    prompt: generation.prompt ?? "",
    request_id: generation.requestId,
    version: TASK_VERSION,
    created_at: generation.createdAt ?? new Date(),
    traceparent: generation.traceparent ?? activeTraceparent(),
  };
}

/** undefined where the app traces nothing. */
function activeTraceparent(): string | undefined {
  const active = trace.getSpanContext(context.active());
  if (active === undefined || !isSpanContextValid(active)) return undefined;
  return `00-${active.traceId}-${active.spanId}-${active.traceFlags.toString(16).padStart(2, "0")}`;
}

let validate: ValidateFunction | undefined;

function problemsOf(message: unknown): TaskProblem[] {
  // Compiled once, when it is needed: most programs that load this package never enqueue.
  validate ??= new Ajv2020({ allErrors: true })
    .addFormat("date-time", fullFormats["date-time"])
    .compile(GENERATION_TASK_SCHEMA);
  return validate(message) ? [] : (validate.errors ?? []).filter(({ keyword }) => keyword !== "if").map(problemOf);
}

function problemOf(error: ErrorObject): TaskProblem {
  const missing = error.keyword === "required" ? (error.params as { missingProperty: string }).missingProperty : null;
  return missing === null
    ? { key: error.instancePath.slice(1).replaceAll("/", "."), rule: error.message ?? error.keyword }
    : { key: missing, rule: "is required" };
}

function problemsOfText(text: string): TaskProblem[] {
  const problems: TaskProblem[] = [];
  if (new TextEncoder().encode(text).length > MAX_TASK_BYTES) {
    problems.push({ key: "", rule: `must not be larger than ${MAX_TASK_BYTES} bytes` });
  }
  // A half surrogate pair, which JSON.stringify escapes and PostgreSQL refuses; JSON Schema cannot name it.
  JSON.parse(text, (key, value: unknown) => {
    if (typeof value === "string" && !value.isWellFormed()) {
      problems.push({ key, rule: "must be well-formed Unicode" });
    }
    return value;
  });
  return problems;
}
