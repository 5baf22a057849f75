"""Asks the provider every day whether it still serves our model, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from typing import Final

import structlog

from wearon_generator.fallback import ProviderWithFallback
from wearon_generator.metrics import Metrics
from wearon_generator.models import find_model
from wearon_generator.provider import ModelState, ModelStatus
from wearon_generator.refusals import Refusal
from wearon_generator.timing import Clock, Now
from wearon_service_kit.background import Background

log = structlog.get_logger()

EVERY: Final = 24 * 3600.0  # seconds
EVERY_WHEN_IN_DOUBT: Final = 30.0  # seconds: so soon after it is mended, jobs go on
_STEP: Final = 1.0  # seconds
_IN_DOUBT: Final = frozenset({Refusal.MODEL_GONE.value, Refusal.KEY_REFUSED.value, Refusal.FORBIDDEN.value})


class ModelWatch:
    """Knows why no job may be started because of the model or the key, if so."""

    def __init__(
        self,
        provider: ProviderWithFallback,
        metrics: Metrics,
        clock: Clock,
        now: Now,
        *,
        refused_because: Callable[[], str | None],
    ) -> None:
        """`refused_because`: why the breaker is open, which is a reason to ask at once."""
        self._provider = provider
        self._metrics = metrics
        self._clock = clock
        self._now = now
        self._refused_because = refused_because
        self._looked_at: float | None = None
        self._served = asyncio.Event()
        self._served.set()
        self._noted = False
        self._background = Background("model-watch")
        self.problem: str | None = None
        """What keeps jobs from being started, in one line; None if nothing does."""

    @property
    def told(self) -> str:
        """What an operator may want to know although jobs are started; empty if nothing."""
        reason = self._provider.reason
        if reason is None:
            return ""
        return f"{self._provider.main.model} is refused ({reason.value}): {self._provider.model} is used"

    def start(self) -> None:
        """Begin to ask."""
        self._background.start(self._watch())

    async def stop(self) -> None:
        """Ask no more."""
        await self._background.stop()

    async def wait_until_served(self) -> None:
        """Return when jobs may be started."""
        await self._served.wait()

    async def look_if_due(self) -> None:
        """Ask, unless the last answer is fresh enough."""
        in_doubt = self.problem is not None or self._refused_because() in _IN_DOUBT
        pause = EVERY_WHEN_IN_DOUBT if in_doubt else EVERY
        if self._looked_at is None or self._clock() - self._looked_at >= pause:
            self._looked_at = self._clock()
            await self._look()
        self._metrics.fallback_in_use.set(0 if self._provider.reason is None else 1)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_STEP)
            try:
                await self.look_if_due()
            except Exception:
                log.exception("model_watch_crashed")

    async def _look(self) -> None:
        status = await self._provider.look_up()
        problem: str | None = None
        match status.state:
            case ModelState.GONE:
                if not await self._switch():
                    problem = (
                        f"{status.told_by} does not serve the model {status.model}: {_advice(status.model)}"
                    )
            case ModelState.KEY_REFUSED:
                problem = f"{status.told_by} refuses the key ({status.detail}): set {status.key_setting}"
            case ModelState.SERVED:
                self._provider.use_main()
            case ModelState.NOT_TOLD:
                if not self._noted:
                    log.warning("model_not_told", model=status.model, detail=status.detail)
                self._noted = True
            case ModelState.UNREACHABLE:
                log.warning("model_not_asked", model=status.model, detail=status.detail)
                problem = self.problem
        self._show_end(status)
        self._set(problem)

    async def _switch(self) -> bool:
        """Let the fallback make the pictures, unless that is gone as well."""
        fallback = self._provider.fallback
        if fallback is None or (await fallback.look_up()).state is ModelState.GONE:
            return False
        return self._provider.use_fallback(Refusal.MODEL_GONE)

    def _show_end(self, status: ModelStatus) -> None:
        ends = status.ends or find_model(status.model).ends
        days = float("inf") if ends is None else float((ends - self._today()).days)
        self._metrics.model_days_left.labels(model=status.model).set(days)

    def _today(self) -> date:
        return self._now().date()

    def _set(self, problem: str | None) -> None:
        if problem and problem != self.problem:
            log.error("provider_unusable", reason=problem)
        if self.problem and not problem:
            log.warning("provider_usable_again")
        self.problem = problem
        if problem:
            self._served.clear()
        else:
            self._served.set()


def _advice(model: str) -> str:
    successor = find_model(model).successor
    return f"set OPENAI_MODEL={successor}" if successor != model else "set OPENAI_MODEL to one that it serves"
