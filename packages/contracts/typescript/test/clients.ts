// Compiled, never run: the clients that applications have fit what the functions ask for.
import type { SupabaseClient } from "@supabase/supabase-js";
import type { Cluster, Redis } from "ioredis";
import {
  enqueueGeneration,
  getOutcome,
  resignResult,
  watchGeneration,
  type FunctionCaller,
  type LinkSigner,
  type ListPusher,
  type NewGeneration,
  type RowFollower,
  type ScriptRunner,
} from "@wearon/contracts";

interface Database {
  public: {
    Tables: {
      generation_sessions: {
        Row: { id: string; status: string };
        Insert: { id: string };
        Update: { status?: string };
        Relationships: [];
      };
    };
    Views: Record<string, never>;
    Functions: Record<string, never>;
  };
}

declare const redis: Redis;
declare const cluster: Cluster;
declare const supabase: SupabaseClient;
declare const typed: SupabaseClient<Database>;
declare const generation: NewGeneration;

export const pushers: ListPusher[] = [redis, cluster];
export const runners: ScriptRunner[] = [redis, cluster];
export const followers: RowFollower[] = [supabase, typed];
export const callers: FunctionCaller[] = [supabase, typed];
export const signers: LinkSigner[] = [supabase, typed];

export async function handle(): Promise<void> {
  const task = await enqueueGeneration(redis, generation);
  for await (const update of watchGeneration(supabase, { channel: task.channel, sessionId: task.session_id })) {
    console.log(update.status);
  }
  for await (const update of watchGeneration(typed, { channel: task.channel, sessionId: task.session_id })) {
    console.log(update.status);
  }
  console.log(await getOutcome(supabase, task.session_id), await getOutcome(typed, task.session_id));
  console.log(await resignResult(typed, { channel: "b2c", userId: "", sessionId: task.session_id }));
}

// @ts-expect-error a client of something else
await getOutcome(redis, "");
// @ts-expect-error a client of something else
await enqueueGeneration(supabase, generation);
