"""What the generator asks of an image provider, whoever that is, and what can go wrong.

To add a provider: write a module beside `openai_provider` with a class that fits `Provider`, and build it in
`bootstrap`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum, auto
from typing import Final, Protocol

import structlog

from wearon_contracts.errors import ErrorCode, Family, describe
from wearon_generator.answer_check import why_unusable
from wearon_generator.metrics import Metrics
from wearon_generator.prices import Usage
from wearon_generator.refusals import CONSEQUENCES, Consequence, Refusal
from wearon_service_kit.pauses import growing_pause

log = structlog.get_logger()

_FIRST_PAUSE: Final = 1.0  # seconds before the second call
_LONGEST_PAUSE: Final = 20.0  # seconds


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


class ModelState(Enum):
    """What a provider tells of a model."""

    SERVED = auto()
    GONE = auto()  # unknown, or shut down
    KEY_REFUSED = auto()
    NOT_TOLD = auto()  # it has no such call, or does not let this key make it
    UNREACHABLE = auto()


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """`ends`: the day on which it is switched off, if that is announced. `detail` is for the log."""

    model: str
    state: ModelState
    ends: date | None = None
    detail: str = ""
    told_by: str = "the provider"
    key_setting: str = "another key"


class Provider(Protocol):
    """One model of an image provider."""

    @property
    def model(self) -> str:
        """Its name."""
        ...

    async def look_up(self) -> ModelStatus:
        """What the provider tells of the model; never raises."""
        ...

    async def edit(self, pictures: Sequence[bytes], prompt: str, end_user: str) -> Generated:
        """Make one call: `pictures` (JPEG bytes, the person first) and a prompt in, a picture out.

        `end_user`: stands for the person who asks, so that the provider can tell people apart. Raises
        `ProviderError` for everything that brings no usable picture; never retries by itself.
        """
        ...


def _check(generated: Generated) -> None:
    problem = why_unusable(generated.data)
    if problem is not None:
        raise ProviderError(
            Refusal.BAD_ANSWER,
            f"the picture is unusable: {problem}",
            model=generated.model,
            usage=generated.usage,
            cost=generated.cost,
        )


async def edit_with_retries(
    provider: Provider,
    pictures: Sequence[bytes],
    prompt: str,
    end_user: str,
    *,
    max_calls: int,
    before_call: Callable[[], Awaitable[None]],
    metrics: Metrics,
) -> Generated:
    """Ask `provider`, again with exponential backoff and jitter where a failure may pass.

    At most `max_calls` calls; `before_call` is awaited before each, and takes its slot. Raises the last
    `ProviderError`.
    """
    for call in range(1, max_calls + 1):
        await before_call()
        log.info("provider_called", call=call, images=len(pictures))
        try:
            with metrics.provider_seconds.time():
                generated = await provider.edit(pictures, prompt, end_user)
            _check(generated)
        except ProviderError as error:
            metrics.provider_calls.labels(outcome=error.refusal.value).inc()
            if call == max_calls or not error.consequence.call_again:
                raise
            wait = growing_pause(call, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
            log.warning("provider_retry", reason=error.detail, call=call, retry_in_seconds=round(wait, 2))
        else:
            metrics.provider_calls.labels(outcome="ok").inc()
            return generated
        await asyncio.sleep(wait)
    raise ValueError("max_calls must be at least 1")
