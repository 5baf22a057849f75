import type { SessionUpdate } from "#contracts";

/** The server refused: nobody is signed in, or there is no such session for whoever is. */
export class FollowError extends Error {
  override readonly name = "FollowError";

  constructor(
    /** HTTP status. */
    readonly status: number,
  ) {
    super(`The event stream answered ${status}.`);
  }
}

export interface FollowOptions {
  /** Ends it: the iteration then throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Headers of the request, if the sign-in is not a cookie. */
  headers?: Record<string, string> | undefined;
  /** Milliseconds before a connection that broke is tried again; 2000 if absent. */
  retryMs?: number | undefined;
}

/**
 * In the browser: every change of a session, from the route that `createTryOnRoutes(…).events` serves.
 *
 * A connection that breaks is made again, so give a `signal` to wait no longer than you want.
 *
 * @throws {FollowError} when the server refuses; the signal's reason if aborted.
 */
export async function* followTryOn(
  url: string,
  { signal, headers = {}, retryMs = 2000 }: FollowOptions = {},
): AsyncGenerator<SessionUpdate, void, undefined> {
  for (;;) {
    try {
      for await (const { event, data } of serverSentEvents(url, headers, signal)) {
        if (event === "end") {
          return;
        }
        yield JSON.parse(data) as SessionUpdate;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof FollowError && error.status < 500) {
        throw error;
      }
    }
    signal?.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, retryMs));
  }
}

async function* serverSentEvents(
  url: string,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ event: string; data: string }, void, undefined> {
  const answer = await fetch(url, {
    headers: { Accept: "text/event-stream", ...headers },
    cache: "no-store",
    signal: signal ?? null,
  });
  if (!answer.ok || answer.body === null) {
    throw new FollowError(answer.status);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      const blocks = (text + chunk.value).split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const fields = new Map(block.split("\n").map((line) => splitField(line)));
        const data = fields.get("data");
        if (data !== undefined) {
          yield { event: fields.get("event") ?? "message", data };
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Name and value of one line; a comment has an empty name. */
function splitField(line: string): [string, string] {
  const colon = line.indexOf(":");
  return colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1).trimStart()];
}
