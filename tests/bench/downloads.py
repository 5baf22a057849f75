"""Slow downloads: what hosts that never answer take of everybody's time, and how many jobs a minute run.

Pictures are small, so that what is measured is waiting and not decoding.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.generator import Bench, bench, durations, push_evenly
from tests.bench.report import Section, at_least, at_most, percentile, plain
from tests.chaos.workload import small

from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON, Job

PER_MINUTE = 120
LATENCY = 2.0
"""Seconds at the provider."""
DOWNLOAD_SECONDS = (0.0, 2.2, 8.0)
ONE_IN = 5
"""Of so many jobs one has its pictures on a host that never answers."""


def run(quick: bool) -> Iterator[Section]:
    yield _silent_hosts(60 if quick else 240)
    yield _rates(60 if quick else 120)


def _silent_hosts(count: int) -> Section:
    section = Section(f"Silent hosts: {count} jobs, {PER_MINUTE}/min, one in {ONE_IN} on two such hosts")
    with _bench() as running, _silent_host() as one, _silent_host() as other:
        running.stack.start_service(
            "generator", running.environment(IMAGE_FETCH_TRUSTED_ORIGINS=f"{one},{other}")
        )
        jobs = running.jobs(count)
        for number in range(0, count, ONE_IN):
            jobs[number].task["image_urls"] = [f"{(one, other)[number % 2]}/{number}.jpg"] * 2
        healthy = [job for number, job in enumerate(jobs) if number % ONE_IN]
        push_evenly(running, jobs, PER_MINUTE).join()
        running.stack.app.wait_settled(*healthy, timeout=120)
        overheads = [seconds - LATENCY for seconds in durations(running, healthy)]
    section.lines = [
        at_most("healthy jobs, pictures and all else but the call, p95", percentile(overheads, 0.95), 2, "s"),
        plain("… slowest", max(overheads), "s"),
    ]
    return section


def _rates(count: int) -> Section:
    section = Section(f"Slow downloads: {count} jobs pushed at once under a limit of {PER_MINUTE}/min")
    for seconds in DOWNLOAD_SECONDS:
        with _bench() as running:
            running.stack.gateway.inject("delay", path="/object/sign/", times=None, seconds=seconds)
            env = running.environment(GENERATIONS_PER_MINUTE=str(PER_MINUTE))
            running.stack.start_service("generator", env)
            jobs = running.jobs(count)
            running.stack.app.push(*jobs)
            running.stack.app.wait_settled(*jobs, timeout=300)
            ends = _completed_at(running, jobs)
        # The first third is the start: how slow downloads are shows only when some have ended.
        begun = count // 3
        rate = (count - 1 - begun) / (ends[-1] - ends[begun]) * 60
        section.lines += [
            at_least(f"{seconds:g} s a download: jobs/min", rate, 0.97 * PER_MINUTE, "1/min"),
            plain("… from the first result to the last", ends[-1] - ends[0], "s"),
        ]
        section.data[f"{seconds:g}"] = [end - ends[0] for end in ends]
    return section


@contextmanager
def _bench() -> Iterator[Bench]:
    with bench(LATENCY) as running:
        pictures = [small(SAMPLE_PERSON), small(SAMPLE_GARMENT)]
        running.urls = running.stack.app.upload_inputs(running.user, pictures)
        yield running


@contextmanager
def _silent_host() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _completed_at(running: Bench, jobs: list[Job]) -> list[float]:
    """Seconds since the epoch, the first one first."""
    rows = running.stack.app.rows(
        "select extract(epoch from completed_at)::float as s from generation_sessions where id = any(%s)"
        " order by 1",
        [job.session_id for job in jobs],
    )
    return [row["s"] for row in rows]
