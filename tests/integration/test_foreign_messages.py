"""What another program pushes on Celery's queues ends no generator, is kept, and stays out of the log."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import pytest
from tests.integration.tryons import TryOns, start_generators

from wearon_consumer.celery_messages import CeleryMessages
from wearon_contracts.queues import (
    CELERY_QUEUE,
    DEAD_LETTER_LIST,
    PROCESS_GENERATION_TASK,
    REJECT_GENERATION_TASK,
    UNACKED_HASH,
)
from wearon_contracts.tasks import MAX_TASK_BYTES
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

SECRET: Final = "a-prompt-that-is-nobodys-business"
PAYLOAD: Final = json.dumps({"prompt": SECRET})


@pytest.fixture(scope="module")
def generator(stack: Stack) -> Service:
    stack.start_service("consumer")
    return start_generators(stack, 1)[0]


@pytest.fixture
def tryons(stack: Stack, generator: Service) -> Iterator[TryOns]:
    stack.reset()
    yield TryOns(stack)
    assert generator.running
    assert generator.ready()
    assert SECRET not in generator.process.log()
    assert not generator.events(level="critical")


def message(*, task: str = PROCESS_GENERATION_TASK, body: str | None = None, **changed: Any) -> bytes:
    """A message of ours with other headers, properties, or top-level fields."""
    envelope = json.loads(CeleryMessages(CELERY_QUEUE).message(task, str(uuid4()), PAYLOAD))
    for name, value in changed.items():
        part, _, field = name.partition("__")
        if field:
            envelope[part][field] = value
        else:
            envelope[part.replace("_", "-")] = value
    if body is not None:
        envelope["body"] = base64.b64encode(body.encode()).decode()
    return json.dumps(envelope).encode()


AFTER: Final = '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
NO_MESSAGES: Final[dict[str, tuple[bytes, str, str]]] = {
    "no JSON": (f"not json {SECRET}".encode(), "not_json", "all"),
    "no UTF-8": (b"\xff" + SECRET.encode(), "not_utf8", "all"),
    "nested too deeply": (b"[" * 60_000, "not_json", "all"),
    "a number": (b"5", "not_an_object", "all"),
    "no headers": (json.dumps({"body": SECRET}).encode(), "invalid_task", "headers"),
    "another task": (message(task="another.task"), "invalid_task", "headers.task"),
    "no id": (message(headers__id=None), "invalid_task", "headers.id"),
    "a time limit": (message(headers__timelimit=[1]), "invalid_task", "headers.timelimit"),
    "no time": (message(headers__eta="soon"), "invalid_task", "headers.eta"),
    "seconds in the zone": (
        message(headers__eta="2026-11-27T10:00:00+00:00:30"),
        "invalid_task",
        "headers.eta",
    ),
    "the last of all times": (
        message(headers__eta="9999-12-31T23:59:59+00:00"),
        "invalid_task",
        "headers.eta",
    ),
    "no delivery tag": (message(properties__delivery_tag=None), "invalid_task", "properties.delivery_tag"),
    "a pickle": (message(content_type="application/x-python-serialize"), "invalid_task", "content-type"),
    "two arguments": (message(body=f"[[{PAYLOAD}, 1], {{}}, {AFTER}]"), "invalid_task", "body.0"),
    "an argument by name": (
        message(body=f'[[{PAYLOAD}], {{"{SECRET}": 1}}, {AFTER}]'),
        "invalid_task",
        "body.1",
    ),
    "a task to follow": (
        message(body=f'[[{PAYLOAD}], {{}}, {{"chain": [1]}}]'),
        "invalid_task",
        "body.2.chain",
    ),
    "an object of kombu's": (
        message(body=f'[[{{"__type__": "uuid", "__value__": "{SECRET}"}}], {{}}, {AFTER}]'),
        "invalid_task",
        "body",
    ),
}


def kept(stack: Stack) -> list[dict[str, Any]]:
    with stack.redis.client() as redis:
        return [json.loads(letter) for letter in redis.lrange(DEAD_LETTER_LIST, 0, -1)]


def deliveries(generator: Service, outcome: str) -> float:
    """How many deliveries of what is no task ended so."""
    return generator.metrics()[f'wearon_generator_jobs_total{{channel="unknown",outcome="{outcome}"}}']


@pytest.mark.parametrize(("element", "reason", "wrong"), NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message_of_ours_becomes_a_counted_dead_letter_and_the_next_job_completes(
    stack: Stack, tryons: TryOns, generator: Service, element: bytes, reason: str, wrong: str
) -> None:
    before = deliveries(generator, "dead_lettered")
    with stack.redis.client() as redis:
        redis.lpush(CELERY_QUEUE, element)
        wait_until(lambda: kept(stack), timeout=10, what="a dead letter")
        (letter,) = kept(stack)
        raw = base64.b64decode(letter["raw"]) if letter["encoding"] == "base64" else letter["raw"].encode()
        assert (raw, letter["reason"]) == (element, reason)
        assert wrong in letter["detail"]
        wait_until(
            lambda: deliveries(generator, "dead_lettered") == before + 1, timeout=5, what="it is counted"
        )
        tryon = tryons.order()
        tryons.wait_settled(tryon)
        assert tryons.row(tryon)["status"] == "completed"
        wait_until(lambda: not redis.exists(UNACKED_HASH), timeout=5, what="nothing is left with Celery")


def test_while_redis_is_full_it_is_not_lost(stack: Stack, tryons: TryOns, generator: Service) -> None:
    """Redis gives an element away then, but takes no dead letter."""
    with stack.redis.client() as redis:
        try:
            with redis.pipeline(transaction=True) as pipe:
                pipe.lpush(CELERY_QUEUE, b"not json")
                pipe.config_set("maxmemory", 1)
                pipe.execute()
            wait_until(
                lambda: generator.events(event="dead_letter_not_kept"), timeout=10, what="Redis is full"
            )
            assert not kept(stack)
        finally:
            redis.config_set("maxmemory", 0)
    wait_until(lambda: kept(stack), timeout=15, what="a dead letter")
    tryons.wait_settled(tryons.order())


def test_of_a_huge_element_the_beginning_is_kept(stack: Stack, tryons: TryOns) -> None:
    with stack.redis.client() as redis:
        redis.lpush(CELERY_QUEUE, b"x" * (MAX_TASK_BYTES + 1))
    wait_until(lambda: kept(stack), timeout=10, what="a dead letter")
    (letter,) = kept(stack)
    assert letter["raw"] == "x" * MAX_TASK_BYTES
    assert f"the first {MAX_TASK_BYTES} of {MAX_TASK_BYTES + 1} bytes" in letter["detail"]


@pytest.mark.parametrize("payload", [PAYLOAD, json.dumps(SECRET)])
@pytest.mark.parametrize("task", [PROCESS_GENERATION_TASK, REJECT_GENERATION_TASK])
def test_wrong_payload_of_either_task_becomes_a_counted_dead_letter(
    stack: Stack, tryons: TryOns, generator: Service, task: str, payload: str
) -> None:
    before = deliveries(generator, "dead_lettered")
    with stack.redis.client() as redis:
        redis.lpush(CELERY_QUEUE, CeleryMessages(CELERY_QUEUE).message(task, str(uuid4()), payload))
        wait_until(lambda: kept(stack), timeout=10, what="a dead letter")
        (letter,) = kept(stack)
        assert json.loads(letter["raw"]) == json.loads(payload)
        wait_until(lambda: not redis.exists(UNACKED_HASH), timeout=5, what="nothing is left with Celery")
    assert deliveries(generator, "dead_lettered") == before + 1


def test_delivery_that_crashes_is_counted_and_tried_again_and_its_payload_is_not_logged(
    stack: Stack, tryons: TryOns, generator: Service
) -> None:
    before = deliveries(generator, "crashed")
    with stack.redis.client() as redis:
        redis.set(DEAD_LETTER_LIST, "no list")
        redis.lpush(
            CELERY_QUEUE,
            CeleryMessages(CELERY_QUEUE).message(PROCESS_GENERATION_TASK, str(uuid4()), PAYLOAD),
        )
        wait_until(lambda: deliveries(generator, "crashed") == before + 1, timeout=10, what="a crash")
        redis.delete(DEAD_LETTER_LIST)
        wait_until(lambda: kept(stack), timeout=20, what="a dead letter")


def test_rejection_with_an_unknown_code_still_gives_the_credit_back(
    stack: Stack, tryons: TryOns, generator: Service
) -> None:
    tryon = tryons.make()
    before = deliveries(generator, "rejected")
    payload = json.dumps(
        {"channel": tryon.job.channel, "session_id": tryon.id, "code": "of-a-newer-version", "prompt": SECRET}
    )
    with stack.redis.client() as redis:
        redis.lpush(
            CELERY_QUEUE, CeleryMessages(CELERY_QUEUE).message(REJECT_GENERATION_TASK, str(uuid4()), payload)
        )
    tryons.wait_settled(tryon)
    assert tryons.row(tryon)["status"] == "failed"
    tryons.assert_given_back(tryon)
    assert [letter["session_id"] for letter in kept(stack)] == [tryon.id]
    wait_until(
        lambda: deliveries(generator, "rejected") == before + 1,
        timeout=5,
        what="it is counted",
    )
