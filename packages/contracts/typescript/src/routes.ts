import { ERRORS, SESSION_TABLES, SETTLED_STATUSES, type ErrorCode, type SessionStatus } from "#contracts";
import { cancelGeneration } from "./cancel.js";
import { enqueueGeneration, InvalidTaskError, type ListPusher } from "./enqueue.js";
import { getOutcome } from "./outcome.js";
import type { SessionOwner } from "./owner.js";
import { getPlace, type ScriptRunner } from "./place.js";
import { resignResult, UUID, type LinkSigner } from "./result.js";
import { readRow, SupabaseError, type FunctionCaller } from "./supabase.js";
import { watchGeneration, type RowFollower } from "./watch.js";

/** How the routes reach what they need. Each is called at a request, never when the module is loaded. */
export interface TryOnRoutesOptions {
  /** Who sends the request, as your own sign-in says; null when nobody is signed in. */
  caller(request: Request): SessionOwner | null | Promise<SessionOwner | null>;
  /** An ioredis client of the queue. */
  redis(): ListPusher & ScriptRunner;
  /** A Supabase client with the service-role key; it must never reach a browser. */
  supabase(): RowFollower & FunctionCaller & LinkSigner;
  /** The bucket the services store results in: their STORAGE_BUCKET. */
  bucket(): string;
  /** Seconds for which the link of `show` works, as the services' SIGNED_URL_TTL_SECONDS; six hours if absent. */
  linkSeconds?: number | undefined;
  /** Milliseconds between two signs of life of a quiet event stream; 15000 if absent. */
  heartbeatMs?: number | undefined;
}

/** Handlers that answer 401 to nobody, and 404 for a session that is somebody else's, as for one that is not. */
export interface TryOnRoutes {
  /** POST `{sessionId, imageUrls, prompt?}`: pushes the caller's own queued session. 202 `{taskId}`. */
  enqueue(request: Request): Promise<Response>;
  /** POST: cancels the session. 200 `{givenBack}`; 409 once it is being made, or has ended. */
  cancel(request: Request, sessionId: string): Promise<Response>;
  /** GET: server-sent events, one for each change of the session, then one named `end`. */
  events(request: Request, sessionId: string): Promise<Response>;
  /** GET: `{status}`, with `place` while it waits, `url` when completed (404 if the picture is gone), with `code`, `sentence`, `retryable`, `givenBack` when failed. */
  show(request: Request, sessionId: string): Promise<Response>;
}

interface OwnSession {
  owner: SessionOwner;
  status: SessionStatus;
  requestId: string | null;
}

const HEARTBEAT_MS = 15_000; // proxies close a connection that was silent for 30 to 60 s
// An ioredis client waits for a Redis that is away for a minute and more, and for one that is silent for ever.
const PLACE_MS = 1000;
const PUSH_MS = 3000;
const NO_OBJECT = "Object not found"; // Storage's words; a bucket that is not there has others
const NOT_STARTED: readonly SessionStatus[] = ["queued", "pending"]; // the same, the second an old word

/** Route handlers for an application's server, as `app/api/…/route.ts` of Next.js exports them. */
export function createTryOnRoutes(options: TryOnRoutesOptions): TryOnRoutes {
  async function ownSession(request: Request, sessionId: unknown): Promise<OwnSession | Response> {
    const owner = await options.caller(request);
    if (owner === null) {
      return refusal(401, "unauthorized", "Please sign in.");
    }
    const ownerColumn = owner.channel === "b2c" ? "user_id" : "store_id";
    const columns = owner.channel === "b2c" ? "status,user_id" : "status,store_id,request_id";
    const row =
      typeof sessionId === "string" && UUID.test(sessionId)
        ? ((await readRow(options.supabase(), SESSION_TABLES[owner.channel], columns, sessionId)) as Record<string, string> | null)
        : null;
    const ownerId = owner.channel === "b2c" ? owner.userId : owner.storeId;
    if (row === null || row[ownerColumn]?.toLowerCase() !== ownerId.toLowerCase()) {
      return refusal(404, "session_not_found", ERRORS.session_not_found.sentence);
    }
    return { owner, status: row["status"] as SessionStatus, requestId: row["request_id"] ?? null };
  }

  async function enqueue(request: Request): Promise<Response> {
    const body = await bodyOf(request);
    const session = await ownSession(request, body?.["sessionId"]);
    if (session instanceof Response) {
      return session;
    }
    if (!NOT_STARTED.includes(session.status)) {
      return refusal(409, "already_started", "This try-on was started already.");
    }
    try {
      const task = await within(PUSH_MS, () =>
        enqueueGeneration(options.redis(), {
          ...session.owner,
          sessionId: body?.["sessionId"] as string,
          imageUrls: body?.["imageUrls"] as string[],
          prompt: body?.["prompt"] as string | undefined,
          // A store's credit was deducted under the session's request_id, and is given back under it.
          requestId: session.requestId ?? crypto.randomUUID(),
        }),
      );
      return Response.json({ taskId: task.task_id }, { status: 202 });
    } catch (error) {
      if (error instanceof InvalidTaskError) {
        return Response.json({ error: "invalid_task", problems: error.problems }, { status: 400 });
      }
      return unavailable(); // Redis is away; whether the task was pushed or not, it may be pushed again
    }
  }

  async function cancel(request: Request, sessionId: string): Promise<Response> {
    const session = await ownSession(request, sessionId);
    if (session instanceof Response) {
      return session;
    }
    const answer = await cancelGeneration(options.supabase(), sessionId);
    switch (answer.verdict) {
      case "cancelled":
      case "already_cancelled":
        return Response.json({ givenBack: answer.given_back });
      case "session_not_found":
        return refusal(404, "session_not_found", ERRORS.session_not_found.sentence);
      case "too_late":
        return refusal(409, "too_late", "This try-on is being made already and can no longer be cancelled.");
      case "completed":
      case "failed":
        return refusal(409, answer.verdict, "This try-on has ended already.");
    }
  }

  async function events(request: Request, sessionId: string): Promise<Response> {
    const session = await ownSession(request, sessionId);
    if (session instanceof Response) {
      return session;
    }
    const left = new AbortController();
    const signal = AbortSignal.any([request.signal, left.signal]);
    const updates = watchGeneration(options.supabase(), { channel: session.owner.channel, sessionId, signal });
    const bytes = new TextEncoder();
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        const heartbeat = setInterval(() => controller.enqueue(bytes.encode(": alive\n\n")), options.heartbeatMs ?? HEARTBEAT_MS);
        const leave = () => {
          clearInterval(heartbeat);
          // Who leaves without having read what is there asks for no more, which is what else would end the watch.
          updates.return().catch(() => {});
        };
        left.signal.addEventListener("abort", leave, { once: true });
        request.signal.addEventListener("abort", () => left.abort(), { once: true });
      },
      async pull(controller) {
        const next = await updates.next().catch(() => null);
        if (next !== null && !next.done) {
          controller.enqueue(bytes.encode(`data: ${JSON.stringify(next.value)}\n\n`));
          return;
        }
        const ended = next !== null && !signal.aborted;
        left.abort();
        // Without the `end`, the browser's side comes back: Supabase was away, or refused.
        if (ended) {
          controller.enqueue(bytes.encode("event: end\ndata: {}\n\n"));
        }
        controller.close();
      },
      cancel() {
        left.abort();
      },
    });
    return new Response(stream, {
      headers: {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
      },
    });
  }

  async function show(request: Request, sessionId: string): Promise<Response> {
    const session = await ownSession(request, sessionId);
    if (session instanceof Response) {
      return session;
    }
    if (!SETTLED_STATUSES.includes(session.status)) {
      // Without Redis the place is unknown, and all else is as true as before.
      const asked = within(PLACE_MS, () => getPlace(options.redis(), { ...session.owner, sessionId }));
      const place = await asked.catch(() => null);
      return Response.json({ status: session.status, place });
    }
    if (session.status === "completed") {
      try {
        const link = { bucket: options.bucket(), seconds: options.linkSeconds };
        const url = await resignResult(options.supabase(), { ...session.owner, sessionId }, link);
        return Response.json({ status: session.status, url });
      } catch (error) {
        if (error instanceof SupabaseError && error.message === NO_OBJECT) {
          return refusal(404, "result_not_found", "The picture of this try-on is no longer stored.");
        }
        throw error;
      }
    }
    const outcome = await getOutcome(options.supabase(), sessionId);
    const code: ErrorCode = outcome?.error_code ?? "internal_error";
    // A code of newer services is not in this package's table.
    const { sentence, retryable } = ERRORS[code] ?? ERRORS.internal_error;
    return Response.json({ status: session.status, code, sentence, retryable, givenBack: outcome?.given_back ?? false });
  }

  return {
    enqueue: answering(enqueue),
    cancel: answering(cancel),
    events: answering(events),
    show: answering(show),
  };
}

/** The same handler, but Supabase being away is an answer. */
function answering<Rest extends unknown[]>(
  handler: (request: Request, ...rest: Rest) => Promise<Response>,
): (request: Request, ...rest: Rest) => Promise<Response> {
  return async (request, ...rest) => {
    try {
      return await handler(request, ...rest);
    } catch (error) {
      if (error instanceof SupabaseError && error.retryable) {
        return unavailable();
      }
      throw error;
    }
  };
}

/** What `work` comes to, if it does in time. @throws whatever `work` throws, and Error when the time is over. */
async function within<Result>(milliseconds: number, work: () => Promise<Result>): Promise<Result> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${milliseconds} ms`)), milliseconds);
  });
  try {
    return await Promise.race([work(), late]);
  } finally {
    clearTimeout(timer);
  }
}

function unavailable(): Response {
  return refusal(503, "unavailable", "This is not available right now. Please try again in a moment.");
}

async function bodyOf(request: Request): Promise<Record<string, unknown> | null> {
  try {
    const body: unknown = await request.json();
    return typeof body === "object" && body !== null && !Array.isArray(body) ? (body as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

function refusal(status: number, error: string, sentence: string): Response {
  return Response.json({ error, sentence }, { status });
}
