import { PLACE_SCRIPT } from "#contracts";
import type { SessionOwner } from "./owner.js";

/** What is needed of a Redis client to read a place in line; an ioredis client fits. */
export interface ScriptRunner {
  eval(script: string, numberOfKeys: number, ...parameters: string[]): Promise<unknown>;
}

export interface Place {
  /** How many jobs start before this one. */
  before: number;
  /** In about how many seconds it starts; null while no job starts, as when the services are paused. */
  seconds: number | null;
}

/**
 * A session's place in line, on a server.
 *
 * @returns null if it does not wait: it has started or ended, or it was pushed a moment ago.
 * @throws whatever the Redis client rejects with.
 */
export async function getPlace(
  redis: ScriptRunner,
  session: SessionOwner & { sessionId: string },
): Promise<Place | null> {
  const lane = session.channel === "b2c" ? `user:${session.userId}` : `store:${session.storeId}`;
  const answer = await redis.eval(PLACE_SCRIPT, 0, session.sessionId.toLowerCase(), lane.toLowerCase());
  if (answer === null) {
    return null;
  }
  const [before, milliseconds] = answer as [number, number];
  return { before, seconds: milliseconds < 0 ? null : milliseconds / 1000 };
}
