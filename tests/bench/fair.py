"""A store with a long backlog, then users with one try-on each: when those start, and what the store gets.

And how well the place in line foresees the start of jobs, while stores and users wait beside each other.
"""

from __future__ import annotations

import random
import time
from typing import Any

from tests.bench.generator import Bench, bench
from tests.bench.report import Section, at_least, at_most, percentile, plain
from tests.chaos.workload import small

from wearon_contracts.place import PLACE_SCRIPT, read_place
from wearon_contracts.queues import lane_of
from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON, Job

PER_MINUTE = 600
USERS = 50
WITHIN = 15.0
"""Seconds within which each user's try-on has to start."""
FORESEEN = 200
"""Predictions that are compared with what came."""
MOST_ERROR = 0.3
"""Of the predicted seconds, the median."""
_STARTED = """
    select count(*) filter (where channel = 'b2c') as users, count(*) filter (where channel = 'b2b') as store
      from generation_ledger where attempt > 0
"""


def run(quick: bool) -> list[Section]:
    return [_fair_share(1_000 if quick else 10_000), _place_in_line()]


def _fair_share(backlog: int) -> Section:
    section = Section(
        f"Fair share: {backlog:,} try-ons of a store, then {USERS} users; 2 generators, 600/min"
    )
    with bench(1.0) as running:
        _start_generators(running)
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
    return section


def _place_in_line() -> Section:
    """Backlogs of two stores, 60 users with one job each, and 60 who come later; a job is asked for once."""
    chance = random.Random(1)
    foreseen: dict[Any, tuple[float, float]] = {}
    errors: dict[Any, float] = {}
    with bench(1.0) as running, running.stack.redis.client() as redis:
        _start_generators(running)
        app = running.stack.app
        stores = [app.create_store(credits=400) for _ in range(2)]
        jobs = [
            app.b2b_job(store) for store, count in zip(stores, (240, 120), strict=True) for _ in range(count)
        ]
        jobs += [_of_a_new_user(running) for _ in range(60)]
        coming = [_of_a_new_user(running) for _ in range(60)]
        app.push(*jobs)
        began = time.monotonic()
        while len(errors) < FORESEEN:
            now = time.monotonic()
            if now - began > 240:
                raise TimeoutError(f"{len(errors)} of {FORESEEN} jobs have started")
            if coming and now - began > (60 - len(coming)) * 0.6:
                app.push(coming[-1])
                jobs.append(coming.pop())
            statuses = app.statuses(jobs)
            for session, (asked_at, seconds) in foreseen.items():
                if session not in errors and statuses[session] != "queued":
                    waited = now - asked_at
                    errors[session] = abs(seconds - waited) / waited
            # From the fifth second on: before that nothing is known of the pace.
            waiting = [job for job in jobs if statuses[job.session_id] == "queued"]
            for job in chance.sample(waiting, min(2, len(waiting))) if now - began > 5 else ():
                answer: Any = redis.eval(
                    PLACE_SCRIPT, 0, str(job.session_id), lane_of(job.channel, job.owner_id)
                )
                place = read_place([int(each) for each in answer] if answer else None)
                if place is not None and place.seconds is not None:
                    foreseen.setdefault(job.session_id, (time.monotonic(), place.seconds))
            time.sleep(0.1)
    return Section(
        f"Place in line: {FORESEEN} jobs of two stores and of users who come later; 2 generators, 600/min",
        [
            at_most(
                "error of the predicted start, median", percentile([*errors.values()], 0.5), MOST_ERROR, "×"
            ),
            plain("… nine tenths are within", percentile([*errors.values()], 0.9), "×"),
        ],
    )


def _start_generators(running: Bench) -> None:
    for _ in range(2):
        running.stack.start_service("generator", running.environment(GENERATIONS_PER_MINUTE=str(PER_MINUTE)))


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
