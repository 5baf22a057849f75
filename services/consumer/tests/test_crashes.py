"""Killed, paused and racing consumers: every task is published, and published once."""

from __future__ import annotations

import random
import time

import pytest

from wearon_contracts.queues import TASK_LIST, consumer_heartbeat, inflight_list
from wearon_local.processes import wait_until

from .lab import Lab, encode, new_task, wait_stopped

STEPS = ["popped", "taken", "handing-on", "handed-on"]


def start_at(lab: Lab, step: str) -> list[str]:
    """One consumer standing still at `step` with a batch in its hands; returns the ids of all tasks."""
    if step == "popped":  # only a consumer that waits pops one by one
        lab.start(pause_at=step)
        wait_until(lab.heartbeats, timeout=20, what="a waiting consumer")
        ids = lab.push_tasks(120)
    else:
        ids = lab.push_tasks(120)
        lab.start(pause_at=step)
    wait_stopped(lab.consumers[0].process)
    return ids


def all_handed_on(lab: Lab) -> bool:
    return not lab.redis.llen(TASK_LIST) and not any(lab.inflight().values())


@pytest.mark.parametrize("step", STEPS)
def test_after_a_kill_at_any_step_another_consumer_goes_on(lab: Lab, step: str) -> None:
    ids = start_at(lab, step)
    lab.consumers[0].kill()
    lab.expire_heartbeats()
    second = lab.start()
    assert lab.wait_published(120) == ids
    wait_until(lambda: all_handed_on(lab), timeout=10, what="nothing left")
    assert lab.published_ids() == ids
    expected = {"popped": 1, "taken": 100, "handing-on": 100, "handed-on": 20}[step]
    assert second.metrics()["wearon_consumer_recovered_total"] == expected


@pytest.mark.parametrize("step", STEPS)
def test_consumer_paused_past_its_heartbeat_neither_loses_nor_doubles(lab: Lab, step: str) -> None:
    ids = start_at(lab, step)
    lab.expire_heartbeats()
    lab.start()
    assert lab.wait_published(120) == ids
    lab.consumers[0].process.resume()
    more = lab.push_tasks(300)
    published = lab.wait_published(420)
    wait_until(lambda: all_handed_on(lab), timeout=10, what="nothing left")
    assert sorted(published) == sorted(ids + more)
    # It takes part again.
    wait_until(lambda: len(lab.heartbeats()) == 2, timeout=10, what="both alive")
    if step in ("taken", "handing-on"):
        (line,) = lab.consumers[0].events(event="batch_superseded")
        assert line["elements"] == 100


@pytest.mark.parametrize("step", STEPS)
def test_only_consumer_paused_past_its_heartbeat_goes_on_itself(lab: Lab, step: str) -> None:
    ids = start_at(lab, step)
    lab.expire_heartbeats()
    lab.consumers[0].process.resume()
    assert lab.wait_published(120) == ids
    wait_until(lambda: all_handed_on(lab), timeout=10, what="nothing left")
    assert lab.published_ids() == ids


def test_batch_of_consumer_paused_within_its_heartbeat_is_left_alone(lab: Lab) -> None:
    ids = start_at(lab, "handing-on")
    second = lab.start()
    assert lab.wait_published(20) == ids[100:]
    lab.consumers[0].process.resume()
    assert sorted(lab.wait_published(120)) == sorted(ids)
    assert second.metrics()["wearon_consumer_recovered_total"] == 0


def test_kill_during_recovery_loses_nothing(lab: Lab) -> None:
    ids = start_at(lab, "taken")
    lab.consumers[0].kill()
    lab.expire_heartbeats()
    recoverer = lab.start(pause_at="recovered")
    wait_stopped(recoverer.process)
    recoverer.kill()
    lab.expire_heartbeats()
    lab.start()
    assert lab.wait_published(120) == ids
    wait_until(lambda: all_handed_on(lab), timeout=10, what="nothing left")
    assert lab.published_ids() == ids


@pytest.mark.slow
def test_killed_consumers_elements_are_recovered_when_its_heartbeat_ends(lab: Lab) -> None:
    ids = start_at(lab, "taken")
    survivor = lab.start()
    lab.wait_published(20)
    killed_at = time.monotonic()
    lab.consumers[0].kill()
    assert sorted(lab.wait_published(120)) == sorted(ids)
    assert time.monotonic() - killed_at < 15
    (line,) = survivor.events(event="elements_recovered")
    assert line["elements"] == 100


def test_many_recovering_consumers_publish_each_element_once(lab: Lab) -> None:
    ids = []
    for number in range(40):
        tasks = [new_task() for _ in range(25)]
        ids += [task["task_id"] for task in tasks]
        lab.redis.lpush(inflight_list(f"dead-{number}"), *map(encode, tasks))
    for _ in range(3):
        lab.start(wait=False)
    assert sorted(lab.wait_published(1000)) == sorted(ids)
    wait_until(lambda: all_handed_on(lab), timeout=10, what="nothing left")
    assert lab.redis.llen("wearon.generation") == 1000


def test_recovery_leaves_live_consumers_elements_alone(lab: Lab) -> None:
    lab.redis.lpush(inflight_list("alive"), encode(new_task()))
    lab.redis.set(consumer_heartbeat("alive"), "1", ex=60)
    consumer = lab.start()
    ids = lab.push_tasks(1)
    assert lab.wait_published(1) == ids
    # A task pushed after a whole round of recovery has been bridged.
    started = consumer.metrics()["wearon_consumer_last_progress_timestamp_seconds"]
    wait_until(
        lambda: consumer.metrics()["wearon_consumer_last_progress_timestamp_seconds"] > started + 2.5,
        timeout=10,
        what="another round",
    )
    assert lab.published_ids() == ids
    assert lab.inflight() == {inflight_list("alive"): 1}


@pytest.mark.slow
def test_killed_and_replaced_consumers_under_load_publish_each_task_once(lab: Lab) -> None:
    chance = random.Random(5)
    running = [lab.start(wait=False) for _ in range(3)]
    ids: list[str] = []
    for _ in range(6):
        ids += lab.push_tasks(1500)
        lab.wait_published(len(ids) - chance.randrange(200, 1400), timeout=30)
        victim = running.pop(chance.randrange(3))
        victim.kill()
        running.append(lab.start(wait=False))
    lab.wait_published(len(ids), timeout=40)
    wait_until(lambda: all_handed_on(lab), timeout=30, what="nothing left")
    assert sorted(lab.published_ids()) == sorted(ids)
    assert not lab.dead_letters()
