import { CANCEL_FUNCTION, type CancelAnswer } from "#contracts";
import { call, type FunctionCaller } from "./supabase.js";

/**
 * Cancels a session: it fails and its credit is given back, unless the image provider has been called for it.
 *
 * May be called again, also after a lost answer.
 *
 * @param supabase signed in as the session's owner, or with the service-role key on a server, which may cancel
 *   every session: check there whose it is.
 * @throws {SupabaseError}
 */
export async function cancelGeneration(supabase: FunctionCaller, sessionId: string): Promise<CancelAnswer> {
  return (await call(supabase, CANCEL_FUNCTION, { p_session_id: sessionId })) as CancelAnswer;
}
