"""Gets the pictures of a task: downloaded safely, upright, at most 1024 pixels on the longer side."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

import structlog

from wearon_contracts.errors import ErrorCode, sentence
from wearon_generator.metrics import Metrics
from wearon_generator.prompts import image_label
from wearon_generator.timing import Clock, Timing
from wearon_service_kit.images.decode import prepare_jpeg
from wearon_service_kit.images.fetch import FetchedImage, ImageFetcher, ImageRefused, ImageUnreachable

log = structlog.get_logger()

MAX_SIDE: Final = 1024
DOWNLOADS_AT_ONCE: Final = 16
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
        self, fetcher: ImageFetcher, decoders: Executor, metrics: Metrics, timing: Timing, clock: Clock
    ) -> None:
        self._fetcher = fetcher
        self._decoders = decoders
        self._metrics = metrics
        self._timing = timing
        self._clock = clock
        self._downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)

    async def download_and_resize(self, urls: list[str]) -> list[bytes]:
        """JPEG bytes of all `urls`, in their order; raises `InputImageError` for the first that fails.

        A host that cannot be reached is tried again for a while, our own Storage for longer. The time counts
        from the first try: waiting for a place to download is nobody's fault.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._prepare(index, url)) for index, url in enumerate(urls)]
        except BaseExceptionGroup as errors:
            first = errors.exceptions[0]
            if isinstance(first, InputImageError):
                self._metrics.image_errors.labels(code=first.code.value).inc()
            raise first from None
        return [task.result() for task in tasks]

    async def _prepare(self, index: int, url: str) -> bytes:
        began_at = float("inf")
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._downloads:
                    began_at = min(began_at, self._clock())
                    fetched = await self._fetcher.fetch(url)
                    return await self._resize(fetched)
            except ImageRefused as error:
                raise InputImageError(error.code, index, error.detail) from error
            except ImageUnreachable as error:
                wait = max(pause * random.uniform(0.5, 1.5), error.retry_after or 0.0)  # noqa: S311
                if self._clock() + wait > began_at + self._patience(error):
                    # That our own Storage does not answer is no fault of the picture.
                    code = ErrorCode.DEADLINE_EXCEEDED if error.trusted_origin else error.code
                    raise InputImageError(code, index, error.detail) from error
                log.warning(
                    "image_unreachable", image=index, code=error.code.value, retry_in_seconds=round(wait, 2)
                )
            await asyncio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _patience(self, error: ImageUnreachable) -> float:
        timing = self._timing
        return timing.own_storage_patience if error.trusted_origin else timing.foreign_host_patience

    async def _resize(self, fetched: FetchedImage) -> bytes:
        resize: Callable[[], bytes] = lambda: prepare_jpeg(fetched.data, max_side=MAX_SIDE).jpeg  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self._decoders, resize)
