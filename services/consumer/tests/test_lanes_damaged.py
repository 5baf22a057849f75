"""Lanes where something is missing or odd: keys that Redis lost, ids that meet, a clock that was set back."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from wearon_contracts.queues import (
    CELERY_QUEUE,
    LANE_NEXT,
    LANE_PARKED,
    LANE_RULES,
    LANE_TURNS,
    TASKS_AHEAD,
    TASKS_HANDED,
    TASKS_KEPT,
    TASKS_WAITING_PREFIX,
)
from wearon_service_kit.lanes import ANNOUNCE, DEALT, DRAIN, lane_script

from .lab import NO_END, Lab

_ENQUEUE = lane_script("enqueue(ARGV[1], ARGV[2], ARGV[3], ARGV[4])")
HOUR_MS = 3_600_000


class Lanes:
    """What consumers and generators do with the lanes, script by script."""

    def __init__(self, lab: Lab) -> None:
        self.redis = lab.redis

    def enqueue(self, lane: str, *session_ids: str) -> None:
        for session_id in session_ids:
            self.redis.eval(_ENQUEUE, 0, lane, session_id, "1767323045.5", f"message of {session_id}")

    def feed(self, ahead: int = NO_END) -> None:
        self.redis.eval(ANNOUNCE, 0, str(ahead))

    def ended(self, lane: str, session_id: str) -> None:
        self.redis.eval(DEALT, 0, session_id, lane, "1")

    def taken(self) -> list[str]:
        """What Celery takes now, in its order."""
        messages: Any = self.redis.lrange(CELERY_QUEUE, 0, -1)
        self.redis.delete(CELERY_QUEUE)
        return [message.decode().removeprefix("message of ") for message in reversed(messages)]


@pytest.fixture
def lanes(lab: Lab) -> Lanes:
    return Lanes(lab)


def test_task_with_the_session_id_of_another_channel_takes_nothing_from_the_one_that_waits(
    lanes: Lanes,
) -> None:
    lanes.enqueue("user:a", "s1", "s2")
    lanes.enqueue("store:b", "s2")  # goes straight to Celery
    assert lanes.taken() == ["s2"]
    lanes.redis.set(TASKS_AHEAD, 0)
    lanes.ended("store:b", "s2")
    lanes.feed()
    assert lanes.taken() == ["s1", "s2"]


def test_task_whose_message_is_lost_holds_up_no_other(lanes: Lanes) -> None:
    lanes.enqueue("user:a", "s1", "s2")
    lanes.enqueue("user:b", "s3")
    lanes.redis.hdel(TASKS_KEPT, "s1")
    lanes.feed()
    assert lanes.taken() == ["s2", "s3"]
    # Nothing names it any more, so the sweep fails and refunds its session.
    assert not lanes.redis.zcard(TASKS_WAITING_PREFIX + "b2c")


@pytest.mark.parametrize("lost", [LANE_TURNS, TASKS_WAITING_PREFIX + "b2c"])
def test_lane_that_lost_one_of_its_keys_goes_on_with_its_next_task(lanes: Lanes, lost: str) -> None:
    lanes.enqueue("user:a", "s1", "s2")
    lanes.redis.delete(lost)
    lanes.enqueue("user:a", "s3")
    lanes.feed()
    assert lanes.taken() == ["s1", "s2", "s3"]


def test_drain_hands_on_what_a_cap_holds_back(lanes: Lanes) -> None:
    rules = {"in_work": 1, "per_minute": 1}
    lanes.redis.hset(LANE_RULES, "store:a", json.dumps(rules))
    lanes.enqueue("store:a", "s1", "s2", "s3")
    lanes.feed()
    assert lanes.taken() == ["s1"]
    assert lanes.redis.zcard(LANE_PARKED) == 1
    while lanes.redis.eval(DRAIN, 0):
        pass
    assert lanes.taken() == ["s2", "s3"]


def test_drain_passes_over_tasks_that_were_dealt_with_while_they_waited(lanes: Lanes) -> None:
    ids = [f"s{number}" for number in range(1100)]
    lanes.enqueue("store:a", *ids)
    lanes.redis.set(TASKS_AHEAD, 0)
    for session_id in ids[:-1]:
        lanes.ended("store:a", session_id)
    while lanes.redis.eval(DRAIN, 0):
        pass
    assert lanes.taken() == ids[-1:]


def test_lanes_at_their_caps_leave_a_started_tasks_place_to_others(lanes: Lanes) -> None:
    for number in range(60):
        lane = f"store:{number}"
        lanes.redis.hset(LANE_RULES, lane, json.dumps({"in_work": 1}))
        lanes.enqueue(lane, f"{number}-1", f"{number}-2")
    lanes.feed()
    lanes.feed()
    lanes.taken()
    lanes.redis.zadd(LANE_PARKED, {f"store:{number}": 1 for number in range(60)})  # all are looked at again
    lanes.enqueue("user:a", "s1", "s2")
    lanes.ended("user:b", "something else")
    assert lanes.taken() == ["s1", "s2"]


def test_clock_set_back_by_an_hour_holds_no_lane_back_for_an_hour(lanes: Lanes) -> None:
    lanes.redis.hset(LANE_RULES, "store:a", json.dumps({"per_minute": 60}))
    lanes.enqueue("store:a", "s1", "s2")
    # As they stand after the clock was set back.
    later = time.time() * 1000 + HOUR_MS
    lanes.redis.hset(LANE_NEXT, "store:a", str(later))
    lanes.redis.zrem(LANE_TURNS, "store:a")
    lanes.redis.zadd(LANE_PARKED, {"store:a": later})
    lanes.feed()
    assert lanes.taken() == ["s1"]


def test_tasks_handed_before_the_clock_was_set_back_leave_room_for_others(lanes: Lanes) -> None:
    lanes.enqueue("store:a", "s1", "s2", "s3")
    lanes.feed(2)
    assert lanes.taken() == ["s1", "s2"]  # by a worker that dies
    later = time.time() * 1000 + HOUR_MS
    lanes.redis.zadd(TASKS_HANDED, {"s1": later, "s2": later})
    lanes.feed(2)
    assert lanes.taken() == ["s3"]


def test_session_that_is_pushed_again_and_again_fills_nobodys_queue(lanes: Lanes) -> None:
    lanes.enqueue("user:a", *["s1"] * 50)  # while it waits
    lanes.feed()
    lanes.enqueue("user:a", *["s1"] * 50)  # after it was handed on
    lanes.enqueue("user:b", "s2")
    lanes.feed()
    assert lanes.taken() == ["s1", "s1", "s2"]
