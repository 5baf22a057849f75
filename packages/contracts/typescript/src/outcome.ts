import { OUTCOME_FUNCTION, type GenerationOutcome } from "#contracts";
import { call, type FunctionCaller } from "./supabase.js";

/**
 * How a session stands or ended: error code, attempts, whether the credit was given back.
 *
 * @param supabase signed in as the session's owner, or with the service-role key on a server.
 * @returns null if there is no such session, or it is somebody else's.
 * @throws {SupabaseError}
 */
export async function getOutcome(supabase: FunctionCaller, sessionId: string): Promise<GenerationOutcome | null> {
  return (await call(supabase, OUTCOME_FUNCTION, { p_session_id: sessionId })) as GenerationOutcome | null;
}
