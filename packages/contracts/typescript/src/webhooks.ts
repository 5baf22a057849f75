import { Webhook } from "standardwebhooks";
import type { WebhookEvent } from "#contracts";

/** Thrown for a request that the services did not sign, or signed more than five minutes ago. */
export class WebhookError extends Error {
  override readonly name = "WebhookError";
}

/** An event whose signature fits. */
export interface VerifiedWebhook {
  /** The same each time the event is sent again: what was handled under it before needs nothing more. */
  id: string;
  event: WebhookEvent;
}

export interface WebhookRouteOptions {
  /** The endpoint's secret, `whsec_…`; while it is replaced both, in any order. Called at each request. */
  secret(): string | readonly string[];
  /**
   * Does what the event asks for, within 10 seconds. The same one may come again, and in any order. When it
   * throws, the event is sent again later.
   */
  handle(webhook: VerifiedWebhook): void | Promise<void>;
}

/**
 * Checks a webhook's signature and age. `body` as it came, not parsed and written anew.
 *
 * @throws {WebhookError} if it was not signed with (one of) the `secret`, or too long ago.
 */
export function verifyWebhook(
  body: string,
  headers: Headers | Readonly<Record<string, string>>,
  secret: string | readonly string[],
): VerifiedWebhook {
  const given = headers instanceof Headers ? Object.fromEntries(headers) : headers;
  let why = "no secret is set";
  for (const one of typeof secret === "string" ? [secret] : secret) {
    // A secret that is none is the application's mistake and not the sender's: it is thrown as it is.
    const webhook = new Webhook(one);
    try {
      const event = webhook.verify(body, given) as WebhookEvent;
      const id = Object.entries(given).find(([name]) => name.toLowerCase() === "webhook-id")?.[1] ?? "";
      return { id, event };
    } catch (error) {
      why = error instanceof Error ? error.message : String(error);
    }
  }
  throw new WebhookError(why);
}

/** A route handler for webhooks: 204 once `handle` is done, 401 for what the services did not sign. */
export function createWebhookRoute(options: WebhookRouteOptions): (request: Request) => Promise<Response> {
  return async (request) => {
    const body = await request.text();
    let webhook: VerifiedWebhook;
    try {
      webhook = verifyWebhook(body, request.headers, options.secret());
    } catch (error) {
      if (error instanceof WebhookError) {
        return Response.json({ error: "invalid_signature", detail: error.message }, { status: 401 });
      }
      throw error;
    }
    await options.handle(webhook);
    return new Response(null, { status: 204 });
  };
}
