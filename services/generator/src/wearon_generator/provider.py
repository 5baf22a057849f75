"""What the generator asks of an image provider, whoever that is, and what can go wrong.

To add a provider: write a module beside `openai_provider` with a class that fits `Provider`, and build it in
`runtime`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol

import structlog

from wearon_contracts.errors import ErrorCode, Family, describe
from wearon_generator.metrics import Metrics
from wearon_generator.prices import Usage

log = structlog.get_logger()

_FIRST_PAUSE: Final = 1.0  # seconds before the second call
_LONGEST_PAUSE: Final = 20.0  # seconds


class Refusal(StrEnum):
    """Why a call brought no usable picture; also the outcome that the metrics count."""

    PICTURE = "picture"
    PROMPT = "prompt"
    MODERATION = "moderation"
    RATE_LIMIT = "rate_limit"
    SERVER_ERROR = "server_error"
    CONNECTION = "connection"
    BAD_ANSWER = "bad_answer"
    # Ours, and the same for every job:
    NO_MONEY = "no_money"
    KEY_REFUSED = "key_refused"
    FORBIDDEN = "forbidden"
    MODEL_GONE = "model_gone"
    PARAMETER_REFUSED = "parameter_refused"
    UNKNOWN = "unknown"
    # Ours, but of this one job:
    REQUEST_REFUSED = "request_refused"


class Alert(StrEnum):
    """How a person learns of a refusal: woken at once, by a ticket when many come, or not at all."""

    PAGE = "page"
    TICKET = "ticket"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows from a refusal.

    `code`: what the session fails with. `call_again`: the same call may simply be made again.
    `same_for_every_job`: counts towards the breaker that stops all replicas.
    `account_works`: shows that key, account and model are in order, so that the breaker closes.
    """

    code: ErrorCode
    alert: Alert
    call_again: bool = False
    same_for_every_job: bool = False
    account_works: bool = False


_E = ErrorCode
CONSEQUENCES: Final[dict[Refusal, Consequence]] = {
    Refusal.PICTURE: Consequence(_E.PROVIDER_REFUSED, Alert.NONE),
    Refusal.PROMPT: Consequence(_E.PROMPT_REFUSED, Alert.NONE),
    Refusal.MODERATION: Consequence(_E.MODERATION_BLOCKED, Alert.NONE, account_works=True),
    Refusal.RATE_LIMIT: Consequence(_E.RATE_LIMITED, Alert.TICKET),
    Refusal.SERVER_ERROR: Consequence(_E.PROVIDER_UNAVAILABLE, Alert.TICKET, call_again=True),
    Refusal.CONNECTION: Consequence(_E.PROVIDER_UNAVAILABLE, Alert.TICKET, call_again=True),
    Refusal.BAD_ANSWER: Consequence(_E.PROVIDER_BAD_ANSWER, Alert.TICKET, account_works=True),
    Refusal.NO_MONEY: Consequence(_E.QUOTA_EXHAUSTED, Alert.PAGE, same_for_every_job=True),
    Refusal.KEY_REFUSED: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.FORBIDDEN: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.MODEL_GONE: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.PARAMETER_REFUSED: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.UNKNOWN: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.REQUEST_REFUSED: Consequence(_E.INTERNAL_ERROR, Alert.TICKET),
}


class ProviderError(Exception):
    """A call brought no usable picture.

    `picture`: index of the picture it is about, where the answer tells; `retry_after`: seconds the provider
    asked to wait, if it did; `usage` and `cost` (USD): what it charged for all the same.
    """

    def __init__(
        self,
        refusal: Refusal,
        detail: str,
        *,
        model: str = "",
        picture: int | None = None,
        retry_after: float | None = None,
        usage: Usage | None = None,
        cost: Decimal | None = None,
    ) -> None:
        super().__init__(f"{refusal.value}: {detail}")
        self.refusal = refusal
        self.detail = detail
        self.model = model
        self.picture = picture
        self.retry_after = retry_after
        self.usage = usage
        self.cost = cost

    @property
    def consequence(self) -> Consequence:
        """What follows from it."""
        return CONSEQUENCES[self.refusal]

    @property
    def code(self) -> ErrorCode:
        """What the session fails with."""
        return self.consequence.code

    @property
    def family(self) -> Family:
        """What it is about."""
        return describe(self.code).family


@dataclass(frozen=True, slots=True)
class Generated:
    """A picture as the provider sent it, and what it took; `cost` in USD, None where no price is known."""

    data: bytes
    usage: Usage | None
    cost: Decimal | None
    model: str


class Provider(Protocol):
    """An image provider."""

    async def edit(self, pictures: Sequence[bytes], prompt: str) -> Generated:
        """Make one call: `pictures` (JPEG bytes, the person first) and a prompt in, a picture out.

        Raises `ProviderError` for everything that brings no usable picture; never retries by itself.
        """
        ...


async def edit_with_retries(
    provider: Provider,
    pictures: Sequence[bytes],
    prompt: str,
    *,
    max_calls: int,
    take_slot: Callable[[], Awaitable[None]],
    metrics: Metrics,
) -> Generated:
    """Ask `provider`, again with exponential backoff and jitter where a failure may pass.

    At most `max_calls` calls; `take_slot` is awaited before each. Raises the last `ProviderError`.
    """
    pause = _FIRST_PAUSE
    for call in range(1, max_calls + 1):
        await take_slot()
        log.info("provider_called", call=call, images=len(pictures))
        try:
            with metrics.provider_seconds.time():
                generated = await provider.edit(pictures, prompt)
        except ProviderError as error:
            metrics.provider_calls.labels(outcome=error.refusal.value).inc()
            if call == max_calls or not error.consequence.call_again:
                raise
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
            log.warning("provider_retry", reason=error.detail, call=call, retry_in_seconds=round(wait, 2))
        else:
            metrics.provider_calls.labels(outcome="ok").inc()
            return generated
        await asyncio.sleep(wait)
        pause = min(pause * 2, _LONGEST_PAUSE)
    raise ValueError("max_calls must be at least 1")
