import { DEFAULT_BUCKET, RESULT_PATHS, SIGNED_URL_SECONDS } from "#contracts";
import type { SessionOwner } from "./owner.js";
import { SupabaseError } from "./supabase.js";

/** What is needed of a Supabase client to sign links. */
export interface LinkSigner {
  storage: {
    from(bucket: string): {
      createSignedUrl(
        path: string,
        seconds: number,
      ): Promise<{
        data: { signedUrl: string } | null;
        error: { message: string; status?: number | undefined } | null;
      }>;
    };
  };
}

export interface ResignOptions {
  /** The bucket the services store results in; `images` if absent. */
  bucket?: string | undefined;
  /** How long the link works; six hours if absent. */
  seconds?: number | undefined;
}

export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/**
 * Path of a session's result inside the bucket.
 *
 * @throws {SupabaseError} for ids that are none: with `../` in one, the path would be somebody else's.
 */
export function resultPath(session: SessionOwner & { sessionId: string }): string {
  const owner = session.channel === "b2c" ? session.userId : session.storeId;
  if (!UUID.test(owner) || !UUID.test(session.sessionId)) {
    throw new SupabaseError("There is no such session.", "session_not_found", 404);
  }
  return RESULT_PATHS[session.channel]
    .replace("{owner_id}", owner.toLowerCase())
    .replace("{session_id}", session.sessionId.toLowerCase());
}

/**
 * A new link to the result of a completed session whose `generated_image_url` has expired.
 *
 * @param supabase with the service-role key, or signed in as somebody whom the bucket's policies let read.
 * @throws {SupabaseError}, also when there is no result.
 */
export async function resignResult(
  supabase: LinkSigner,
  session: SessionOwner & { sessionId: string },
  { bucket = DEFAULT_BUCKET, seconds = SIGNED_URL_SECONDS }: ResignOptions = {},
): Promise<string> {
  const { data, error } = await supabase.storage.from(bucket).createSignedUrl(resultPath(session), seconds);
  if (data === null) {
    throw new SupabaseError(error?.message ?? "Storage signed nothing", "", error?.status ?? 0);
  }
  return data.signedUrl;
}
