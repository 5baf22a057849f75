import { ERRORS, type ErrorCode, type EstimateBodyRequest, type EstimateBodyResponse, type SizingError } from "#contracts";

/** The service answered with a size. */
export interface Sized {
  ok: true;
  /** Correlation id in the service's logs. */
  requestId: string | null;
  response: EstimateBodyResponse;
}

/** The service refused, and said why. */
export interface Refused {
  ok: false;
  code: ErrorCode;
  /** HTTP status: 400 the image, 401 the key, 422 the photo or the request, 5xx the service. */
  status: number;
  /** A sentence for the shopper. */
  detail: string;
  /** Whether the same request may work later. */
  retryable: boolean;
  /** How long the service asks to wait. */
  retryAfterSeconds: number | null;
  requestId: string | null;
}

/** No answer of the service arrived: none in time, none at all, or one that is not the service's own. */
export interface Unanswered {
  ok: false;
  code: "timeout" | "unreachable" | "unexpected_answer";
  /** HTTP status of the unexpected answer. */
  status: number | null;
  detail: string;
  retryable: true;
  retryAfterSeconds: null;
  requestId: string | null;
}

/** Tell by `ok`, then by `code`. */
export type SizingResult = Sized | Refused | Unanswered;

export interface SizingClientOptions {
  /** Where the service asks for one. */
  apiKey?: string | undefined;
  /** Milliseconds for a whole request; 5000 if absent. */
  timeoutMs?: number | undefined;
}

export interface SizingCallOptions {
  /** Gives the request up; the call then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Correlation id; the service makes one up if absent. */
  requestId?: string | undefined;
}

export interface SizingClient {
  /** Asks for the size of the person in a photo. Rejects only when aborted. */
  estimateBody(request: EstimateBodyRequest, options?: SizingCallOptions): Promise<SizingResult>;
}

const DEFAULT_TIMEOUT_MS = 5000;
const UNAVAILABLE = "Sizing is not available just now. Please try again in a moment.";

/** A client of the sizing API at `baseUrl`, for instance `https://sizing.example`. */
export function createSizingClient(baseUrl: string, options: SizingClientOptions = {}): SizingClient {
  const endpoint = `${baseUrl.replace(/\/+$/, "")}/estimate-body`;
  const { apiKey, timeoutMs = DEFAULT_TIMEOUT_MS } = options;

  return {
    async estimateBody(request, { signal, requestId } = {}) {
      const timeout = AbortSignal.timeout(timeoutMs);
      try {
        const answer = await fetch(endpoint, {
          method: "POST",
          headers: {
            "Content-Type": "application/json",
            ...(requestId === undefined ? {} : { "X-Request-Id": requestId }),
            ...(apiKey === undefined ? {} : { "X-API-Key": apiKey }),
          },
          body: JSON.stringify(request),
          signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
        });
        return resultOf(answer, await answer.text(), answer.headers.get("X-Request-Id") ?? requestId ?? null);
      } catch {
        signal?.throwIfAborted();
        return unanswered(timeout.aborted ? "timeout" : "unreachable", null, requestId ?? null);
      }
    },
  };
}

function resultOf(answer: Response, text: string, requestId: string | null): SizingResult {
  const { status } = answer;
  const body = parse(text);
  if (status === 200 && isResponse(body)) {
    return { ok: true, requestId, response: body };
  }
  if (status >= 400 && isError(body)) {
    // A code of a newer service is not in this package's table.
    const retryable = ERRORS[body.code]?.retryable ?? status >= 500;
    const retryAfterSeconds = secondsOf(answer.headers.get("Retry-After"));
    return { ok: false, code: body.code, status, detail: body.detail, retryable, retryAfterSeconds, requestId };
  }
  return unanswered("unexpected_answer", status, requestId);
}

function unanswered(code: Unanswered["code"], status: number | null, requestId: string | null): Unanswered {
  return { ok: false, code, status, detail: UNAVAILABLE, retryable: true, retryAfterSeconds: null, requestId };
}

function parse(text: string): Partial<Record<string, unknown>> {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

function isResponse(body: object): body is EstimateBodyResponse {
  return "recommended_size" in body && "measurements" in body;
}

function isError(body: object): body is SizingError {
  return "code" in body && typeof body.code === "string" && "detail" in body && typeof body.detail === "string";
}

function secondsOf(retryAfter: string | null): number | null {
  const seconds = Number(retryAfter ?? NaN);
  return Number.isFinite(seconds) ? seconds : null;
}
