"""What the worst legal task takes of a generator's memory, and hanging hosts of everybody's time."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import structlog
from PIL import Image
from prometheus_client import CollectorRegistry
from tests.bench.pictures import large_photo
from tests.bench.processes import family
from tests.bench.report import Section, at_most, percentile, plain

from wearon_generator.bootstrap import OWN_STORAGE_DOWNLOADS, decode_threads
from wearon_generator.image_processor import ImageProcessor
from wearon_generator.metrics import Metrics
from wearon_generator.timing import Timing
from wearon_service_kit.images.fetch import ImageFetcher
from wearon_service_kit.memory import MB, MemoryBudget

LIMIT_MB = 1024
PADDED_BYTES = 9_900_000
ORDINARY_JOBS = 40
ROOT = Path(__file__).parents[2]


@contextmanager
def _site(files: dict[str, bytes]) -> Iterator[str]:
    """Serves `files`, and under /hang nothing ever, on a free port."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/hang"):
                stop.wait()
                return
            body = files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stop.set()
        server.shutdown()
        server.server_close()


def _webp(width: int, height: int) -> bytes:
    output = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(output, "WEBP", method=0)
    data = output.getvalue()
    return data + bytes(PADDED_BYTES - len(data))


def _processor(origins: list[str], decoders: ThreadPoolExecutor) -> ImageProcessor:
    fetcher = ImageFetcher(trusted_origins=origins, max_concurrent=OWN_STORAGE_DOWNLOADS)
    budget = MemoryBudget.of(LIMIT_MB * MB)
    return ImageProcessor(fetcher, decoders, budget, Metrics(CollectorRegistry()), Timing())


async def _worst_task(origin: str) -> dict[str, Any]:
    """In the measured process: the task and the ordinary jobs beside it, all at the same time."""
    with ThreadPoolExecutor(decode_threads()) as decoders:
        processor = _processor([origin], decoders)
        began = time.monotonic()
        worst = asyncio.create_task(processor.download_and_resize([f"{origin}/50", *[f"{origin}/8"] * 15]))
        jobs = [processor.download_and_resize([f"{origin}/photo"] * 2) for _ in range(ORDINARY_JOBS)]
        await asyncio.gather(*jobs)
        ordinary = time.monotonic() - began
        pictures = len(await worst)
        return {"ordinary": ordinary, "worst": time.monotonic() - began, "pictures": pictures}


def _resident_mb(pid: int) -> float:
    """Of a process and its children, private and shared pages alike."""
    total = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/statm").read_text().split()
        except OSError:
            continue
        total += int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 1e6


def _memory() -> Section:
    section = Section(f"Memory: the worst legal task beside {ORDINARY_JOBS} jobs in a generator of 1 GiB")
    files = {"/50": _webp(8160, 6144), "/8": _webp(3840, 2160), "/photo": large_photo(1)}
    with _site(files) as origin:
        command = [sys.executable, "-m", "tests.bench.memory", origin]
        measured = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        peak = 0.0
        while measured.poll() is None:
            peak = max(peak, _resident_mb(measured.pid))
            time.sleep(0.02)
        assert measured.stdout is not None
        answer = json.loads(measured.stdout.read())
    section.lines = [
        at_most("peak memory of the worst legal task", peak, LIMIT_MB * MB / 1e6, "MB", "RSS with children"),
        plain("the worst task's 16 pictures", answer["worst"], "s"),
        plain(f"the {ORDINARY_JOBS} jobs beside it", answer["ordinary"], "s"),
    ]
    return section


async def _hanging(own: str, foreign: list[str], jobs: int, pause: float) -> list[float]:
    """Seconds until a healthy job has its two pictures; every fifth job hangs, each on one of `foreign`."""
    with ThreadPoolExecutor(decode_threads()) as decoders:
        processor = _processor([own, *foreign], decoders)
        seconds: list[float] = []

        async def healthy() -> None:
            began = time.monotonic()
            await processor.download_and_resize([f"{own}/photo"] * 2)
            seconds.append(time.monotonic() - began)

        working: list[asyncio.Task[Any]] = []
        stuck: list[asyncio.Task[Any]] = []
        for number in range(jobs):
            if number % 5 == 0:
                urls = [f"{foreign[number % len(foreign)]}/hang"] * 2
                stuck.append(asyncio.create_task(processor.download_and_resize(urls)))
            else:
                working.append(asyncio.create_task(healthy()))
            await asyncio.sleep(pause)
        await asyncio.gather(*working)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        return seconds


def _hosts(quick: bool) -> Section:
    jobs = 60 if quick else 240
    section = Section(
        f"Slow hosts: one job in five of {jobs}, two a second, waits for hosts that never answer"
    )
    photo = io.BytesIO()
    # Small, so that what is measured is waiting and not decoding.
    Image.open(io.BytesIO(large_photo(1))).resize((900, 1200)).save(photo, "JPEG")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with _site({"/photo": photo.getvalue()}) as own, _site({}) as one, _site({}) as other:
        seconds = asyncio.run(_hanging(own, [one, other], jobs, 0.5))
    section.lines = [
        at_most("pictures of healthy jobs, p95", percentile(seconds, 0.95), 2, "s"),
        plain("pictures of healthy jobs, slowest", max(seconds), "s"),
    ]
    return section


def run(quick: bool) -> list[Section]:
    return [_memory(), _hosts(quick)]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_worst_task(sys.argv[1]))))
