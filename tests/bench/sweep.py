"""What one sweep of a generator costs while much waits: its processor time, and what it asks of Redis."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from tests.bench.report import Section, at_most, plain
from tests.integration.sweeping import Generator, let_wait

from wearon_local.stack import Stack

SWEEPS = 20
MOST_BYTES = 20_000
"""Of Redis' answers to one sweep; a read of all that waits would be 600 bytes a task."""


@dataclass(frozen=True)
class Cost:
    """Of one sweep."""

    cpu_ms: float
    commands: float
    bytes: float


def run(quick: bool) -> list[Section]:
    section = Section(f"Sweep: {SWEEPS} of them while tasks wait whose sessions are older than the limit")
    waiting = (0, 100_000) if quick else (0, 100_000, 1_000_000)
    costs = {count: _measure(count) for count in waiting}
    for count, cost in costs.items():
        section.lines += [
            plain(f"{count:,} waiting: processor time of a sweep", cost.cpu_ms, "ms"),
            plain(f"{count:,} waiting: Redis commands of a sweep", cost.commands, ""),
            at_most(f"{count:,} waiting: bytes from Redis for a sweep", cost.bytes, MOST_BYTES, "B"),
        ]
        if count:
            ratio = cost.cpu_ms / costs[0].cpu_ms
            section.lines.append(at_most(f"{count:,} waiting: processor time / with none", ratio, 2, "×"))
    return [section]


def _measure(waiting: int) -> Cost:
    with Stack() as stack, stack.redis.client() as redis:
        headers = {"authorization": f"Bearer {stack.service_role_key}"}
        generator = Generator(stack.postgrest.url, headers, stack.redis_url)
        let_wait(stack.database_url, redis, waiting)
        generator.sweep()
        before, used_before = redis.info("stats"), resource.getrusage(resource.RUSAGE_SELF)
        generator.sweep(SWEEPS)
        after, used = redis.info("stats"), resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - used_before.ru_utime - used_before.ru_stime
    return Cost(
        cpu_ms=1000 * cpu / SWEEPS,
        commands=(after["total_commands_processed"] - before["total_commands_processed"]) / SWEEPS,
        bytes=(after["total_net_output_bytes"] - before["total_net_output_bytes"]) / SWEEPS,
    )
