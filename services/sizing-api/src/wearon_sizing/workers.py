"""Landmarkers at work off the event loop, with a bounded queue in front of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from wearon_sizing.pose import Landmarker

Result = TypeVar("Result")


class QueueFullError(Exception):
    """As many jobs wait as may wait."""


class BoundedThreads:
    """Threads off the event loop, with a bounded queue in front of them. A job that is cancelled while it
    waits is never started; one at work keeps its thread until it is done, whoever waits for it.

    `queue`: how many jobs may wait beyond those at work.
    """

    def __init__(self, name: str, count: int, queue: int) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(max(count, 1), thread_name_prefix=name)
        self._limit = count + queue
        self._lock = threading.Lock()
        self._unfinished = 0

    @property
    def full(self) -> bool:
        return self._unfinished >= self._limit

    def waiting(self) -> int:
        """Jobs that no thread has taken yet."""
        return max(self._unfinished - self._count, 0)

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`. Raises QueueFullError at once rather than piling up."""
        with self._lock:
            if self.full:
                raise QueueFullError
            self._unfinished += 1
        job = self._threads.submit(work)
        job.add_done_callback(self._finished)
        return await asyncio.wrap_future(job)

    def _finished(self, _job: Future[Result]) -> None:
        with self._lock:
            self._unfinished -= 1

    def close(self) -> None:
        """Let the jobs at work finish, drop those that wait."""
        self._threads.shutdown(cancel_futures=True)


class Workers:
    """One thread per landmarker; `queue` photos may wait for one."""

    def __init__(self, landmarkers: list[Landmarker], queue: int) -> None:
        self._landmarkers = landmarkers
        self._idle: SimpleQueue[Landmarker] = SimpleQueue()
        for landmarker in landmarkers:
            self._idle.put(landmarker)
        self._threads = BoundedThreads("landmarker", len(landmarkers), queue)

    @property
    def loaded(self) -> bool:
        return bool(self._landmarkers)

    @property
    def full(self) -> bool:
        return self._threads.full

    def waiting(self) -> int:
        """Photos that no landmarker has taken yet."""
        return self._threads.waiting()

    async def run(self, work: Callable[[Landmarker], Result]) -> Result:
        """`work` with a landmarker of its own. Raises QueueFullError."""

        def with_landmarker() -> Result:
            landmarker = self._idle.get()
            try:
                return work(landmarker)
            finally:
                self._idle.put(landmarker)

        return await self._threads.run(with_landmarker)

    def close(self) -> None:
        """Let the jobs at work finish, drop those that wait, free the landmarkers."""
        self._threads.close()
        for landmarker in self._landmarkers:
            landmarker.close()
