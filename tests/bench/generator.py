"""The generator under load: rate, CPU, memory and overhead, beside prefork workers and plain decoding."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.images import pyvips_ms
from tests.bench.pictures import large_photo, result_picture
from tests.bench.processes import cpu_seconds, pss_mb
from tests.bench.report import Line, Section, at_least, at_most, percentile, plain

from wearon_local.app.next_app import Job
from wearon_local.processes import Process, free_port, listens
from wearon_local.stack import Stack

HERE = Path(__file__).parent
_TOUCH = "update generation_sessions set created_at = now() where id = %s returning id"


@dataclass(frozen=True)
class Load:
    """Jobs pushed one by one at `per_minute` for `seconds`, each taking `latency` seconds at the provider."""

    latency: float
    per_minute: float
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What one worker process made of a load, in its steady part."""

    jobs_per_minute: float
    cpu_ms_per_job: float
    cores: float
    pss_idle_mb: float
    pss_mb: float
    in_flight: float
    overhead_p50: float
    overhead_p95: float


class Bench:
    """A stack with inputs of a real phone's size, and workers of several kinds on it."""

    def __init__(self, stack: Stack, latency: float) -> None:
        self.stack = stack
        self._picture = stack.directory / "result.jpg"
        self._picture.write_bytes(result_picture())
        self._provider_port = free_port()
        argv = [sys.executable, HERE / "provider.py", str(self._provider_port), str(latency), self._picture]
        self._provider = stack._nursery.start(f"provider-{self._provider_port}", argv)
        self._provider.wait_until(lambda: listens(self._provider_port))
        self.user = stack.app.create_user(credits=1_000_000)
        self.urls = stack.app.upload_inputs(self.user, [large_photo(1), large_photo(2)])

    def environment(self, **changes: str) -> dict[str, str]:
        base = f"http://127.0.0.1:{self._provider_port}/v1"
        return {"OPENAI_BASE_URL": base, "LOG_LEVEL": "WARNING", **changes}

    def jobs(self, count: int) -> list[Job]:
        return [self.stack.app.b2c_job(self.user, image_urls=self.urls) for _ in range(count)]

    def close(self) -> None:
        self._provider.kill()


@contextmanager
def bench(latency: float) -> Iterator[Bench]:
    with Stack() as stack:
        stack.start_service("consumer", {"LOG_LEVEL": "WARNING"})
        running = Bench(stack, latency)
        try:
            yield running
        finally:
            running.close()


def start_variant(running: Bench, *arguments: str, **environment: str) -> Process:
    """A worker of `variants.py`; it is up when it has emptied the queue, so it is not waited for."""
    env = {**running.stack.env_for("generator"), "HEALTH_PORT": str(free_port())}
    env |= running.environment(**environment)
    argv = [sys.executable, "-m", "tests.bench.variants", *arguments]
    return running.stack._nursery.start("-".join(arguments), argv, env=env, cwd=HERE.parent.parent)


def push_evenly(running: Bench, jobs: list[Job], per_minute: float) -> threading.Thread:
    def run() -> None:
        began = time.monotonic()
        for number, job in enumerate(jobs):
            time.sleep(max(0.0, began + number * 60 / per_minute - time.monotonic()))
            running.stack.app.rows(_TOUCH, job.session_id)
            running.stack.app.push(job)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def measure(running: Bench, worker: Process, load: Load) -> Measured:
    """Run the load; the steady part begins when the first answers are due and ends with the last push."""
    pss_idle = pss_mb(worker.pid)
    jobs = running.jobs(round(load.per_minute / 60 * (load.latency + load.seconds)))
    pusher = push_evenly(running, jobs, load.per_minute)
    time.sleep(load.latency + 1)
    began, cpu_before, done_before = time.monotonic(), cpu_seconds(worker.pid), _completed(running)
    samples: list[float] = []
    while pusher.is_alive():
        samples.append(pss_mb(worker.pid))
        pusher.join(2)
    seconds = time.monotonic() - began
    cpu = cpu_seconds(worker.pid) - cpu_before
    done = _completed(running) - done_before
    running.stack.app.wait_settled(*jobs, timeout=load.latency * 3 + 120)
    overheads = [value - load.latency for value in durations(running, jobs)]
    return Measured(
        jobs_per_minute=done / seconds * 60,
        cpu_ms_per_job=cpu / max(done, 1) * 1000,
        cores=cpu / seconds,
        pss_idle_mb=pss_idle,
        pss_mb=max(samples, default=pss_idle),
        in_flight=load.per_minute / 60 * load.latency,
        overhead_p50=percentile(overheads, 0.5),
        overhead_p95=percentile(overheads, 0.95),
    )


def _completed(running: Bench) -> int:
    row = running.stack.app.rows("select count(*) as n from generation_sessions where status = 'completed'")[
        0
    ]
    return int(row["n"])


def durations(running: Bench, jobs: list[Job]) -> list[float]:
    rows: list[dict[str, Any]] = running.stack.app.rows(
        "select extract(epoch from completed_at - created_at)::float as s"
        " from generation_sessions where id = any(%s)",
        [job.session_id for job in jobs],
    )
    return [row["s"] for row in rows]


def shipped(running: Bench) -> Process:
    env = running.environment(GENERATOR_CONCURRENCY="256", GENERATIONS_PER_MINUTE="600")
    return running.stack.start_service("generator", env).process


def _lines(title: str, measured: Measured, load: Load) -> list[Line]:
    return [
        plain(
            f"{title}: jobs/min", measured.jobs_per_minute, "1/min", f"{load.per_minute:g}/min were pushed"
        ),
        plain(f"{title}: CPU per job", measured.cpu_ms_per_job, "ms"),
        plain(f"{title}: cores", measured.cores, "cores"),
        plain(f"{title}: PSS idle", measured.pss_idle_mb, "MB"),
        plain(f"{title}: PSS under load", measured.pss_mb, "MB"),
        plain(f"{title}: overhead p50", measured.overhead_p50, "s"),
        plain(f"{title}: overhead p95", measured.overhead_p95, "s"),
    ]


def saturated(running: Bench, worker: Process, jobs: int, in_flight: int) -> tuple[float, float]:
    """Push `jobs` at once; returns the rate per minute and the PSS at its height."""
    work = running.jobs(jobs)
    began = time.monotonic()
    running.stack.app.push(*work)
    peak = 0.0
    ids = [job.session_id for job in work]
    query = "select count(*) as n from generation_sessions where id = any(%s) and status = 'completed'"
    while running.stack.app.rows(query, ids)[0]["n"] < jobs:
        peak = max(peak, pss_mb(worker.pid))
        if time.monotonic() - began > 240:
            raise TimeoutError(f"{jobs} jobs, {in_flight} at a time, did not end in 240 s")
        time.sleep(0.5)
    return jobs / (time.monotonic() - began) * 60, peak


def run(quick: bool) -> Iterator[Section]:
    section = Section("Generator: one process, two 12-megapixel photos in, 1.5 MB out")
    long = (
        Load(latency=6, per_minute=300, seconds=10) if quick else Load(latency=45, per_minute=300, seconds=45)
    )
    with bench(long.latency) as running:
        pyvips = sum(pyvips_ms(large_photo(number)) for number in (1, 2))
        measured = measure(running, shipped(running), long)
    per_job = measured.pss_mb / measured.in_flight
    section.lines += [
        at_least("shipped: jobs/min", measured.jobs_per_minute, 291, "1/min", f"latency {long.latency:g} s"),
        at_most("shipped: cores", measured.cores, 1, "cores"),
        at_most("shipped: PSS under load", measured.pss_mb, 300, "MB", f"{measured.in_flight:.0f} in flight"),
        plain("shipped: PSS idle", measured.pss_idle_mb, "MB"),
        plain("shipped: CPU per job", measured.cpu_ms_per_job, "ms"),
        plain("pyvips: both photos, alone", pyvips, "ms", "how fast this machine is just now"),
        plain("shipped: overhead p50", measured.overhead_p50, "s"),
        at_most("shipped: overhead p95", measured.overhead_p95, 0.3, "s"),
        plain("shipped: memory per job in flight", per_job, "MB"),
    ]
    if not quick:
        middle = Load(latency=20, per_minute=300, seconds=30)
        with bench(middle.latency) as running:
            section.lines += _lines("shipped, 20 s", measure(running, shipped(running), middle), middle)
    yield section
    yield _against_plain_pillow(quick)
    yield _against_prefork(quick, per_job)


def _against_plain_pillow(quick: bool) -> Section:
    load = Load(latency=2, per_minute=240, seconds=8 if quick else 25)
    with bench(load.latency) as running:
        ours = measure(running, shipped(running), load)
    with bench(load.latency) as running:
        limits = {"GENERATOR_CONCURRENCY": "256", "GENERATIONS_PER_MINUTE": "600"}
        worker = start_variant(running, "plain-pillow", **limits)
        saturated(running, worker, 1, 1)
        theirs = measure(running, worker, load)
    ratio = ours.cpu_ms_per_job / theirs.cpu_ms_per_job
    return Section(
        f"Generator, the same job with plain Pillow decoding, {load.per_minute:g}/min",
        [
            plain("plain Pillow: CPU per job", theirs.cpu_ms_per_job, "ms"),
            plain("shipped: CPU per job", ours.cpu_ms_per_job, "ms"),
            at_most("CPU per job, shipped ÷ plain Pillow", ratio, 0.6, "×"),
        ],
    )


def _against_prefork(quick: bool, per_job: float) -> Section:
    section = Section("Generator, the same job in Celery's prefork pool, saturated")
    latency = 3.0 if quick else 8.0
    for children in (5,) if quick else (5, 32):
        with bench(latency) as running:
            worker = start_variant(running, "prefork", str(children), GENERATIONS_PER_MINUTE="60000")
            saturated(running, worker, children, children)
            rate, peak = saturated(running, worker, children * 2, children)
        each = peak / children
        section.lines += [
            plain(f"prefork {children}: jobs/min", rate, "1/min", f"{latency:g} s latency"),
            plain(f"prefork {children}: PSS under load", peak, "MB"),
            plain(f"prefork {children}: memory per job in flight", each, "MB"),
        ]
        if children == 32:
            section.lines.append(
                at_most("memory per job in flight, shipped ÷ prefork 32", per_job / each, 1 / 20, "×")
            )
    with bench(latency) as running:
        worker = running.stack.start_service(
            "generator", running.environment(GENERATOR_CONCURRENCY="256", GENERATIONS_PER_MINUTE="60000")
        ).process
        rate, peak = saturated(running, worker, 40 if quick else 160, 256)
    section.lines += [
        plain("shipped: jobs/min", rate, "1/min", f"{latency:g} s latency, all pushed at once"),
        plain("shipped: PSS under load", peak, "MB"),
    ]
    return section
