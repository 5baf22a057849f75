"""What is lost is found: jobs of dead workers run again, sessions without a task are failed and refunded.

And nothing else is touched: neither what another replica works on nor what waits anywhere.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import pytest
from tests.integration.tryons import PAYERS, Samples, TryOn, TryOns, start_generators

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    TASK_LIST,
    UNACKED_HASH,
    inflight_list,
)
from wearon_generator.presence import PAUSED_KEY
from wearon_local.processes import wait_until
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # waits for real sweeps

STUCK_AFTER: Final = 30
SETTINGS: Final = {"STUCK_AFTER_SECONDS": str(STUCK_AFTER), "GENERATIONS_PER_MINUTE": "1500"}
TIMING: Final = {"sweep_interval": 1, "election": 3}
STUCK: Final = ErrorCode.STUCK


@pytest.fixture
def tryons(stack: Stack) -> Iterator[TryOns]:
    for service in stack.services:
        if service.name.startswith("generator"):
            service.terminate()
    stack.reset()
    yield TryOns(stack)


def need_consumer(stack: Stack) -> None:
    """Start one unless one runs."""
    if not any(service.running for service in stack.services if service.name.startswith("consumer")):
        stack.start_service("consumer")


def age(tryons: TryOns, seconds: int, *aged: TryOn) -> None:
    """Let try-ons be so much older."""
    for tryon in aged:
        tryons.app.rows(
            f"update {tryon.job.table} set created_at = created_at - make_interval(secs => %s)"
            " where id = %s returning 1",
            seconds,
            tryon.job.session_id,
        )


def let_lease_run_out(tryons: TryOns, *held: TryOn) -> None:
    for tryon in held:
        assert tryons.app.rows(
            "update generation_ledger set lease_expires_at = now() where session_id = %s returning 1",
            tryon.job.session_id,
        )


def set_status(tryons: TryOns, tryon: TryOn, status: str) -> None:
    tryons.app.rows(
        f"update {tryon.job.table} set status = %s where id = %s returning 1", status, tryon.job.session_id
    )


def wait_for_sweeps(tryons: TryOns) -> None:
    """Until whatever a sweep does has been done: an orphan of this moment is gone, and then another one."""
    for _ in range(2):
        orphan = tryons.make()
        # Older than every task that waits, however long it took to get here.
        age(tryons, 3600, orphan)
        tryons.wait_settled(orphan, timeout=20)


def assert_reaped(tryons: TryOns, tryon: TryOn) -> None:
    tryons.assert_failed(tryon, STUCK, sentence(STUCK), attempts=0)
    entry = tryons.entry(tryon)
    assert entry is not None and entry["settled_by"] == "reaper"
    assert tryons.statuses(tryon)[-1] == "failed"


def test_refund_of_sessions_whose_task_is_nowhere(stack: Stack, tryons: TryOns) -> None:
    lost = [tryons.make(payer) for payer in PAYERS]
    begun = tryons.make()
    young, young_begun = tryons.make(), tryons.make("store")
    for tryon in (begun, young_begun):
        set_status(tryons, tryon, "processing")
    age(tryons, STUCK_AFTER + 1, *lost)
    # What an old worker may have begun gets ten minutes more.
    age(tryons, STUCK_AFTER + 601, begun)
    age(tryons, STUCK_AFTER + 560, young_begun)
    (one, other) = start_generators(stack, 2, SETTINGS, timing=TIMING)
    tryons.wait_settled(*lost, begun, timeout=20)
    for tryon in (*lost, begun):
        assert_reaped(tryons, tryon)
    assert tryons.row(young)["status"] == "queued"
    assert tryons.row(young_begun)["status"] == "processing"

    def reaped() -> bool:
        samples = [Samples(generator.metrics()) for generator in (one, other)]
        return sum(s.total("reaped_total") for s in samples) == len(lost) + 1

    wait_until(reaped, timeout=5, what="all counted")
    lines = [line for generator in (one, other) for line in generator.events(event="session_reaped")]
    assert {line["session_id"] for line in lines} == {tryon.id for tryon in (*lost, begun)}


def test_cleanup_leaves_alone_what_waits_anywhere(stack: Stack, tryons: TryOns) -> None:
    """In the producer's list, with a dead consumer, in either queue, with a worker: however old it is."""
    stack.stop_services()
    consumer = stack.start_service("consumer")
    in_queue = [tryons.make(payer) for payer in ("user", "shopper")]
    tryons.push(*in_queue)
    with stack.redis.client() as client:
        wait_until(lambda: client.llen(CELERY_QUEUE) == len(in_queue), timeout=10, what="in the queue")
        consumer.terminate()
        again, taken, inflight, in_list = (tryons.make() for _ in range(4))
        message = json.loads(client.lindex(CELERY_QUEUE, 0))
        client.lpush(CELERY_RETRY_QUEUE, message_of(message, again))
        tag = str(uuid4())
        client.hset(UNACKED_HASH, tag, json.dumps([json.loads(message_of(message, taken)), "", CELERY_QUEUE]))
        client.lpush(inflight_list("dead"), json.dumps(inflight.job.task))
        client.lpush(TASK_LIST, json.dumps(in_list.job.task))
        waiting = [*in_queue, again, taken, inflight, in_list]
        age(tryons, 24 * 3600, *waiting)
        # Nobody starts a job: the one that comes first is held, the others stay where they are.
        client.set(PAUSED_KEY, "test")
        start_generators(stack, 1, {**SETTINGS, "GENERATOR_CONCURRENCY": "1"}, timing=TIMING)
        wait_for_sweeps(tryons)
        assert {tryons.row(tryon)["status"] for tryon in waiting} == {"queued"}
        assert [client.llen(name) for name in (CELERY_QUEUE, inflight_list("dead"), TASK_LIST)] == [2, 1, 1]

        client.delete(PAUSED_KEY)
        stack.start_service("consumer")
        # The dead worker's message comes back when the broker's patience ends; here, by hand.
        client.hdel(UNACKED_HASH, tag)
        client.lpush(CELERY_RETRY_QUEUE, message_of(message, taken))
    tryons.wait_settled(*waiting)
    for tryon in waiting:
        tryons.assert_completed(tryon)


def message_of(message: dict[str, Any], tryon: TryOn) -> str:
    """The Celery message, for another try-on."""
    body = base64.b64encode(json.dumps([[tryon.job.task], {}, {}]).encode()).decode()
    properties = {**message["properties"], "delivery_tag": str(uuid4())}
    return json.dumps({**message, "body": body, "properties": properties})


def test_cleanup_after_redis_lost_its_data(stack: Stack, tryons: TryOns) -> None:
    """What the ledger knows runs again, what it does not is refunded, and what is held goes on."""
    need_consumer(stack)
    with stack.redis.client() as client:
        client.set(PAUSED_KEY, "test")
        (dead,) = start_generators(stack, 1, {**SETTINGS, "GENERATOR_CONCURRENCY": "2"})
        known = [tryons.order(), tryons.order("store")]
        wait_until(
            lambda: all(tryons.entry(tryon) for tryon in known), timeout=10, what="held by the dead one"
        )
        unknown = [tryons.order(payer) for payer in ("user", "shopper")]
        wait_until(lambda: client.llen(CELERY_QUEUE) == len(unknown), timeout=10, what="in the queue")
        dead.kill()
        parked = [client.rpop(CELERY_QUEUE) for _ in unknown]
        (living,) = start_generators(stack, 1, SETTINGS, timing=TIMING)
        held = [tryons.order(), tryons.order("shopper")]
        wait_until(
            lambda: all(tryons.entry(tryon) for tryon in held), timeout=10, what="held by the living one"
        )
        assert all(parked)
    stack.redis.restart(lose_data=True)
    age(tryons, STUCK_AFTER + 1, *unknown)
    let_lease_run_out(tryons, *known)
    tryons.wait_settled(*known, *unknown, *held, timeout=60)
    for tryon in (*known, *held):
        tryons.assert_completed(tryon)
    for tryon in unknown:
        assert_reaped(tryons, tryon)
    assert {e["session_id"] for e in living.events(event="job_recovered")} == {t.id for t in known}
    # And it all works as before, retries included: what the broker keeps in Redis about queues is gone, too.
    after = tryons.order(prompt="[[standin:rate_limit_once=1]]")
    tryons.wait_settled(after)
    tryons.assert_completed(after, calls=2)


def test_cleanup_ends_a_task_that_was_begun_too_often(stack: Stack, tryons: TryOns) -> None:
    """It is failed and refunded without another call, unless its result is stored already."""
    need_consumer(stack)
    with stack.redis.client() as client:
        client.set(PAUSED_KEY, "test")
        (dead,) = start_generators(stack, 1, SETTINGS)
        poison = [tryons.order(payer) for payer in PAYERS]
        stored = tryons.order()
        wait_until(lambda: all(map(tryons.entry, [*poison, stored])), timeout=10, what="held")
        dead.kill()
        client.delete(PAUSED_KEY)
    tryons.app.rows(
        "update generation_ledger set attempt = 5, state = 'working' where session_id = any(%s) returning 1",
        [tryon.job.session_id for tryon in (*poison, stored)],
    )
    picture = b"\xff\xd8\xff a picture of an earlier attempt"
    tryons.app.upload(stored.job.result_path, picture)
    let_lease_run_out(tryons, *poison, stored)
    start_generators(stack, 1, SETTINGS)
    tryons.wait_settled(*poison, stored)
    code = ErrorCode.ATTEMPTS_EXHAUSTED
    for tryon in poison:
        tryons.assert_failed(tryon, code, sentence(code), attempts=6)
    assert tryons.row(stored)["status"] == "completed"
    assert tryons.app.stored(stored.job) == picture
    tryons.assert_taken(stored)
    assert stack.openai.calls() == []


def test_refund_of_tasks_that_cannot_be_read(stack: Stack, tryons: TryOns) -> None:
    need_consumer(stack)
    (generator,) = start_generators(stack, 1, SETTINGS)
    unreadable = []
    for payer in PAYERS:
        for wrong in ({"image_urls": []}, {"version": 2}, {"prompt": 7}):
            tryon = tryons.make(payer)
            tryon.job.task.update(wrong)
            unreadable.append(tryon)
    # One of them arrives beside a valid task of the same session: that one decides.
    valid = tryons.make(prompt="[[standin:slow=1]]")
    tryons.push(valid)
    wait_until(lambda: tryons.calls(valid), timeout=10, what="the call")
    tryons.app.push_raw(json.dumps({**valid.job.task, "prompt": 7}).encode())
    tryons.push(*unreadable)
    tryons.wait_settled(*unreadable, valid)
    tryons.assert_completed(valid)
    code = ErrorCode.INVALID_TASK
    for tryon in unreadable:
        tryons.assert_failed(tryon, code, sentence(code), attempts=0)
        assert tryons.statuses(tryon) == ["failed"]

    def told() -> bool:
        failed = [line["request_id"] for line in generator.events(event="session_failed", code=code.value)]
        return sorted(failed) == sorted(tryon.job.request_id for tryon in unreadable)

    wait_until(told, timeout=5, what="a line for each")
