"""Elements that a consumer must not take: huge ones, and a long run of invalid ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wearon_contracts.queues import (
    DEAD_LETTER_BYTES,
    DEAD_LETTER_LIST,
    INTAKE_STOPPED,
    INVALID_IN_A_ROW,
    TASK_LIST,
)
from wearon_contracts.tasks import MAX_TASK_BYTES, DeadLetterReason
from wearon_local.processes import wait_until
from wearon_local.services import Service

from .lab import Lab, encode, new_task

HUGE = 53_000_000


def peak_megabytes(consumer: Service) -> float:
    status = Path(f"/proc/{consumer.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.slow
@pytest.mark.parametrize("waiting", [True, False], ids=["in a blocking pop", "with other elements"])
def test_huge_element_is_set_aside_without_loading_it(lab: Lab, waiting: bool) -> None:
    huge = new_task(prompt="x" * HUGE)
    consumer = lab.start() if waiting else None
    lab.push(encode(huge))
    ids = lab.push_tasks(2)
    consumer = consumer or lab.start()
    assert lab.wait_published(3)[1:] == ids
    (letter,) = lab.dead_letters()
    assert letter.reason is DeadLetterReason.TOO_LARGE
    assert letter.raw.encode() == encode(huge)[:MAX_TASK_BYTES]
    assert str(letter.session_id) == huge["session_id"]
    assert letter.detail.startswith(f"{len(encode(huge))} bytes")
    assert peak_megabytes(consumer) < 70


def test_huge_element_taken_by_a_killed_consumer_is_set_aside_by_another(lab: Lab) -> None:
    lab.push(encode(new_task(prompt="x" * HUGE)))
    first = lab.start(pause_at="taken")
    first.process.wait_until(lab.inflight, timeout=20, what="the element in flight")
    first.kill()
    lab.expire_heartbeats()
    second = lab.start()
    lab.wait_list(DEAD_LETTER_LIST, 1)
    assert lab.dead_letters()[0].detail.endswith(f"the first {MAX_TASK_BYTES} are kept")
    assert peak_megabytes(second) < 70


def wait_stopped(consumer: Service) -> None:
    wait_until(lambda: consumer.events(event="intake_stopped"), timeout=10, what="the intake stopped")


def test_too_many_invalid_elements_in_a_row_stop_the_intake(lab: Lab) -> None:
    lab.push(*[b"{}"] * 400)
    ids = lab.push_tasks(1)
    consumer = lab.start(MAX_INVALID_IN_A_ROW="150")
    wait_stopped(consumer)
    assert lab.redis.llen(DEAD_LETTER_LIST) == 150
    assert lab.redis.llen(TASK_LIST) == 251
    assert json.loads(lab.redis.get(INTAKE_STOPPED) or b"")["reason"] == "too_many_invalid"
    metrics = consumer.metrics()
    assert metrics["wearon_consumer_intake_stopped"] == 1
    assert metrics["wearon_consumer_refused_in_a_row"] == 150

    # What the operator does, twice: each time as many again go to the dead letters.
    for letters in (300, 400):
        lab.redis.delete(INTAKE_STOPPED, INVALID_IN_A_ROW)
        lab.wait_list(DEAD_LETTER_LIST, letters)
    assert lab.wait_published(1) == ids
    # The consumer counts once Redis has answered; the published message can be seen a moment earlier.
    wait_until(
        lambda: consumer.metrics()["wearon_consumer_refused_in_a_row"] == 0,
        timeout=10,
        what="a count that begins again",
    )


def test_stopped_intake_outlives_a_restart_and_stops_every_consumer(lab: Lab) -> None:
    lab.redis.set(INTAKE_STOPPED, json.dumps({"reason": "too_many_invalid"}))
    ids = lab.push_tasks(3)
    consumers = [lab.start(), lab.start()]
    for consumer in consumers:
        wait_stopped(consumer)
        assert consumer.ready()
    assert lab.redis.llen(TASK_LIST) == 3
    assert not lab.published()
    lab.redis.delete(INTAKE_STOPPED)
    assert lab.wait_published(3) == ids


def test_valid_task_starts_the_count_of_invalid_elements_again(lab: Lab) -> None:
    for _ in range(20):
        lab.push(*[b"{}"] * 9, encode(new_task()))
    consumer = lab.start(MAX_INVALID_IN_A_ROW="10")
    lab.wait_list(DEAD_LETTER_LIST, 180)
    lab.wait_published(20)
    assert not lab.redis.exists(INTAKE_STOPPED)
    assert not consumer.events(event="intake_stopped")


def test_dead_letters_beyond_their_limit_stop_the_intake(lab: Lab) -> None:
    invalid = b'{"prompt":"' + b"x" * 60_000 + b'"}'
    for _ in range(40):
        lab.push(invalid, encode(new_task()))
    consumer = lab.start(MAX_DEAD_LETTER_MB="1")
    wait_stopped(consumer)
    stopped = json.loads(lab.redis.get(INTAKE_STOPPED) or b"")
    assert stopped["reason"] == "dead_letters_full"
    kept = sum(len(raw) for raw in lab.redis.lrange(DEAD_LETTER_LIST, 0, -1))
    assert 2**20 <= kept < 2 * 2**20 + len(invalid)  # a batch holds up to 1 MiB
    assert lab.redis.llen(TASK_LIST)

    def all_published_if_the_operator_makes_room() -> bool:
        lab.redis.delete(DEAD_LETTER_LIST, INTAKE_STOPPED)
        return len(lab.published()) == 40

    wait_until(all_published_if_the_operator_makes_room, timeout=20, what="40 tasks published")


def test_dropped_dead_letters_are_not_counted_towards_the_limit(lab: Lab) -> None:
    lab.redis.set(DEAD_LETTER_BYTES, 10 * 2**20)  # as much was there once
    lab.push(b"{}")
    ids = lab.push_tasks(1)
    lab.start(MAX_DEAD_LETTER_MB="1")
    assert lab.wait_published(1) == ids
    assert not lab.redis.exists(INTAKE_STOPPED)
    assert int(lab.redis.get(DEAD_LETTER_BYTES) or 0) == len(lab.redis.lindex(DEAD_LETTER_LIST, 0) or b"")
