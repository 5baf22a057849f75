"""The image model, as one function: pictures and a prompt in, a picture out."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError
from openai.types import ImagesResponse

from wearon_contracts.errors import ErrorCode
from wearon_generator.metrics import Metrics
from wearon_generator.prices import Usage
from wearon_generator.prompts import default_prompt, file_names
from wearon_generator.storage import content_type

log = structlog.get_logger()

QUALITY: Final = "medium"
SIZE: Final = "1024x1536"

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 20.0
_MOST_TOKENS: Final = 2**31 - 1
_RETRIED_STATUSES: Final = frozenset({408, 409})


class ProviderError(Exception):
    """The provider made no usable picture.

    `retry_after`: seconds it asked to wait, if it did; `usage`: tokens it charged for all the same.
    """

    def __init__(
        self, code: ErrorCode, detail: str, retry_after: float | None = None, usage: Usage | None = None
    ) -> None:
        super().__init__(f"{code.value}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Generated:
    """A picture as the provider sent it, and the tokens it took."""

    data: bytes
    usage: Usage | None


def connect_openai(api_key: str, base_url: str | None, timeout_seconds: float) -> AsyncOpenAI:
    """Build the client; its own retries are off, because every call needs a slot of the global limit."""
    return AsyncOpenAI(api_key=api_key, base_url=base_url, timeout=timeout_seconds, max_retries=0)


def _retry_after(error: APIStatusError) -> float | None:
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if seconds >= 0 else None


def _refusal(error: APIStatusError) -> ProviderError | None:
    """What a final error answer means; None if the call may simply be made again."""
    if error.status_code >= 500 or error.status_code in _RETRIED_STATUSES:
        return None
    detail = f"status {error.status_code}, code {error.code}"
    if error.code == "moderation_blocked":
        return ProviderError(ErrorCode.MODERATION_BLOCKED, detail)
    if error.code == "insufficient_quota":
        return ProviderError(ErrorCode.QUOTA_EXHAUSTED, detail)
    if error.status_code == 429:
        return ProviderError(ErrorCode.RATE_LIMITED, detail, _retry_after(error))
    if error.status_code in (401, 403, 404):
        # The key or the model is wrong: nothing the shopper could change.
        return ProviderError(ErrorCode.INTERNAL_ERROR, detail)
    return ProviderError(ErrorCode.PROVIDER_REFUSED, detail)


def _tokens(part: object, name: str) -> int | None:
    """The figure `name`; None for what is no figure: the SDK hands on whatever the answer holds."""
    value = getattr(part, name, None)
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _usage(response: ImagesResponse) -> Usage | None:
    usage: object = response.usage
    taken, given_back = _tokens(usage, "input_tokens"), _tokens(usage, "output_tokens")
    if taken is None or given_back is None:
        return None
    given = getattr(usage, "input_tokens_details", None)
    made = getattr(usage, "output_tokens_details", None)
    return Usage(
        input_tokens=taken,
        output_tokens=given_back,
        input_text_tokens=_tokens(given, "text_tokens"),
        input_image_tokens=_tokens(given, "image_tokens"),
        output_text_tokens=_tokens(made, "text_tokens"),
        output_image_tokens=_tokens(made, "image_tokens"),
    )


def _picture(response: object) -> Generated:
    # The SDK hands on what is not JSON (a proxy's page, say) as a string.
    if not isinstance(response, ImagesResponse):
        raise ProviderError(ErrorCode.PROVIDER_BAD_ANSWER, "the answer is not the API's")
    usage = _usage(response)
    pictures: object = response.data
    encoded = getattr(pictures[0], "b64_json", None) if isinstance(pictures, list) and pictures else None
    try:
        data = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
    except ValueError:
        data = b""
    if content_type(data) is None:
        detail = "the answer holds no JPEG, PNG or WebP"
        raise ProviderError(ErrorCode.PROVIDER_BAD_ANSWER, detail, usage=usage)
    return Generated(data, usage)


async def generate_tryon(
    client: AsyncOpenAI,
    *,
    model: str,
    images: list[bytes],
    prompt: str,
    max_calls: int,
    take_slot: Callable[[], Awaitable[None]],
    metrics: Metrics,
) -> Generated:
    """Ask for the try-on of `images` (JPEG bytes, the person first).

    Errors of the provider (5xx) and of the network are retried with exponential backoff and jitter, in all
    at most `max_calls` calls; `take_slot` is awaited before each. Raises `ProviderError` for everything else.
    """
    names = file_names(len(images))
    files = [(name, data, "image/jpeg") for name, data in zip(names, images, strict=True)]
    wait = _FIRST_PAUSE
    for call in range(1, max_calls + 1):
        await take_slot()
        log.info("provider_called", model=model, call=call, images=len(images))
        try:
            with metrics.provider_seconds.time():
                response = await client.images.edit(
                    image=files,
                    model=model,
                    prompt=prompt or default_prompt(len(images)),
                    quality=QUALITY,
                    size=SIZE,
                    n=1,
                    output_format="jpeg",
                )
        except APIStatusError as error:
            metrics.provider_calls.labels(outcome=error.code or str(error.status_code)).inc()
            refusal = _refusal(error)
            if refusal is not None:
                raise refusal from error
            reason = f"status {error.status_code}"
        except APIConnectionError as error:
            metrics.provider_calls.labels(outcome="connection").inc()
            reason = type(error).__name__
        except (OpenAIError, ValueError) as error:
            # The SDK could not make sense of the answer.
            metrics.provider_calls.labels(outcome="bad_answer").inc()
            raise ProviderError(ErrorCode.PROVIDER_BAD_ANSWER, type(error).__name__) from error
        else:
            metrics.provider_calls.labels(outcome="ok").inc()
            return _picture(response)
        if call == max_calls:
            break
        delay = wait * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
        log.warning("provider_retry", reason=reason, call=call, retry_in_seconds=round(delay, 2))
        await asyncio.sleep(delay)
        wait = min(wait * 2, _LONGEST_PAUSE)
    raise ProviderError(ErrorCode.PROVIDER_UNAVAILABLE, f"{max_calls} calls, the last: {reason}")
