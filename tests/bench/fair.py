"""A store with a long backlog, then users with one try-on each: when those start, and what the store gets."""

from __future__ import annotations

import time

from tests.bench.generator import Bench, bench
from tests.bench.report import Section, at_least, at_most, percentile, plain
from tests.chaos.workload import small

from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON, Job

PER_MINUTE = 600
USERS = 50
WITHIN = 15.0
"""Seconds within which each user's try-on has to start."""
_STARTED = """
    select count(*) filter (where channel = 'b2c') as users, count(*) filter (where channel = 'b2b') as store
      from generation_ledger where attempt > 0
"""


def run(quick: bool) -> list[Section]:
    backlog = 1_000 if quick else 10_000
    section = Section(
        f"Fair share: {backlog:,} try-ons of a store, then {USERS} users; 2 generators, 600/min"
    )
    with bench(1.0) as running:
        for _ in range(2):
            running.stack.start_service(
                "generator", running.environment(GENERATIONS_PER_MINUTE=str(PER_MINUTE))
            )
        app = running.stack.app
        store = app.create_store(credits=backlog)
        app.push(*(app.b2b_job(store) for _ in range(backlog)))
        _wait_for_store(running, 100)
        jobs = [_of_a_new_user(running) for _ in range(USERS)]
        before, began = _started(running)["store"], time.monotonic()
        app.push(*jobs)
        waits = _seconds_until_started(running, jobs)
        seconds = time.monotonic() - began
        store_pace = (_started(running)["store"] - before) / seconds * 60
    left_for_store = PER_MINUTE - USERS / seconds * 60
    section.lines += [
        plain("a user's try-on starts after, p50", percentile(waits, 0.5), "s"),
        at_most("… the last of them", max(waits), WITHIN, "s"),
        at_least(
            "the store's pace meanwhile / what is left of 600/min", store_pace / left_for_store, 0.9, "×"
        ),
    ]
    section.data = {"waits": waits}
    return [section]


def _of_a_new_user(running: Bench) -> Job:
    app = running.stack.app
    user = app.create_user(credits=1)
    return app.b2c_job(
        user, image_urls=app.upload_inputs(user, [small(SAMPLE_PERSON), small(SAMPLE_GARMENT)])
    )


def _started(running: Bench) -> dict[str, int]:
    (row,) = running.stack.app.rows(_STARTED)
    return dict(row)


def _wait_for_store(running: Bench, count: int) -> None:
    until = time.monotonic() + 120
    while _started(running)["store"] < count:
        if time.monotonic() > until:
            raise TimeoutError("the store's try-ons do not start")
        time.sleep(0.2)


def _seconds_until_started(running: Bench, jobs: list[Job]) -> list[float]:
    began, waits = time.monotonic(), dict[object, float]()
    while len(waits) < len(jobs):
        for session, status in running.stack.app.statuses(jobs).items():
            if status != "queued":
                waits.setdefault(session, time.monotonic() - began)
        if time.monotonic() - began > 600:
            raise TimeoutError(f"{len(waits)} of {len(jobs)} have started")
        time.sleep(0.1)
    return list(waits.values())
