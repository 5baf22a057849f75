"""Gets the pictures of a task: downloaded safely, upright, at most 1024 pixels on the longer side."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import Final

import structlog

from wearon_contracts.errors import ErrorCode, sentence
from wearon_generator.metrics import Metrics
from wearon_generator.prompts import image_label
from wearon_generator.timing import Timing
from wearon_service_kit.images.child import prepare_in_child
from wearon_service_kit.images.decode import HEAVY_BYTES, memory_needed, prepare_jpeg
from wearon_service_kit.images.fetch import Admit, ImageFetcher, ImageRefused, ImageUnreachable
from wearon_service_kit.memory import MemoryBudget
from wearon_service_kit.pauses import growing_pause

log = structlog.get_logger()

MAX_SIDE: Final = 1024
PICTURES_OF_A_JOB_AT_ONCE: Final = 3  # so that one job of 16 large files leaves memory to the others
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0


class InputImageError(Exception):
    """An input image cannot be used; `sentence` says which one and why."""

    def __init__(self, code: ErrorCode, index: int, detail: str) -> None:
        super().__init__(f"{code.value} (image {index}): {detail}")
        self.code = code
        self.detail = detail
        self.sentence = sentence(code, image_label(index))


class ImageProcessor:
    """Downloads and resizes for all jobs of the process, within its limits."""

    def __init__(
        self,
        fetcher: ImageFetcher,
        decoders: Executor,
        memory: MemoryBudget,
        metrics: Metrics,
        timing: Timing,
    ) -> None:
        self._fetcher = fetcher
        self._decoders = decoders
        self._metrics = metrics
        self._timing = timing
        self._memory = memory
        self._heavy = asyncio.Semaphore(1)

    async def download_and_resize(self, urls: list[str]) -> list[bytes]:
        """JPEG bytes of all `urls`, in their order; raises `InputImageError` for the first that fails.

        A host that cannot be reached is tried again for a while, our own Storage for longer. Tries and
        pauses count: waiting for a place to download, or for memory, is nobody's fault.
        """
        turns = asyncio.Semaphore(PICTURES_OF_A_JOB_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._prepare(index, url, turns)) for index, url in enumerate(urls)
                ]
        except BaseExceptionGroup as errors:
            first = errors.exceptions[0]
            if isinstance(first, InputImageError):
                self._metrics.image_errors.labels(code=first.code.value).inc()
            raise first from None
        return [task.result() for task in tasks]

    async def _prepare(self, index: int, url: str, turns: asyncio.Semaphore) -> bytes:
        spent = 0.0
        failures = 0
        while True:
            try:
                async with turns:
                    return await self._fetch_and_resize(url)
            except ImageRefused as error:
                raise InputImageError(error.code, index, error.detail) from error
            except ImageUnreachable as error:
                failures += 1
                spent += error.seconds
                left = self._patience(error) - spent
                if left <= 0:
                    # That our own Storage does not answer is no fault of the picture.
                    code = ErrorCode.DEADLINE_EXCEEDED if error.trusted_origin else error.code
                    raise InputImageError(code, index, error.detail) from error
                # The last try comes when the patience ends, not a whole pause before.
                pause = growing_pause(failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
                wait = min(max(pause, error.retry_after or 0.0), left)
                spent += wait
                log.warning(
                    "image_unreachable", image=index, code=error.code.value, retry_in_seconds=round(wait, 2)
                )
            await asyncio.sleep(wait)

    def _patience(self, error: ImageUnreachable) -> float:
        timing = self._timing
        return timing.own_storage_patience if error.trusted_origin else timing.foreign_host_patience

    async def _fetch_and_resize(self, url: str) -> bytes:
        memory = self._memory
        async with AsyncExitStack() as held:
            admit: Admit = lambda size: held.enter_async_context(memory.downloads.hold(size))  # noqa: E731
            data = (await self._fetcher.fetch(url, admit=admit)).data
            needed = await asyncio.to_thread(memory_needed, data)
            if needed > HEAVY_BYTES:
                return await self._prepare_heavy(data, needed)
            async with memory.decodes.hold(needed):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._decoders, _prepare_here, data)

    async def _prepare_heavy(self, data: bytes, needed: int) -> bytes:
        """One at a time, so that others find memory and a core. Too much of it ends the child alone."""
        async with self._heavy, self._memory.decodes.hold(needed):
            return await asyncio.to_thread(prepare_in_child, data, max_side=MAX_SIDE, memory=needed)


def _prepare_here(data: bytes) -> bytes:
    return prepare_jpeg(data, max_side=MAX_SIDE).jpeg
