"""For how long it is worth asking Supabase again: said once, when a job begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog

from wearon_generator.leases import Lease
from wearon_generator.metrics import Metrics
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Clock
from wearon_service_kit.pauses import growing_pause

log = structlog.get_logger()
T = TypeVar("T")

_FIRST_PAUSE: Final = 0.2  # seconds
_LONGEST_PAUSE: Final = 5.0  # seconds


class Stopping:
    """Whether, and since when, the process is asked to stop."""

    def __init__(self, clock: Clock, patience: float) -> None:
        """`patience`: seconds for which a stopping process still tries to reach Supabase."""
        self.event = asyncio.Event()
        self._clock = clock
        self._patience = patience
        self._since: float | None = None

    def begin(self) -> None:
        """Take note that the process is asked to stop."""
        self._since = self._clock()
        self.event.set()

    @property
    def begun(self) -> bool:
        """Whether the process is asked to stop."""
        return self._since is not None

    @property
    def patience_is_over(self) -> bool:
        """Whether the process should wait for nothing any more."""
        return self._since is not None and self._clock() > self._since + self._patience


class KeepTrying:
    """Repeats a call with growing, jittered pauses while it raises `SupabaseUnavailable`.

    It gives up `for_seconds` after the call began, when `lease` is lost, and when the process stops: at once
    with `until_stop`, else when a stopping process's patience is over.
    """

    def __init__(
        self,
        stopping: Stopping,
        metrics: Metrics,
        clock: Clock,
        *,
        lease: Lease | None = None,
        for_seconds: float = float("inf"),
        until_stop: bool = False,
    ) -> None:
        self._stopping = stopping
        self._metrics = metrics
        self._clock = clock
        self._lease = lease
        self._for_seconds = for_seconds
        self._until_stop = until_stop
        self.failures = 0
        """Calls that failed so far."""

    async def call(self, step: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """What `function` returns; raises the last `SupabaseUnavailable` after giving up."""
        until = self._clock() + self._for_seconds
        failures = 0
        while True:
            try:
                return await function(*arguments)
            except SupabaseUnavailable as error:
                self._metrics.supabase_unavailable.inc()
                self.failures += 1
                failures += 1
                pause = growing_pause(failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
                if self._clock() + pause > until or not self._worth_it():
                    raise
                log.warning(
                    "supabase_unavailable", step=step, reason=str(error), retry_in_seconds=round(pause, 2)
                )
                await asyncio.sleep(pause)

    def _worth_it(self) -> bool:
        if self._lease is not None and self._lease.lost.is_set():
            return False
        if self._until_stop and self._stopping.begun:
            return False
        return not self._stopping.patience_is_over
