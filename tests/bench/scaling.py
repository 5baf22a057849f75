"""Several generators under one limit and without: rate, fairness, and what Redis is asked per job."""

from __future__ import annotations

import time
from collections import Counter

from tests.bench.generator import Bench, bench
from tests.bench.report import Section, at_most, plain

JOBS_WITHOUT_LIMIT = 80


def run(quick: bool) -> list[Section]:
    section = Section("Scaling: generators under the global limit and without it, 1 s latency")
    for replicas in (2,) if quick else (1, 2, 4):
        with bench(1.0) as running:
            per_minute = 240
            _start(running, replicas, per_minute)
            rate, shares, commands = _push_and_wait(running, 24 if quick else 60)
            least = (
                min(shares.values()) / (sum(shares.values()) / replicas) if len(shares) == replicas else 0.0
            )
            section.lines += [
                at_most(
                    f"{replicas} under {per_minute}/min: calls a minute", rate, per_minute * 1.05, "1/min"
                ),
                plain(f"{replicas} under {per_minute}/min: least busy ÷ fair share", least, "×"),
                plain(f"{replicas} under {per_minute}/min: Redis commands per job", commands, ""),
            ]
        with bench(1.0) as running:
            _start(running, replicas, 60_000)
            rate, _, _ = _push_and_wait(running, JOBS_WITHOUT_LIMIT // (2 if quick else 1))
            section.lines.append(plain(f"{replicas} without limit: jobs a minute", rate, "1/min"))
    return [section]


def _start(running: Bench, replicas: int, per_minute: int) -> None:
    for _ in range(replicas):
        env = running.environment(
            GENERATIONS_PER_MINUTE=str(per_minute), GENERATOR_CONCURRENCY="16", LOG_LEVEL="INFO"
        )
        running.stack.start_service("generator", env)


def _push_and_wait(running: Bench, count: int) -> tuple[float, Counter[str], float]:
    app = running.stack.app
    jobs = running.jobs(count)
    with running.stack.redis.client() as client:
        before = int(client.info("stats")["total_commands_processed"])
        began = time.monotonic()
        app.push(*jobs)
        app.wait_settled(*jobs, timeout=240)
        seconds = time.monotonic() - began
        commands = int(client.info("stats")["total_commands_processed"]) - before
    shares = Counter(
        service.name
        for service in running.stack.services
        if service.name.startswith("generator")
        for _ in service.events(event="session_completed")
    )
    # The first call needs no wait and the last ends a second after its slot.
    return (count - 1) / max(seconds - 1, 0.1) * 60, shares, commands / count
