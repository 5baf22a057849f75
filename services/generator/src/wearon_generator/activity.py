"""Whether a generator has jobs; without, it looks at Redis seldom, for hosted plans count commands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

IDLE_SECONDS: Final = 30.0
"""Between two looks of a process without jobs; a job that comes ends the pause."""


class Activity:
    """Knows whether this process has jobs. On the event loop."""

    def __init__(self) -> None:
        self._jobs = 0
        self._job_came = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether no job is here."""
        return self._jobs == 0

    @contextmanager
    def job(self) -> Iterator[None]:
        """A job is here for the duration of the block."""
        self._jobs += 1
        self._job_came.set()
        try:
            yield
        finally:
            self._jobs -= 1
            if self.idle:
                self._job_came.clear()

    async def pause(self, seconds: float) -> None:
        """For so long while a job is here; otherwise until one comes, `IDLE_SECONDS` at most."""
        if not self.idle:
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS):
                await self._job_came.wait()
