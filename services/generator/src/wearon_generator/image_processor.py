"""Gets the pictures of a task: downloaded safely, upright, at most 1024 pixels on the longer side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
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
_FIRST_PAUSE: Final = 0.5  # seconds before a host is asked again; it doubles each time
_LONGEST_PAUSE: Final = 8.0  # seconds


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
        self._children = ThreadPoolExecutor(1, thread_name_prefix="child")
        self._given_up: set[asyncio.Task[None]] = set()

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
            admit: Admit = lambda size, trusted: held.enter_async_context(  # noqa: E731
                memory.downloads_of(trusted).hold(size)
            )
            data = (await self._fetcher.fetch(url, admit=admit)).data
            needed = await asyncio.to_thread(memory_needed, data)
            if needed <= HEAVY_BYTES:
                await held.enter_async_context(memory.decodes.hold(needed))
                return await self._in_thread(self._decoders, partial(_prepare_here, data), held)
            # One at a time, so that others find memory and a core. Too much of it ends the child alone.
            await held.enter_async_context(self._heavy)
            await held.enter_async_context(memory.decodes.hold(needed))
            in_child = partial(prepare_in_child, data, max_side=MAX_SIDE, memory=needed)
            return await self._in_thread(self._children, in_child, held)

    async def _in_thread(self, threads: Executor, work: Callable[[], bytes], held: AsyncExitStack) -> bytes:
        """What `work` returns. Once begun it cannot be stopped: it keeps what is `held` to its end, also when
        nobody waits for it any more."""
        job = threads.submit(work)
        result = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not job.cancel() and not result.done():
                giving_back = asyncio.create_task(_give_back(result, held.pop_all()), name="given-up-picture")
                self._given_up.add(giving_back)
                giving_back.add_done_callback(self._given_up.discard)
            raise


async def _give_back(result: asyncio.Future[bytes], held: AsyncExitStack) -> None:
    async with held:
        with suppress(Exception):
            await result


def _prepare_here(data: bytes) -> bytes:
    return prepare_jpeg(data, max_side=MAX_SIDE).jpeg
