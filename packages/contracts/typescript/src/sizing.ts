import {
  ERRORS,
  type CheckPhotoRequest,
  type CheckPhotoResponse,
  type ErrorCode,
  type EstimateBodyRequest,
  type EstimateBodyResponse,
  type EstimateWithoutPhotoRequest,
  type SizingError,
} from "#contracts";

/** The service did what was asked. */
export interface Answered<Answer> {
  ok: true;
  /** Correlation id in the service's logs. */
  requestId: string | null;
  response: Answer;
}

/** The service answered with a size. */
export type Sized = Answered<EstimateBodyResponse>;

/** The service refused, and said why. */
export interface Refused {
  ok: false;
  code: ErrorCode;
  /** HTTP status: 400 the image, 422 the photo or the request, 5xx the service. */
  status: number;
  /** A sentence for the shopper. */
  detail: string;
  /** Whether the same request may work later. */
  retryable: boolean;
  /** How long the service asks to wait. */
  retryAfterSeconds: number | null;
  requestId: string | null;
  /** Where the photo is to blame: the size that can be told without it. */
  fallback: EstimateBodyResponse | null;
}

/**
 * No answer of the service arrived: none in time, none at all, or one that is not the service's own. With
 * `not_configured` nothing was asked, because the client was made without a base URL; with `unauthorized` the
 * service does not take the client's key, which is nothing that a shopper can mend.
 */
export interface Unanswered {
  ok: false;
  code: "timeout" | "unreachable" | "unexpected_answer" | "not_configured" | "unauthorized";
  /** HTTP status of the answer that was none of the expected ones. */
  status: number | null;
  detail: string;
  retryable: true;
  retryAfterSeconds: null;
  requestId: string | null;
}

/** Tell by `ok`, then by `code`. */
export type SizingResult = Sized | Refused | Unanswered;

/** Tell by `ok`, then by `response.usable`. Refused is what is no picture at all. */
export type PhotoCheckResult = Answered<CheckPhotoResponse> | Refused | Unanswered;

export interface SizingClientOptions {
  /** Where the service asks for one. */
  apiKey?: string | undefined;
  /** Milliseconds for a whole request; 5000 if absent. */
  timeoutMs?: number | undefined;
}

export interface SizingCallOptions {
  /** Gives the request up; the call then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Correlation id in plain text; the service makes one up if absent. */
  requestId?: string | undefined;
}

export interface SizingClient {
  /** Asks for the size of the person in a photo. Rejects only when aborted. */
  estimateBody(request: EstimateBodyRequest, options?: SizingCallOptions): Promise<SizingResult>;
  /** Asks for the size that height, and weight and gender where known, make likely. Rejects only when aborted. */
  estimateWithoutPhoto(request: EstimateWithoutPhotoRequest, options?: SizingCallOptions): Promise<SizingResult>;
  /** Asks whether a photo will do, before a credit is spent on it. Rejects only when aborted. */
  checkPhoto(request: CheckPhotoRequest, options?: SizingCallOptions): Promise<PhotoCheckResult>;
}

const DEFAULT_TIMEOUT_MS = 5000;
const IN_A_HEADER = /^[\x21-\x7e]+$/;
const UNAVAILABLE = "Sizing is not available right now. Please try again in a moment.";

/**
 * A client of the sizing API at `baseUrl`, for instance `https://sizing.example`. Without one, as at build time,
 * the client can be made all the same; its calls then answer `not_configured`.
 */
export function createSizingClient(baseUrl: string | undefined, options: SizingClientOptions = {}): SizingClient {
  const base = baseUrl?.replace(/\/+$/, "");
  const { apiKey, timeoutMs = DEFAULT_TIMEOUT_MS } = options;

  async function ask<Answer>(
    path: string,
    request: object,
    isAnswer: (body: object) => body is Answer & object,
    { signal, requestId }: SizingCallOptions,
  ): Promise<Answered<Answer> | Refused | Unanswered> {
    if (!base) {
      return unanswered("not_configured", null, requestId ?? null);
    }
    const timeout = AbortSignal.timeout(timeoutMs);
    try {
      const answer = await fetch(`${base}${path}`, {
        method: "POST",
        headers: {
          "Content-Type": "application/json",
          ...(requestId !== undefined && IN_A_HEADER.test(requestId) ? { "X-Request-Id": requestId } : {}),
          ...(apiKey === undefined ? {} : { "X-API-Key": apiKey }),
        },
        body: JSON.stringify(request),
        // Elsewhere nobody may read the key, or the link to a shopper's photo.
        redirect: "manual",
        signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
      });
      const text = await answer.text();
      return resultOf(answer, text, isAnswer, answer.headers.get("X-Request-Id") ?? requestId ?? null);
    } catch {
      signal?.throwIfAborted();
      return unanswered(timeout.aborted ? "timeout" : "unreachable", null, requestId ?? null);
    }
  }

  return {
    estimateBody: (request, options = {}) => ask("/estimate-body", request, isSize, options),
    estimateWithoutPhoto: (request, options = {}) => ask("/estimate-without-photo", request, isSize, options),
    checkPhoto: (request, options = {}) => ask("/check-photo", request, isCheck, options),
  };
}

function resultOf<Answer>(
  answer: Response,
  text: string,
  isAnswer: (body: object) => body is Answer & object,
  requestId: string | null,
): Answered<Answer> | Refused | Unanswered {
  const { status } = answer;
  const body = parse(text);
  if (status === 200 && isAnswer(body)) {
    return { ok: true, requestId, response: body };
  }
  if (status === 401) {
    return unanswered("unauthorized", status, requestId);
  }
  if (status >= 400 && isError(body)) {
    const { code, detail, fallback = null } = body;
    // A code of a newer service is not in this package's table.
    const retryable = ERRORS[code]?.retryable ?? status >= 500;
    const retryAfterSeconds = secondsOf(answer.headers.get("Retry-After"));
    return { ok: false, code, status, detail, retryable, retryAfterSeconds, requestId, fallback };
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

function isSize(body: object): body is EstimateBodyResponse {
  return "recommended_size" in body && "measurements" in body;
}

function isCheck(body: object): body is CheckPhotoResponse {
  return "usable" in body && "seen" in body;
}

function isError(body: object): body is SizingError {
  return "code" in body && typeof body.code === "string" && "detail" in body && typeof body.detail === "string";
}

function secondsOf(retryAfter: string | null): number | null {
  const seconds = Number(retryAfter ?? NaN);
  return Number.isFinite(seconds) ? seconds : null;
}
