"""Redis unavailable, restarted, emptied or read-only: the consumer goes on by itself and loses nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from wearon_consumer.batches import BatchBuilder
from wearon_consumer.bridge import Bridge
from wearon_consumer.celery_messages import CeleryMessages
from wearon_consumer.inflight import InFlight, Limits, Turn
from wearon_consumer.metrics import Metrics
from wearon_consumer.timing import ConsumerTiming
from wearon_contracts.queues import CELERY_QUEUE, TASK_LIST, TASKS_AHEAD, consumer_heartbeat, inflight_list
from wearon_contracts.tasks import MAX_READABLE_BYTES
from wearon_local.processes import wait_until

from .lab import Lab, encode, new_task

RECOVERY_SECONDS = 15
TIMING = ConsumerTiming()
LIMITS = Limits(max_invalid_in_a_row=500, max_dead_letter_bytes=2**26, store_share=10)


def wait_for_error(lab: Lab) -> None:
    lab.consumers[0].process.wait_until(
        lambda: lab.consumers[0].events(event="loop_failed"), timeout=20, what="an error"
    )


def test_restart_of_redis_loses_no_task(lab: Lab) -> None:
    lab.start()
    ids = lab.push_tasks(5)
    lab.wait_published(5)
    lab.server.kill()
    wait_for_error(lab)
    lab.server.start()
    started = time.monotonic()
    ids += lab.push_tasks(300)
    assert lab.wait_published(305) == ids
    assert time.monotonic() - started < RECOVERY_SECONDS


@pytest.mark.slow
def test_kill_of_redis_under_load_loses_no_task(lab: Lab) -> None:
    ids = lab.push_tasks(3000)
    lab.start(wait=False)
    lab.wait_published(300)
    lab.server.restart()
    assert lab.wait_published(3000, timeout=RECOVERY_SECONDS) == ids
    wait_until(lambda: not lab.inflight(), timeout=5, what="nothing in flight")
    assert lab.published_ids() == ids


def test_consumer_goes_on_after_redis_lost_its_data(lab: Lab) -> None:
    lab.start()
    wait_until(lab.heartbeats, timeout=5, what="a heartbeat")
    lab.server.restart(lose_data=True)
    started = time.monotonic()
    ids = lab.push_tasks(5)
    assert lab.wait_published(5) == ids
    assert lab.heartbeats()
    assert time.monotonic() - started < RECOVERY_SECONDS


@pytest.mark.slow
def test_consumer_goes_on_after_redis_hung(lab: Lab) -> None:
    consumer = lab.start()
    lab.server.pause()
    wait_for_error(lab)
    lab.server.resume()
    started = time.monotonic()
    ids = lab.push_tasks(200)
    assert lab.wait_published(200) == ids
    assert time.monotonic() - started < RECOVERY_SECONDS
    wait_until(consumer.ready, timeout=5, what="ready")
    (loss,) = {line["error"].partition(":")[0] for line in consumer.events(event="loop_failed")}
    assert loss == "TimeoutError"


@pytest.mark.slow
def test_consumer_goes_on_after_redis_was_read_only(lab: Lab) -> None:
    consumer = lab.start()
    ids = lab.push_tasks(2)
    lab.wait_published(2)
    lab.server.set_read_only(True)
    wait_for_error(lab)
    # It can still look for dead consumers, but that is no progress.
    wait_until(lambda: not consumer.ready(), timeout=20, what="not ready")
    assert consumer.process.running
    lab.server.set_read_only(False)
    ids += lab.push_tasks(150)
    assert lab.wait_published(152, timeout=RECOVERY_SECONDS) == ids


def test_consumer_waits_for_redis_at_start(lab: Lab) -> None:
    lab.server.kill()
    consumer = lab.start(wait=False)
    wait_for_error(lab)
    assert not consumer.ready()
    lab.server.start()
    consumer.wait_ready(timeout=RECOVERY_SECONDS)


@pytest.mark.slow
def test_sigterm_ends_consumer_while_redis_is_unavailable(lab: Lab) -> None:
    consumer = lab.start()
    lab.server.kill()
    wait_for_error(lab)
    started = time.monotonic()
    assert consumer.terminate(timeout=20) == 0
    assert time.monotonic() - started < 10
    assert consumer.events(event="stopped_without_redis")


def test_cut_connections_in_blocking_pops_lose_no_task(lab: Lab) -> None:
    lab.start()
    ids: list[str] = []
    for _ in range(60):
        ids += lab.push_tasks(1)
        lab.server.drop_connections()
    assert lab.wait_published(60, timeout=RECOVERY_SECONDS) == ids
    wait_until(lambda: not any(lab.inflight().values()), timeout=5, what="nothing in flight")
    assert lab.published_ids() == ids


def test_element_of_a_pop_with_lost_answer_is_handed_on(lab: Lab) -> None:
    consumer = lab.start()
    (name,) = [line["consumer_id"] for line in consumer.events(event="consumer_started")]
    consumer.process.pause()
    before = new_task()
    lab.redis.lpush(inflight_list(name), encode(before))
    lab.server.drop_connections()
    consumer.process.resume()
    after = lab.push_tasks(1)
    assert lab.wait_published(2, timeout=RECOVERY_SECONDS) == [before["task_id"], *after]


@pytest.mark.parametrize("key", [CELERY_QUEUE, "wearon:tasks:generation:dead"])
def test_key_of_wrong_type_blocks_but_loses_nothing(lab: Lab, key: str) -> None:
    lab.redis.set(key, "not a list")
    ids = lab.push_tasks(10)
    lab.push(b"invalid")
    consumer = lab.start(wait=False)
    wait_until(lambda: len(consumer.events(event="loop_failed")) >= 3, timeout=20, what="three errors")
    lab.redis.delete(key)
    assert lab.wait_published(10, timeout=RECOVERY_SECONDS) == ids
    wait_until(lambda: len(lab.dead_letters()) == 1, timeout=5, what="the dead letter")
    assert lab.published_ids() == ids


def test_repeated_turn_gives_the_same_answer(lab: Lab) -> None:
    inflight = InFlight(lab.redis, "me", TIMING, LIMITS)
    ids = lab.push_tasks(150)
    load = builder().build("1", inflight.turn("1").elements).load
    first = inflight.turn("2", load)
    assert first.handed_on
    assert [json.loads(raw)["task_id"] for raw in first.elements] == ids[100:]
    for ticket in ("2", "3", "4"):
        assert inflight.turn(ticket, load) == first
    assert lab.published_ids() == ids[:100]
    last = inflight.turn("5", builder().build("4", first.elements).load)
    assert last == Turn(True, [])
    assert lab.published_ids() == ids
    assert not lab.inflight()


def test_repeated_take_gives_the_same_batch(lab: Lab) -> None:
    inflight = InFlight(lab.redis, "me", TIMING, LIMITS)
    lab.push_tasks(150)
    first = inflight.turn("1")
    assert inflight.turn("1") == inflight.turn("2") == first
    assert lab.redis.llen(TASK_LIST) == 50


def test_late_pop_of_a_closed_connection_keeps_its_element(lab: Lab) -> None:
    inflight = InFlight(lab.redis, "me", TIMING, LIMITS)
    ids = lab.push_tasks(2)
    load = builder().build("1", inflight.turn("1").elements).load
    late = encode(new_task())
    lab.redis.lpush(inflight_list("me"), late)
    assert inflight.turn("2", load) == Turn(True, [late])
    assert lab.published_ids() == ids


def test_element_that_was_waited_for_is_handed_on_in_the_next_turn(lab: Lab) -> None:
    inflight = InFlight(lab.redis, "me", TIMING, LIMITS)
    assert inflight.turn("1").elements == []
    ids = lab.push_tasks(1)
    element = inflight.wait(1, lambda: 0.0)
    assert element is not None
    load = builder().build("1", [element]).load
    load.awaited = True
    assert inflight.turn("2", load) == inflight.turn("2", load) == Turn(True, [])
    assert lab.published_ids() == ids
    assert not lab.inflight()


@pytest.mark.parametrize("late_comes_first", [True, False])
def test_late_pop_beside_an_element_that_was_waited_for_loses_and_doubles_nothing(
    lab: Lab, late_comes_first: bool
) -> None:
    inflight = InFlight(lab.redis, "me", TIMING, LIMITS)
    inflight.turn("1")
    late = new_task()
    if late_comes_first:
        lab.redis.lpush(inflight_list("me"), encode(late))  # as the server does for a connection given up
    (mine,) = lab.push_tasks(1)
    element = inflight.wait(1, lambda: 0.0)
    if not late_comes_first:
        lab.redis.lpush(inflight_list("me"), encode(late))
    assert element is not None
    load = builder().build("1", [element]).load
    load.awaited = True
    turn = inflight.turn("2", load)
    assert (turn.handed_on, len(turn.elements)) == (False, 2)
    assert inflight.turn("3", builder().build("2", turn.elements).load) == Turn(True, [])
    assert sorted(lab.published_ids()) == sorted([mine, str(late["task_id"])])


def test_waiting_leaves_a_huge_element_to_the_turn(lab: Lab) -> None:
    inflight = InFlight(lab.redis, "me", TIMING, LIMITS)
    inflight.turn("1")
    lab.push(b"x" * (MAX_READABLE_BYTES + 1))
    assert inflight.wait(1, lambda: 0.0) is None
    (head,) = inflight.turn("2").elements
    assert len(head) < MAX_READABLE_BYTES


def test_idle_consumer_keeps_what_came_and_a_dead_one_loses_it_after_a_grace(lab: Lab) -> None:
    idle, other = (InFlight(lab.redis, name, TIMING, LIMITS) for name in ("idle", "other"))
    assert idle.turn("1").elements == []
    assert idle.still_idle()
    assert lab.redis.pttl(consumer_heartbeat("idle")) > TIMING.idle_wait * 1000
    element = encode(new_task())
    lab.redis.lpush(inflight_list("idle"), element)  # as a blocking pop does
    assert not idle.still_idle()
    assert other.recover_some() == {}
    assert 0 < lab.redis.pttl(consumer_heartbeat("idle")) <= TIMING.idle_grace * 1000
    assert idle.turn("2").elements == [element], "it lives, and took it in time"
    assert other.recover_some() == {}
    assert lab.redis.pttl(consumer_heartbeat("idle")) > TIMING.idle_grace * 1000
    lab.expire_heartbeats()
    assert other.recover_some() == {"idle": 1}


def test_consumer_beside_waiting_lanes_does_not_call_itself_idle(lab: Lab) -> None:
    inflight = InFlight(lab.redis, "me", TIMING, LIMITS)
    assert inflight.turn("1").waiting_in_lanes == 0
    lab.redis.set(TASKS_AHEAD, 0)
    lab.push_tasks(2)
    load = builder().build("2", inflight.turn("2").elements).load
    turn = inflight.turn("3", load)
    assert (turn.elements, turn.waiting_in_lanes) == ([], 2)
    assert not inflight.still_idle()
    assert inflight.turn("4").waiting_in_lanes == 2
    assert lab.redis.pttl(consumer_heartbeat("me")) <= TIMING.heartbeat_ttl * 1000


def test_batch_is_refused_after_the_heartbeat_ended(lab: Lab) -> None:
    inflight = InFlight(lab.redis, "me", TIMING, LIMITS)
    lab.push_tasks(1)
    elements = inflight.turn("1").elements
    load = builder().build("1", elements).load
    lab.redis.delete(consumer_heartbeat("me"))
    for ticket in ("2", "3"):
        assert inflight.turn(ticket, load) == Turn(False, elements)
    assert not lab.published()


class UnluckyInFlight(InFlight):
    """Its first turns raise an unexpected error; `when_idle` is called when nothing is left to do."""

    unlucky_turns = 3
    when_idle: Callable[[], None]

    def turn(self, *arguments: Any, **more: Any) -> Turn:
        if self.unlucky_turns:
            self.unlucky_turns -= 1
            raise KeyError("unexpected")
        return super().turn(*arguments, **more)

    def wait(self, *arguments: Any) -> bytes | None:
        self.when_idle()
        return None


def test_loop_survives_unexpected_errors(lab: Lab) -> None:
    ids = lab.push_tasks(3)
    inflight = UnluckyInFlight(lab.redis, "me", TIMING, LIMITS)
    registry = CollectorRegistry()
    bridge = Bridge(inflight, builder(), Metrics(registry), TIMING)
    inflight.when_idle = bridge.stop
    bridge.run()
    assert lab.published_ids() == ids
    assert registry.get_sample_value("wearon_consumer_loop_errors_total") == 3


def builder() -> BatchBuilder:
    return BatchBuilder(CeleryMessages(CELERY_QUEUE), "me", lambda: datetime.now(UTC), 500)
