import { SESSION_TABLES, SESSION_UPDATE_COLUMNS, SETTLED_STATUSES, type Channel, type SessionUpdate } from "#contracts";
import { readRow, SupabaseError, type TableReader } from "./supabase.js";

/** What is needed of a channel of Supabase Realtime. */
export interface RowChannel {
  on(
    type: "postgres_changes",
    filter: { event: "UPDATE"; schema: string; table: string; filter: string },
    callback: (payload: { new: object }) => void,
  ): RowChannel;
  subscribe(callback: (status: string) => void): unknown;
}

/** What is needed of a Supabase client to follow a row. */
export interface RowFollower extends TableReader {
  /** A client made with `accessToken` joins without a token unless told first, and is then shown nothing. */
  realtime?: { setAuth(): Promise<void> };
  channel(name: string): RowChannel;
  removeChannel(channel: RowChannel): Promise<unknown>;
}

export interface WatchOptions {
  channel: Channel;
  sessionId: string;
  /** Ends the watch: the iteration then throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Milliseconds between two looks at the row while Realtime is away; 2000 if absent. */
  pollMs?: number | undefined;
  /** Milliseconds between two looks while Realtime works, in case it loses an update; 15000 if absent. */
  checkMs?: number | undefined;
}

const COLUMNS = SESSION_UPDATE_COLUMNS.join(",");

let watches = 0;

/**
 * Follows a session until it is completed or failed: what its row says first, then every change.
 *
 * Changes come through Supabase Realtime; while that is away the row is looked at instead, and a network that
 * is away is waited for, so give a `signal` to wait no longer than you want.
 *
 * @param supabase signed in as the session's owner, or with the service-role key on a server.
 * @throws {SupabaseError} if Supabase refuses, or there is no such session that this client may see; the
 *   signal's reason if aborted.
 */
export async function* watchGeneration(
  supabase: RowFollower,
  { channel, sessionId, signal, pollMs = 2000, checkMs = 15_000 }: WatchOptions,
): AsyncGenerator<SessionUpdate, void, undefined> {
  const table = SESSION_TABLES[channel];
  const doorbell = new Doorbell();
  const arrived: Partial<SessionUpdate>[] = [];
  let updates = 0;
  let live = false;
  let lookAt = 0;

  signal?.throwIfAborted();
  await supabase.realtime?.setAuth().catch(() => {});
  const ring = () => doorbell.ring();
  signal?.addEventListener("abort", ring);
  watches += 1; // two watches of one session must not share a channel: the first to end would close it
  const realtime = supabase
    .channel(`generation-${sessionId}-${watches}`)
    .on("postgres_changes", { event: "UPDATE", schema: "public", table, filter: `id=eq.${sessionId}` }, ({ new: row }) => {
      updates += 1;
      arrived.push(row);
      ring();
    });
  realtime.subscribe((status) => {
    const was = live;
    live = status === "SUBSCRIBED";
    // What happened before the subscription, or while it was away, is in the row.
    if (live !== was) {
      lookAt = 0;
      ring();
    }
  });

  try {
    let seen: SessionUpdate | undefined;
    while (seen === undefined || !SETTLED_STATUSES.includes(seen.status)) {
      signal?.throwIfAborted();
      let news = arrived.shift();
      if (news === undefined && Date.now() < lookAt) {
        await doorbell.wait(lookAt - Date.now());
        continue;
      }
      if (news === undefined) {
        const before = updates;
        lookAt = Date.now() + (live ? checkMs : pollMs);
        news = await untilAborted(look(supabase, table, sessionId), signal);
        // An update that came meanwhile is newer than what was read.
        if (news === undefined || updates !== before) {
          continue;
        }
      }
      const update = merged(seen, news);
      if (update !== undefined) {
        seen = update;
        yield update;
      }
    }
  } finally {
    signal?.removeEventListener("abort", ring);
    // Not waited for: with the network away it takes ten seconds, and whoever leaves is done here.
    supabase.removeChannel(realtime).catch(() => {});
  }
}

/** The row as it is now; undefined if Supabase is away. */
async function look(supabase: RowFollower, table: string, sessionId: string): Promise<SessionUpdate | undefined> {
  try {
    const row = await readRow(supabase, table, COLUMNS, sessionId);
    if (row === null) {
      throw new SupabaseError("There is no such session, or it is somebody else's.", "session_not_found", 404);
    }
    return row as SessionUpdate;
  } catch (error) {
    if (error instanceof SupabaseError && error.retryable) {
      return undefined;
    }
    throw error;
  }
}

/** `seen` with the news in it; undefined if there are none. Realtime leaves out long values that did not change. */
function merged(seen: SessionUpdate | undefined, news: Partial<SessionUpdate>): SessionUpdate | undefined {
  const known = Object.entries(news).filter(([key]) => (SESSION_UPDATE_COLUMNS as readonly string[]).includes(key));
  const update = { ...seen, ...Object.fromEntries(known) } as SessionUpdate;
  const changed = SESSION_UPDATE_COLUMNS.some((key) => update[key] !== seen?.[key]);
  return changed && update.status !== undefined ? update : undefined;
}

async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) {
    return promise;
  }
  let abort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener("abort", abort);
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Lets one waiter sleep until a time has passed or somebody rings. */
class Doorbell {
  #rung = false;
  #answer = () => {};

  ring(): void {
    this.#rung = true;
    this.#answer();
  }

  async wait(milliseconds: number): Promise<void> {
    if (!this.#rung) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, milliseconds);
        this.#answer = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#rung = false;
    this.#answer = () => {};
  }
}
