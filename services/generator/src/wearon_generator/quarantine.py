"""Keeps jobs apart that were in a process when it died: one of them may be why.

What kills a process takes all of its jobs with it, and each death counts as an attempt of every job in
work. So that only the culprit uses up its attempts, such jobs run few at a time, and one that was in work at
two deaths or more runs while no other suspect does. A suspect is claimed before its pictures are prepared, so
that whatever it does is counted.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from wearon_generator.ledger import Decision
from wearon_generator.metrics import Metrics

log = structlog.get_logger()

FEW: Final = 8
"""Suspects at a time in one process. The fewer, the fewer innocent ones die with the culprit once more; the
more, the sooner all jobs of a process that was killed from outside have run."""


class QuarantinePlace:
    """What one job takes of the quarantine; no suspect takes nothing."""

    def __init__(self, quarantine: Quarantine, decision: Decision[Any]) -> None:
        """`decision`: of the job's hold."""
        self._quarantine = quarantine
        crashes = decision.attempt - decision.rate_limit_retries - decision.postponed
        self.is_suspect = crashes > 0 or decision.holders_lost > 0
        self._wanted = 0 if not self.is_suspect else 1 if crashes <= 1 else FEW
        self._taken = 0

    async def enter(self) -> None:
        """Wait until the suspect may run."""
        # In turn, so that one who needs all places gets them.
        async with self._quarantine.turn:
            while self._taken < self._wanted:
                await self._quarantine.places.acquire()
                self._taken += 1
        company = "alone" if self._wanted == FEW else "few"
        self._quarantine.metrics.quarantined.labels(company=company).inc()
        log.warning("job_quarantined", company=company)

    def leave(self) -> None:
        """Make room for the next one."""
        for _ in range(self._taken):
            self._quarantine.places.release()
        self._taken = 0


class Quarantine:
    """The quarantine of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.turn = asyncio.Lock()
        self.places = asyncio.Semaphore(FEW)

    def place(self, decision: Decision[Any]) -> QuarantinePlace:
        """For a job whose hold was decided so."""
        return QuarantinePlace(self, decision)
