"""A session is worked on once, however often and wherever its task arrives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from uuid import uuid4

import pytest
from tests.integration.tryons import Samples, TryOns, events_of, start_generators

from wearon_consumer.celery_messages import CeleryMessages
from wearon_contracts.queues import CELERY_QUEUE, DEAD_LETTER_LIST, PROCESS_GENERATION_TASK, UNACKED_HASH
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # starts several generators


@pytest.fixture(scope="module")
def generators(stack: Stack) -> list[Service]:
    stack.start_service("consumer")
    return start_generators(stack, 3, {"GENERATIONS_PER_MINUTE": "1500"})


@pytest.fixture
def tryons(stack: Stack, generators: list[Service]) -> Iterator[TryOns]:
    yield TryOns(stack)
    stack.openai.set_latency(0)


def outcomes(generators: list[Service]) -> Counter[str]:
    """How deliveries ended, over all replicas."""
    total: Counter[str] = Counter()
    for generator in generators:
        total += Samples(generator.metrics()).by("jobs_total", "outcome")
    return total


def test_sessions_delivered_many_times_at_once_to_three_replicas(
    tryons: TryOns, generators: list[Service]
) -> None:
    before = outcomes(generators)
    tryons.stack.openai.set_latency(1)
    ordered = [tryons.make() for _ in range(2)] + [tryons.make("shopper")]
    tasks = [tryon.job.task for tryon in ordered] * 8
    messages = CeleryMessages(CELERY_QUEUE)
    with tryons.stack.redis.client() as client:  # the lanes hand on fewer
        client.lpush(
            CELERY_QUEUE,
            *(messages.message(PROCESS_GENERATION_TASK, task["task_id"], json.dumps(task)) for task in tasks),
        )
    tryons.wait_settled(*ordered)
    deliveries = 8 * len(ordered)
    wait_until(
        lambda: (outcomes(generators) - before).total() == deliveries, timeout=15, what="all deliveries"
    )
    ended = outcomes(generators) - before
    assert ended["completed"] == len(ordered)
    assert ended["held_elsewhere"] + ended["settled"] == deliveries - len(ordered)
    for tryon in ordered:
        tryons.assert_completed(tryon, calls=1)
        assert tryons.statuses(tryon) == ["processing", "completed"]
        assert tryons.outcome(tryon).attempts == 1
    replicas = [g for g in generators if g.events(event="job_turned_away")]
    assert len(replicas) > 1, "the deliveries went to one replica only: nothing was tried"


def test_failed_session_pushed_many_times_is_refunded_once(tryons: TryOns, generators: list[Service]) -> None:
    ordered = [tryons.make(payer, prompt="[[standin:moderation_blocked]]") for payer in ("user", "shopper")]
    for _ in range(5):
        tryons.push(*ordered)
    tryons.wait_settled(*ordered)
    # And once more, with another task for the same session.
    again = [{**tryon.job.task, "task_id": str(uuid4())} for tryon in ordered]
    before = outcomes(generators)["settled"]
    for tryon, task in zip(ordered, again, strict=True):
        tryon.job.task.update(task)
    tryons.push(*ordered)
    wait_until(lambda: outcomes(generators)["settled"] >= before + 2, timeout=15, what="turned away")
    for tryon in ordered:
        tryons.assert_given_back(tryon)
        assert len(tryons.calls(tryon)) == 1
        assert tryons.statuses(tryon) == ["processing", "failed"]


def test_message_delivered_again_after_its_job_is_finished(
    stack: Stack, tryons: TryOns, generators: list[Service]
) -> None:
    stack.openai.set_latency(2)
    tryon = tryons.order()
    wait_until(lambda: tryons.calls(tryon), timeout=15, what="the call")
    with stack.redis.client() as client:
        (taken,) = client.hvals(UNACKED_HASH)
        tryons.wait_settled(tryon)
        wait_until(lambda: client.hlen(UNACKED_HASH) == 0, timeout=10, what="the message is acknowledged")
        # Exactly what the broker does when it takes a worker for dead.
        message = taken.removeprefix("[").rpartition("}")[0] + "}"
        for _ in range(3):
            client.rpush(CELERY_QUEUE, message)

    def turned_away() -> bool:
        events = events_of(tryon, *generators)
        return [e["verdict"] for e in events if e["event"] == "job_turned_away"] == ["settled"] * 3

    wait_until(turned_away, timeout=15, what="turned away three times")
    tryons.assert_completed(tryon, calls=1)
    assert tryons.statuses(tryon) == ["processing", "completed"]
    (stored,) = [o for o in stack.gateway.objects() if o["name"] == tryon.job.result_path]
    assert stored["writes"] == 1


def test_task_of_somebody_elses_session_is_set_aside(stack: Stack, tryons: TryOns) -> None:
    """The session is failed and its own owner gets the credit back; nothing is made for the other."""
    tryon = tryons.make()
    stranger = stack.app.create_user(credits=5)
    tryon.job.task["user_id"] = str(stranger)
    tryons.push(tryon)
    (row,) = tryons.wait_settled(tryon)
    assert row["status"] == "failed"
    tryons.assert_given_back(tryon)
    assert stack.app.balance(stranger) == 5
    assert tryons.calls(tryon) == []
    with stack.redis.client() as client:
        assert '"owner_mismatch"' in client.lindex(DEAD_LETTER_LIST, 0)


def test_task_without_a_session_is_set_aside(stack: Stack, tryons: TryOns) -> None:
    tryon = tryons.make()
    tryon.job.task["session_id"] = str(uuid4())
    tryons.push(tryon)
    with stack.redis.client() as client:
        wait_until(
            lambda: tryon.job.task["session_id"] in (client.lindex(DEAD_LETTER_LIST, 0) or ""),
            timeout=15,
            what="dead letter",
        )
        assert '"session_not_found"' in client.lindex(DEAD_LETTER_LIST, 0)
    assert tryons.calls(tryon) == []
    assert tryons.row(tryon)["status"] == "queued"
