"""Tasks that go on beside everything else until the process stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

log = structlog.get_logger()

_CANCEL_AGAIN_SECONDS: Final = 0.2  # after a cancellation that the work swallowed


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait until it is over; how it ended does not matter.

    More than once if need be: Python 3.11's `asyncio.wait_for`, which redis-py uses for every command,
    swallows a cancellation that comes while it finishes (python/cpython#86296).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)


class Background:
    """One such task."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin `work`, which is not expected to end by itself; if an error ends it, the log says so."""
        self._task = asyncio.create_task(work, name=self._name)
        self._task.add_done_callback(self._log_failure)

    async def stop(self) -> None:
        """Cancel it and wait until it is over."""
        if self._task is not None:
            await end(self._task)

    def _log_failure(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("background_task_ended", task=self._name, exc_info=error)
