"""A task's place in line: what the script reads from the lanes, and how well it foresees the start."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from wearon_contracts.place import MOST_LANES_LOOKED_AT, PLACE_SCRIPT, Place, read_place
from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    LANE_RULES,
    PER_MINUTE,
    TASKS_AHEAD,
    TASKS_HANDED,
    TASKS_KEPT,
    lane_of,
)
from wearon_local.processes import wait_until
from wearon_service_kit.lanes import DEALT, LEAVE

from .lab import Lab, decode_message, encode, new_task

Task = dict[str, Any]


def of_store(store: str) -> Task:
    return new_task(channel="b2b", user_id=..., store_id=store)


def lane(task: Task) -> str:
    return lane_of(task["channel"], task.get("store_id") or task["user_id"])


def place(lab: Lab, task: Task) -> Place | None:
    answer: Any = lab.redis.eval(PLACE_SCRIPT, 0, task["session_id"], lane(task))
    return read_place(answer)


def starts(lab: Lab, task: Task) -> None:
    """A generator starts it."""
    lab.redis.eval(DEALT, 0, task["session_id"], lane(task), "0")


def start_all(lab: Lab) -> list[str]:
    """Start everything; the session ids in the order in which that happened."""
    order = []
    while lab.redis.llen(CELERY_QUEUE):
        task = decode_message(lab.take()).argument
        order.append(task["session_id"])
        starts(lab, task)
    return order


@pytest.fixture
def waiting(lab: Lab) -> Callable[[list[Task]], None]:
    """Brings tasks into the lanes; three are handed on to Celery."""
    lab.redis.set(TASKS_AHEAD, 3)
    lab.redis.set(PER_MINUTE, 600)
    lab.start()

    def bring(tasks: list[Task]) -> None:
        before = lab.redis.hlen(TASKS_KEPT)
        lab.push(*map(encode, tasks))
        wait_until(
            lambda: lab.redis.hlen(TASKS_KEPT) == before + len(tasks), timeout=20, what="kept", every=0.01
        )

    return bring


def test_jobs_before_are_those_that_start_before(lab: Lab, waiting: Callable[[list[Task]], None]) -> None:
    stores, user = [str(uuid.uuid4()) for _ in range(3)], str(uuid.uuid4())
    tasks = [of_store(store) for store in stores for _ in range(30)]
    tasks += [new_task(user_id=user) for _ in range(4)]
    tasks += [new_task() for _ in range(20)]
    waiting(tasks)

    foreseen = {task["session_id"]: place(lab, task) for task in tasks}
    order = start_all(lab)

    for number, session_id in enumerate(order):
        found = foreseen[session_id]
        assert found is not None
        # Lanes that are served at the same virtual time take one or the other order.
        assert abs(found.before - number) <= len(stores), (number, found)


def test_task_that_does_not_wait_has_no_place(lab: Lab, waiting: Callable[[list[Task]], None]) -> None:
    task = new_task()
    assert place(lab, task) is None
    waiting([task])
    assert place(lab, task) == Place(0, 0.1)
    starts(lab, task)
    assert place(lab, task) is None


def test_jobs_that_come_back_go_first(lab: Lab, waiting: Callable[[list[Task]], None]) -> None:
    tasks = [new_task() for _ in range(5)]
    waiting(tasks)
    lab.redis.lpush(CELERY_RETRY_QUEUE, "one", "two")
    assert sorted(getattr(place(lab, task), "before", -1) for task in tasks) == [2, 3, 4, 5, 6]


def test_task_that_left_its_lane_counts_no_more(lab: Lab, waiting: Callable[[list[Task]], None]) -> None:
    store = str(uuid.uuid4())
    waiting([new_task() for _ in range(3)])
    tasks = [of_store(store) for _ in range(6)]
    user = new_task()
    waiting([*tasks, user])
    gone = tasks[2]
    before = {task["session_id"]: place(lab, task) for task in tasks}

    assert lab.redis.eval(LEAVE, 0, gone["session_id"], lane(gone)) == 1

    assert place(lab, gone) is None
    for number, task in enumerate(tasks):
        then, now = before[task["session_id"]], place(lab, task)
        if task is not gone:
            assert then is not None and now is not None
            assert then.before - now.before == (1 if number > 2 else 0)
    assert lab.redis.eval(LEAVE, 0, gone["session_id"], lane(gone)) == 0
    order = start_all(lab)
    assert gone["session_id"] not in order
    assert len(order) == 3 + len(tasks) + 1 - 1
    assert not lab.redis.exists(TASKS_KEPT)


def test_limit_of_a_lane_counts(lab: Lab, waiting: Callable[[list[Task]], None]) -> None:
    store = str(uuid.uuid4())
    lab.redis.hset(LANE_RULES, f"store:{store}", json.dumps({"per_minute": 6}))
    waiting([new_task() for _ in range(3)])
    tasks = [of_store(store) for _ in range(5)]
    waiting(tasks)
    found = place(lab, tasks[-1])
    assert found is not None and found.seconds is not None
    assert found.seconds == pytest.approx(40, abs=10)


def test_nobody_knows_when_while_no_job_starts(lab: Lab, waiting: Callable[[list[Task]], None]) -> None:
    tasks = [new_task() for _ in range(6)]
    waiting(tasks)
    half_a_minute_ago = time.time() * 1000 - 30_000
    handed: Any = lab.redis.zrange(TASKS_HANDED, 0, -1)
    lab.redis.zadd(TASKS_HANDED, dict.fromkeys(handed, half_a_minute_ago))
    assert place(lab, tasks[-1]) == Place(5, None)
    starts(lab, tasks[0])
    assert place(lab, tasks[-1]) == Place(4, 0.5)


def test_place_among_very_many_lanes_is_close_and_quick(
    lab: Lab, waiting: Callable[[list[Task]], None]
) -> None:
    store = str(uuid.uuid4())
    last = [of_store(store) for _ in range(30)]
    waiting([*last, *(new_task() for _ in range(10 * MOST_LANES_LOOKED_AT))])
    began = time.monotonic()
    found = place(lab, last[-1])
    assert time.monotonic() - began < 0.25
    assert found is not None
    # Each user has one turn before the store's last ten, and none after.
    assert found.before == pytest.approx(27 + 10 * MOST_LANES_LOOKED_AT, rel=0.1)


@pytest.mark.slow  # jobs start at a steady pace for 45 s
@pytest.mark.alone
def test_start_is_foreseen_within_a_third_while_the_pace_is_steady(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    """Backlogs of two stores, users with a few each, and users who keep coming; ten starts a second."""
    per_second, foreseen_jobs = 10, 200
    lab.redis.set(TASKS_AHEAD, 30)
    lab.redis.set(PER_MINUTE, 60 * per_second)
    lab.start()
    stores = [str(uuid.uuid4()), str(uuid.uuid4())]
    backlog = [of_store(stores[0]) for _ in range(150)] + [of_store(stores[1]) for _ in range(60)]
    for _ in range(20):
        user = str(uuid.uuid4())
        backlog += [new_task(user_id=user) for _ in range(3)]
    started_at: dict[str, float] = {}
    foreseen: list[tuple[str, float, Place]] = []
    asked: set[str] = set()

    async def start_jobs() -> None:
        began, number = time.monotonic(), 0
        while time.monotonic() - began < 45:
            number += 1
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            if lab.redis.llen(CELERY_QUEUE):
                task = decode_message(lab.take()).argument
                started_at[task["session_id"]] = time.monotonic()
                starts(lab, task)

    async def users_come() -> None:
        while True:
            task = new_task()
            lab.push(encode(task))
            backlog.append(task)
            await asyncio.sleep(1 / 3)

    async def ask() -> None:
        """From the fifth second on, each waiting task once, evenly over the time."""
        await asyncio.sleep(5)
        while len(foreseen) < foreseen_jobs:
            new = [task for task in backlog if task["session_id"] not in asked | started_at.keys()]
            for task in new[:: max(1, len(new) // 4)][:4]:
                found = place(lab, task)
                if found is not None and found.seconds is not None:
                    asked.add(task["session_id"])
                    foreseen.append((task["session_id"], time.monotonic(), found))
            await asyncio.sleep(0.4)

    async def load() -> None:
        lab.push(*map(encode, backlog))
        others = [asyncio.create_task(users_come()), asyncio.create_task(ask())]
        await start_jobs()
        for other in others:
            other.cancel()

    asyncio.run(load())
    errors = [
        abs(found.seconds - (started_at[session_id] - at)) / (started_at[session_id] - at)
        for session_id, at, found in foreseen
        if session_id in started_at and found.seconds is not None
    ]
    median = statistics.median(errors)
    record_property(
        "figure",
        f"place in line: {len(errors)} predictions, median error of the start {100 * median:.0f} %,"
        f" nine tenths within {100 * statistics.quantiles(errors, n=10)[-1]:.0f} %",
    )

    assert len(errors) >= foreseen_jobs * 0.9
    assert median <= 0.3
