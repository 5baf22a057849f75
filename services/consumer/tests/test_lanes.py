"""Fair turns: who is served when, how far ahead, and that nothing is lost on the way."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from wearon_consumer.celery_messages import CeleryMessages
from wearon_contracts.queues import (
    CELERY_QUEUE,
    LANE_PARKED,
    LANE_RULES,
    LANE_TURNS,
    PROCESS_GENERATION_TASK,
    TASK_LIST,
    TASKS_AHEAD,
    TASKS_HANDED,
    TASKS_KEPT,
    TASKS_WAITING_PREFIX,
    lane_of,
)
from wearon_local.processes import wait_until
from wearon_service_kit.lanes import ANNOUNCE, DEALT, DRAIN, RETURN_LOST, STALE_MS

from .lab import Lab, decode_message, encode, new_task

STORE = str(uuid.uuid4())


def store_tasks(count: int, store: str = STORE) -> list[dict[str, Any]]:
    return [new_task(channel="b2b", user_id=..., store_id=store) for _ in range(count)]


def owner(task: dict[str, Any]) -> str:
    return str(task.get("store_id") or task.get("user_id"))


class Generators:
    """What generators do as far as Redis sees it: take a message, start it, say so."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def started(self, task: dict[str, Any], *, ended: bool = False) -> None:
        lane = lane_of(task["channel"], owner(task))
        self.lab.redis.eval(DEALT, 0, task["session_id"], lane, str(int(ended)))

    def starts(self, count: int) -> Iterator[dict[str, Any]]:
        """The tasks in the order in which generators start them."""
        for _ in range(count):
            wait_until(lambda: self.lab.redis.llen(CELERY_QUEUE), timeout=10, what="a task", every=0.01)
            task = decode_message(self.lab.take()).argument
            self.started(task)
            yield task


def wait_kept(lab: Lab, count: int) -> None:
    wait_until(lambda: lab.redis.hlen(TASKS_KEPT) == count, timeout=20, what=f"{count} tasks", every=0.01)


@pytest.fixture
def generators(lab: Lab) -> Generators:
    lab.redis.set(TASKS_AHEAD, 5)
    return Generators(lab)


def test_users_overtake_the_backlog_of_a_store(lab: Lab, generators: Generators) -> None:
    lab.start()
    lab.push(*map(encode, store_tasks(400)))
    wait_kept(lab, 400)
    assert lab.redis.llen(CELERY_QUEUE) == 5
    users = [new_task() for _ in range(50)]
    lab.push(*map(encode, users))
    wait_kept(lab, 450)
    order = [owner(task) for task in generators.starts(75)]
    last_user = max(index for index, name in enumerate(order) if name != STORE)
    assert set(order) == {STORE} | {owner(task) for task in users}
    # 5 were handed already; then ten turns of the store before each user has had one.
    assert last_user < 5 + 10 + 50 + 5
    assert [name for name in order if name != STORE] == [owner(task) for task in users]


def test_tasks_pass_by_the_lanes_only_while_nobody_waits_and_there_is_room(
    lab: Lab, generators: Generators
) -> None:
    first, late = store_tasks(4), [new_task() for _ in range(3)]
    lab.push(*map(encode, first))
    lab.start()
    wait_kept(lab, 4)
    assert not lab.redis.exists(LANE_TURNS), "no turn was needed"
    assert lab.redis.zcard(TASKS_HANDED) == 4
    lab.push(*map(encode, late))  # room for one of three
    wait_kept(lab, 7)
    assert lab.redis.llen(CELERY_QUEUE) == 5
    assert lab.redis.zcard(LANE_TURNS) in (2, 3), "the first of them may have come before the others"
    wanted = [task["task_id"] for task in (*first, *late)]
    assert [task["task_id"] for task in generators.starts(7)] == wanted


def test_capped_lane_is_not_passed_by(lab: Lab, generators: Generators) -> None:
    lab.redis.hset(LANE_RULES, lane_of("b2b", STORE), json.dumps({"in_work": 1}))
    lab.push(*map(encode, store_tasks(3)))
    lab.start()
    wait_kept(lab, 3)
    assert lab.redis.llen(CELERY_QUEUE) == 1


def test_a_store_takes_ten_turns_for_one_of_a_user(lab: Lab, generators: Generators) -> None:
    user = str(uuid.uuid4())
    tasks = store_tasks(220) + [new_task(user_id=user) for _ in range(30)]
    lab.push(*map(encode, tasks))
    lab.start()
    wait_kept(lab, 250)
    turns = Counter(owner(task) for task in generators.starts(220))
    assert 18 <= turns[user] <= 22


def test_tasks_of_one_lane_keep_their_order(lab: Lab, generators: Generators) -> None:
    tasks = store_tasks(60)
    lab.push(*map(encode, tasks))
    lab.start()
    assert [task["task_id"] for task in generators.starts(60)] == [task["task_id"] for task in tasks]


def test_store_share_is_a_setting(lab: Lab, generators: Generators) -> None:
    user = str(uuid.uuid4())
    lab.push(*map(encode, store_tasks(60) + [new_task(user_id=user) for _ in range(60)]))
    lab.start(STORE_SHARE="2")
    wait_kept(lab, 120)
    assert 18 <= Counter(owner(task) for task in generators.starts(60))[user] <= 22


def test_started_task_leaves_nothing_behind(lab: Lab, generators: Generators) -> None:
    lab.start()
    tasks = store_tasks(20) + [new_task() for _ in range(20)]
    lab.push(*map(encode, tasks))
    list(generators.starts(40))
    wait_until(lambda: not lab.redis.zcard(LANE_TURNS), timeout=10, what="all lanes gone")
    assert not lab.redis.hlen(TASKS_KEPT)
    assert not lab.redis.zcard(TASKS_HANDED)
    assert not any(lab.redis.zcard(TASKS_WAITING_PREFIX + channel) for channel in ("b2c", "b2b"))
    assert not list(lab.redis.scan_iter("wearon:lane:*"))


def test_tasks_that_dead_workers_hold_do_not_stop_the_others(lab: Lab, generators: Generators) -> None:
    lab.start()
    lab.push(*map(encode, store_tasks(20)))
    wait_until(lambda: lab.redis.llen(CELERY_QUEUE) == 5, timeout=10, what="five handed")
    for _ in range(5):
        lab.redis.rpop(CELERY_QUEUE)  # whoever took them never starts them
    assert lab.redis.zcard(TASKS_HANDED) == 5
    long_ago = (time.time() * 1000) - STALE_MS - 1000
    handed: Any = lab.redis.zrange(TASKS_HANDED, 0, -1)
    lab.redis.zadd(TASKS_HANDED, dict.fromkeys(handed, long_ago))
    assert len(list(generators.starts(15))) == 15


def test_generators_feed_celery_while_no_consumer_runs(lab: Lab, generators: Generators) -> None:
    consumer = lab.start()
    lab.push(*map(encode, store_tasks(50)))
    wait_kept(lab, 50)
    consumer.kill()
    lab.redis.delete(CELERY_QUEUE)  # as if taken
    lab.redis.delete(TASKS_HANDED)
    lab.redis.eval(ANNOUNCE, 0, "7")
    assert lab.redis.llen(CELERY_QUEUE) == 7
    assert len(list(generators.starts(45))) == 45


def test_second_task_of_a_waiting_session_takes_no_turn_and_passes_nobody(
    lab: Lab, generators: Generators
) -> None:
    lab.push(*map(encode, store_tasks(20)))
    first = new_task()
    second = {**first, "task_id": str(uuid.uuid4())}
    lab.push(encode(first), encode(second))
    lab.start()
    wait_kept(lab, 21)
    wait_until(lambda: not lab.redis.llen(TASK_LIST), timeout=10, what="all read")
    started = list(generators.starts(21))
    assert [task for task in started if task["session_id"] == first["session_id"]] == [first]
    wait_until(lambda: not lab.redis.zcard(LANE_TURNS), timeout=10, what="no lane left")
    assert not lab.redis.llen(CELERY_QUEUE)


def test_task_settled_while_it_waits_is_not_handed_on(lab: Lab, generators: Generators) -> None:
    settled = new_task()
    lab.push(*map(encode, [*store_tasks(10), settled]))
    lab.start()
    wait_kept(lab, 11)
    generators.started(settled, ended=True)
    assert settled["task_id"] not in [task["task_id"] for task in generators.starts(10)]
    assert not lab.redis.hlen(TASKS_KEPT)


def test_cap_on_jobs_in_work_holds_a_lane_back_until_one_ends(lab: Lab, generators: Generators) -> None:
    lane = lane_of("b2b", STORE)
    lab.redis.hset(LANE_RULES, lane, json.dumps({"in_work": 2}))
    tasks = store_tasks(4)
    lab.push(*map(encode, tasks))
    lab.start()
    first, second = generators.starts(2)
    user = new_task()
    lab.push(encode(user))
    assert [task["task_id"] for task in generators.starts(1)] == [user["task_id"]]
    assert lab.redis.zscore(LANE_PARKED, lane) is not None
    generators.started(first, ended=True)
    assert [task["task_id"] for task in generators.starts(1)] == [tasks[2]["task_id"]]
    generators.started(second, ended=True)
    assert [task["task_id"] for task in generators.starts(1)] == [tasks[3]["task_id"]]


def test_cap_on_jobs_a_minute_spreads_a_lanes_starts(lab: Lab, generators: Generators) -> None:
    lab.redis.hset(LANE_RULES, lane_of("b2b", STORE), json.dumps({"per_minute": 60}))
    lab.push(*map(encode, store_tasks(4)))
    started = time.monotonic()  # the first may start before the consumer says that it is ready
    lab.start()
    assert len(list(generators.starts(4))) == 4
    assert 2.9 <= time.monotonic() - started < 15


def test_share_of_a_single_store_is_a_rule(lab: Lab, generators: Generators) -> None:
    other = str(uuid.uuid4())
    lab.redis.hset(LANE_RULES, lane_of("b2b", STORE), json.dumps({"share": 30}))
    lab.push(*map(encode, store_tasks(200) + store_tasks(200, other)))
    lab.start()
    wait_kept(lab, 400)
    turns = Counter(owner(task) for task in generators.starts(200))
    assert 140 <= turns[STORE] <= 160


def test_drain_hands_everything_to_celery_in_turns(lab: Lab, generators: Generators) -> None:
    lab.push(*map(encode, store_tasks(1500)))
    consumer = lab.start()
    wait_kept(lab, 1500)
    consumer.terminate()
    while lab.redis.eval(DRAIN, 0):
        pass
    assert lab.redis.llen(CELERY_QUEUE) == 1500


def test_lanes_wait_while_an_older_consumer_fills_celerys_queue(lab: Lab, generators: Generators) -> None:
    older = new_task()
    message = CeleryMessages(CELERY_QUEUE).message(
        PROCESS_GENERATION_TASK, older["task_id"], json.dumps(older)
    )
    lab.redis.lpush(CELERY_QUEUE, *[message] * 8)  # it pushes straight there, whatever waits in lanes
    lab.start()
    tasks = store_tasks(3)
    lab.push(*map(encode, tasks))
    wait_kept(lab, 3)
    assert lab.redis.llen(CELERY_QUEUE) == 8
    expected = [older["task_id"]] * 8 + [task["task_id"] for task in tasks]
    assert [task["task_id"] for task in generators.starts(11)] == expected


@pytest.mark.slow
def test_generators_that_never_report_a_start_get_tasks_all_the_same(
    lab: Lab, generators: Generators
) -> None:
    tasks = store_tasks(12)
    lab.push(*map(encode, tasks))
    lab.start()
    taken = []
    for _ in tasks:
        wait_until(lambda: lab.redis.llen(CELERY_QUEUE), timeout=10, what="a task", every=0.01)
        taken.append(decode_message(lab.take()).argument["task_id"])
        handed: Any = lab.redis.zrange(TASKS_HANDED, 0, -1)
        lab.redis.zadd(TASKS_HANDED, dict.fromkeys(handed, 1))  # as long ago as can be
    assert taken == [task["task_id"] for task in tasks]


def test_lost_message_is_put_back_once_and_as_the_next(lab: Lab, generators: Generators) -> None:
    lab.push(*map(encode, store_tasks(3)))
    lab.start()
    wait_until(lambda: lab.redis.llen(CELERY_QUEUE) == 3, timeout=10, what="three handed")
    lost = decode_message(lab.take()).argument  # by a worker that dies right then
    scores: Any = lab.redis.zrange(TASKS_HANDED, 0, -1, withscores=True, score_cast_func=bytes.decode)
    by_session = {session.decode(): at for session, at in scores}
    session = lost["session_id"]
    put_back = [lab.redis.eval(RETURN_LOST, 0, session, at) for at in (by_session[session], "1")]
    assert put_back == [1, 0]
    (next_one,) = lab.wait_list(CELERY_QUEUE, 3)[-1:]
    assert decode_message(next_one).argument == lost
    assert lab.redis.llen(CELERY_QUEUE) == 3
    generators.started(lost)
    at = by_session[session]
    assert lab.redis.eval(RETURN_LOST, 0, session, at) == 0  # it was started meanwhile


@pytest.mark.slow
def test_consumers_killed_and_redis_restarted_lose_and_double_nothing(
    lab: Lab, generators: Generators
) -> None:
    tasks = store_tasks(300) + [new_task() for _ in range(300)]
    lab.push(*map(encode, tasks))
    first, _ = lab.start(wait=False), lab.start(wait=False)
    started = list(generators.starts(100))
    first.kill()
    started += generators.starts(100)
    lab.server.restart()
    lab.start(wait=False)
    started += generators.starts(400)
    assert Counter(task["task_id"] for task in started) == Counter(task["task_id"] for task in tasks)
