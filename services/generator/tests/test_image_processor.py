"""The pictures of a task, from their addresses to JPEGs, within the process's memory."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from wearon_contracts.errors import ErrorCode
from wearon_generator.image_processor import ImageProcessor, InputImageError
from wearon_generator.metrics import Metrics
from wearon_generator.timing import Timing
from wearon_service_kit.images.decode import HEAVY_BYTES, memory_needed
from wearon_service_kit.images.fetch import ImageFetcher
from wearon_service_kit.memory import MB, MemoryBudget


def encoded(format_: str, size: tuple[int, int], padding: int = 0) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", size, "white").save(output, format_)
    return output.getvalue() + bytes(padding)


ORDINARY = encoded("JPEG", (1200, 900))
HEAVY = encoded("PNG", (6000, 4000))  # 24 megapixels in 70 kB
PADDED = ORDINARY + os.urandom(1) * (9 * MB)


@contextmanager
def web_site(files: dict[str, bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def prepare(
    origin: str, jobs: list[list[str]], memory: MemoryBudget, timing: Timing | None = None
) -> list[object]:
    async def scenario() -> list[object]:
        fetcher = ImageFetcher(trusted_origins=[origin])
        with ThreadPoolExecutor(2) as decoders:
            processor = ImageProcessor(
                fetcher, decoders, memory, Metrics(CollectorRegistry()), timing or Timing()
            )
            async with asyncio.timeout(60):
                return list(
                    await asyncio.gather(
                        *(processor.download_and_resize([origin + path for path in paths]) for paths in jobs),
                        return_exceptions=True,
                    )
                )

    return asyncio.run(scenario())


def sizes(jpegs: object) -> list[tuple[int, int]]:
    assert isinstance(jpegs, list)
    return [Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs]


def test_pictures_come_back_in_order_and_all_memory_is_given_back() -> None:
    memory = MemoryBudget.of(512 * MB)
    assert memory_needed(HEAVY) > HEAVY_BYTES > memory_needed(PADDED)
    with web_site({"/o": ORDINARY, "/h": HEAVY, "/p": PADDED}) as origin:
        jobs = [["/o", "/h", "/p"], *[["/o", "/p"]] * 8]
        results = prepare(origin, jobs, memory)
    assert [sizes(result) for result in results] == [
        [(1024, 768), (1024, 683), (1024, 768)],
        *[[(1024, 768)] * 2] * 8,
    ]
    assert memory.downloads.held == memory.decodes.held == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (HEAVY[: len(HEAVY) // 2], ErrorCode.IMAGE_DAMAGED),
        (b"<html>", ErrorCode.IMAGE_WEB_PAGE),
        (encoded("JPEG", (63, 400)), ErrorCode.IMAGE_TOO_SMALL),
    ],
)
def test_refused_picture_names_itself_and_gives_its_memory_back(data: bytes, code: ErrorCode) -> None:
    memory = MemoryBudget.of(512 * MB)
    with web_site({"/o": ORDINARY, "/x": data}) as origin:
        refused, fine = prepare(origin, [["/o", "/x"], ["/o"]], memory)
    assert isinstance(refused, InputImageError)
    assert refused.code == code
    assert "garment" in refused.sentence
    assert sizes(fine) == [(1024, 768)]
    assert memory.downloads.held == memory.decodes.held == 0


def test_waiting_for_memory_is_not_taken_from_the_patience_with_a_host() -> None:
    """All jobs need all of the memory for downloads in turn; nobody's patience of a second runs out."""
    memory = MemoryBudget.of(512 * MB)
    with web_site({"/p": PADDED}) as origin:
        results = prepare(origin, [["/p"]] * 12, memory, Timing(own_storage_patience=1.0))
    assert all(sizes(result) == [(1024, 768)] for result in results)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.005)


def children() -> list[str]:
    found: list[str] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has ended meanwhile
            found += (thread / "children").read_text().split()
    return found


def preparing(url: str, decoders: ThreadPoolExecutor, memory: MemoryBudget) -> asyncio.Task[object]:
    """A job that prepares the one picture at `url`, whose origin is trusted."""
    origin = url.rpartition("/")[0]
    fetcher, metrics = ImageFetcher(trusted_origins=[origin]), Metrics(CollectorRegistry())
    processor = ImageProcessor(fetcher, decoders, memory, metrics, Timing())
    return asyncio.create_task(processor.download_and_resize([url]))


def test_picture_that_nobody_waits_for_keeps_its_memory_until_its_child_has_ended() -> None:
    before = children()

    async def scenario(origin: str) -> None:
        memory = MemoryBudget.of(512 * MB)
        with ThreadPoolExecutor(2) as decoders:
            job = preparing(f"{origin}/h", decoders, memory)
            async with asyncio.timeout(30):
                await until(lambda: children() != before)
                job.cancel()
                await asyncio.wait({job})
                assert children() != before
                assert memory.decodes.held == memory_needed(HEAVY)
                await until(lambda: memory.decodes.held == 0)
                assert children() == before
            assert memory.downloads.held == 0

    with web_site({"/h": HEAVY}) as origin:
        asyncio.run(scenario(origin))


def test_picture_that_nobody_waits_for_gives_its_memory_back_before_a_thread_has_begun() -> None:
    async def scenario(origin: str) -> None:
        memory = MemoryBudget.of(512 * MB)
        with ThreadPoolExecutor(1) as decoders:
            busy = threading.Event()
            decoders.submit(busy.wait)
            job = preparing(f"{origin}/o", decoders, memory)
            async with asyncio.timeout(30):
                await until(lambda: memory.decodes.held > 0)
                await asyncio.sleep(0)
                job.cancel()
                await asyncio.wait({job})
            assert memory.decodes.held == memory.downloads.held == 0
            busy.set()

    with web_site({"/o": ORDINARY}) as origin:
        asyncio.run(scenario(origin))


def test_strangers_who_send_slowly_leave_memory_to_the_pictures_of_our_own_storage() -> None:
    """A stranger announces a large file, which is given memory, and then sends nothing."""

    async def scenario(origin: str) -> None:
        memory = MemoryBudget.of(512 * MB)
        async with AsyncExitStack() as strangers:
            for _ in range(3):
                waiting = strangers.enter_async_context(memory.downloads_of(trusted=False).hold(10 * MB))
                with suppress(TimeoutError):
                    await asyncio.wait_for(waiting, 0.01)
            with ThreadPoolExecutor(2) as decoders:
                processor = ImageProcessor(
                    ImageFetcher(trusted_origins=[origin]),
                    decoders,
                    memory,
                    Metrics(CollectorRegistry()),
                    Timing(),
                )
                async with asyncio.timeout(10):
                    assert sizes(await processor.download_and_resize([f"{origin}/p"])) == [(1024, 768)]

    with web_site({"/p": PADDED}) as origin:
        asyncio.run(scenario(origin))
