"""Runs the service beside a bare detect() loop on the same images and prints latency, load and memory.

    python services/sizing-api/tools/load.py --pictures FOLDER

Starts `python -m wearon_sizing` and serves the JPEGs to it from loopback; nothing leaves this machine. Exit
code 1 when a limit is missed.
"""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mediapipe
import numpy as np
from figures import Figure, conclude
from mediapipe.tasks.python import vision
from mediapipe.tasks.python.core.base_options import BaseOptions
from numpy.typing import NDArray
from PIL import Image

MOST_LATENCY_RATIO = 1.8
MOST_CHECK_SECONDS = 0.15
MOST_SECONDS_OVERLOADED = 3.0
MOST_HEALTH_SECONDS = 0.2
MOST_MEMORY_GROWTH = 1.1
OVERLOAD_SECONDS = 15.0
WORKERS = 2
MOST_PICTURES = 100
BARE_PICTURES = 50
HEIGHT_CM = 170
"""Sent with every picture; how long an answer takes does not depend on it."""
# The service closes a connection that has been idle for 5 s.
KEEP_ALIVE_SECONDS = 3.0

Send = Callable[[int], Awaitable[int]]


def throughput_ratio_wanted() -> float:
    """What two workers must add: less where the load generator has no core of its own."""
    return 1.5 if len(os.sched_getaffinity(0)) >= 4 else 1.15


@dataclass
class Client:
    """Keep-alive HTTP/1.1 to the service, as little work per request as possible."""

    port: int
    idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def send(self, head: str, body: bytes = b"") -> tuple[int, bytes]:
        reader, writer = await self._connect()
        fields = f"Host: sizing\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(f"{head} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        content = await reader.readexactly(length)
        self.idle.append((time.monotonic(), reader, writer))
        return int(answer[9:12]), content

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self.idle:
            since, reader, writer = self.idle.pop()
            if time.monotonic() - since < KEEP_ALIVE_SECONDS:
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def image_host(pictures: dict[str, bytes]) -> AsyncIterator[str]:
    """The origin under which `pictures` can be downloaded."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        picture = pictures[request.split(b" ", 2)[1].decode()]
        fields = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\nConnection: close"
        writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + picture)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def service(model: Path, origin: str) -> AsyncIterator[tuple[int, Client]]:
    """The process id of the running service, and a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PORT": str(port),
        "IMAGE_FETCH_TRUSTED_ORIGINS": origin,
        "MEDIAPIPE_MODEL_PATH": str(model),
        "SIZING_WORKERS": str(WORKERS),
        "LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "wearon_sizing"]
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        client = Client(port)
        deadline = time.monotonic() + 60
        while True:
            try:
                status, _ = await client.send("GET /ready")
                if status == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit("the service did not become ready")
            await asyncio.sleep(0.1)
        yield process.pid, client
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)


def bare_landmarker(model: Path) -> vision.PoseLandmarker:
    """A landmarker with nothing of ours around it."""
    options = vision.PoseLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(model)), output_segmentation_masks=True
    )
    return vision.PoseLandmarker.create_from_options(options)


def bare_detect(landmarker: vision.PoseLandmarker, pictures: Sequence[NDArray[np.uint8]]) -> list[float]:
    """Seconds of each detect() alone, one picture after the other."""
    seconds = []
    for picture in pictures:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)
        start = time.perf_counter()
        landmarker.detect(image)
        seconds.append(time.perf_counter() - start)
    return seconds


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no VmRSS")


def quantiles(seconds: Sequence[float]) -> str:
    p50, p95, most = np.quantile(seconds, [0.5, 0.95, 1.0]) * 1000
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, slowest {most:.0f} ms"


async def closed_loop(send: Send, requests: int, at_once: int) -> tuple[list[float], Counter[int], float]:
    """`requests` with `at_once` under way all the time: seconds of each, statuses, seconds in all."""
    seconds: list[float] = []
    statuses: Counter[int] = Counter()
    numbers = iter(range(requests))

    async def worker() -> None:
        for number in numbers:
            start = time.perf_counter()
            statuses[await send(number)] += 1
            seconds.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return seconds, statuses, time.perf_counter() - start


async def open_loop(send: Send, rate: float, duration: float) -> list[tuple[int, float]]:
    """Requests at a fixed rate, whatever the answers do: status and seconds of each."""
    results: list[tuple[int, float]] = []

    async def one(number: int) -> None:
        start = time.perf_counter()
        status = await send(number)
        results.append((status, time.perf_counter() - start))

    tasks = []
    start = time.perf_counter()
    for number in range(int(rate * duration)):
        delay = start + number / rate - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    return results


async def health_times(client: Client, stop: asyncio.Event) -> list[float]:
    seconds = []
    while not stop.is_set():
        start = time.perf_counter()
        status, _ = await client.send("GET /health")
        if status != 200:
            raise SystemExit(f"/health answered {status}")
        seconds.append(time.perf_counter() - start)
        await asyncio.sleep(0.1)
    return seconds


def send_with(client: Client, bodies: Sequence[bytes], path: str = "/estimate-body") -> Send:
    async def send(number: int) -> int:
        status, _ = await client.send(f"POST {path}", bodies[number % len(bodies)])
        return status

    return send


async def measure_check(send: Send) -> list[Figure]:
    """/check-photo, one request after the other."""
    seconds, statuses, _ = await closed_loop(send, 100, 1)
    print(f"/check-photo one by one: {quantiles(seconds)}; {dict(statuses)}")
    return [Figure("p50 of /check-photo", float(np.median(seconds)), "s", most=MOST_CHECK_SECONDS)]


async def measure_latency(send: Send, bare: Callable[[], Awaitable[list[float]]]) -> list[Figure]:
    """One request after the other, turn and turn about with the bare loop, so that whatever else the machine
    does falls on both alike."""
    alone: list[float] = []
    served: list[float] = []
    for _ in range(3):
        alone += await bare()
        served += (await closed_loop(send, 40, 1))[0]
    ratio = float(np.median(served) / np.median(alone))
    print(f"bare detect():       {quantiles(alone)}")
    print(f"requests one by one: {quantiles(served)}; p50 is {ratio:.2f} times the bare one")
    return [Figure("p50 of a request / bare detect()", ratio, "x", most=MOST_LATENCY_RATIO)]


async def measure_throughput(
    send: Send, bare: Callable[[], Awaitable[list[float]]]
) -> tuple[float, list[Figure]]:
    """Requests per second that two workers keep up, also as a multiple of the bare loop."""
    rates, bare_rates = [], []
    for _ in range(3):
        bare_rates.append(1 / float(np.mean(await bare())))
        seconds, _, whole = await closed_loop(send, 150, 6)
        rates.append(len(seconds) / whole)
    rate, bare_rate = float(np.median(rates)), float(np.median(bare_rates))
    ratio, wanted = rate / bare_rate, throughput_ratio_wanted()
    print(f"throughput: {rate:.1f} requests/s with 2 workers, {bare_rate:.1f}/s bare: {ratio:.2f} times")
    return rate, [Figure("throughput with 2 workers / one bare loop", ratio, "x", least=wanted)]


async def measure_overload(send: Send, client: Client, rate: float) -> list[Figure]:
    """Requests at `rate` per second, which is too many."""
    stop = asyncio.Event()
    health = asyncio.create_task(health_times(Client(client.port), stop))
    results = await open_loop(send, rate, OVERLOAD_SECONDS)
    stop.set()
    health_seconds = await health
    counts = Counter(status for status, _ in results)
    slowest = max(seconds for _, seconds in results)
    print(f"at {rate:.0f} requests/s for {OVERLOAD_SECONDS:.0f} s: {dict(counts)}")
    for status in sorted(counts):
        print(f"  {status}: {quantiles([seconds for each, seconds in results if each == status])}")
    print(f"  /health meanwhile: {quantiles(health_seconds)}")
    unexpected = sum(count for status, count in counts.items() if status not in (200, 422, 503))
    return [
        Figure("slowest answer under overload", slowest, "s", most=MOST_SECONDS_OVERLOADED),
        Figure("503 under overload", counts[503], "", least=1),
        Figure("other refusals under overload", unexpected, "", most=0),
        Figure("slowest /health under overload", max(health_seconds), "s", most=MOST_HEALTH_SECONDS),
    ]


async def measure_memory(send: Send, pid: int) -> list[Figure]:
    await closed_loop(send, 200, 4)
    after_200 = resident_mb(pid)
    await closed_loop(send, 1800, 4)
    after_2000 = resident_mb(pid)
    print(f"memory: {after_200:.0f} MB after 200 requests, {after_2000:.0f} MB after 2,000")
    growth = after_2000 / after_200
    return [Figure("memory after 2,000 requests / after 200", growth, "x", most=MOST_MEMORY_GROWTH)]


async def run(files: Sequence[Path], model: Path) -> list[Figure]:
    pictures = {f"/{number}.jpg": file.read_bytes() for number, file in enumerate(files)}
    some = [np.asarray(Image.open(file).convert("RGB")) for file in files[:BARE_PICTURES]]
    decoded = [some[number % len(some)] for number in range(BARE_PICTURES)]
    landmarker = bare_landmarker(model)
    bare_detect(landmarker, decoded[:10])

    async def bare() -> list[float]:
        return await asyncio.to_thread(bare_detect, landmarker, decoded)

    async with image_host(pictures) as origin:
        bodies = [
            json.dumps({"image_url": origin + name, "height_cm": HEIGHT_CM}).encode() for name in pictures
        ]
        checks = [json.dumps({"image_url": origin + name, "purpose": "sizing"}).encode() for name in pictures]
        async with service(model, origin) as (_, client):
            send = send_with(client, bodies)
            await closed_loop(send, 50, 2)
            figures = await measure_latency(send, bare)
            figures += await measure_check(send_with(client, checks, "/check-photo"))
            rate, throughput = await measure_throughput(send, bare)
            figures += throughput + await measure_overload(send, client, 2 * rate)
        # A fresh process, so that memory is that of requests and not of an overload.
        async with service(model, origin) as (pid, client):
            figures += await measure_memory(send_with(client, bodies), pid)
    landmarker.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True, help="folder of JPEGs, 640 px at most")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    parser.add_argument("--json", type=Path, help="where to write the figures that have a limit")
    options = parser.parse_args()
    files = sorted(options.pictures.glob("*.jpg"))[:MOST_PICTURES]
    if not files:
        raise SystemExit(f"{options.pictures}: no .jpg in it")
    sys.exit(conclude(asyncio.run(run(files, options.model)), options.json))


if __name__ == "__main__":
    main()
