from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    TASK_LIST,
    TASKS_HANDED,
    TASKS_KEPT,
    TASKS_WAITING_PREFIX,
    UNACKED_HASH,
    UNACKED_INDEX,
    inflight_list,
)
from wearon_generator.celery_app import CeleryBroker, create_celery_app
from wearon_generator.lanes import HandedTasks
from wearon_generator.queue_scan import QueueScan, task_in
from wearon_service_kit.redis_clients import connect, connect_async

T = TypeVar("T")


def _task(created_at: str) -> dict[str, Any]:
    return {"task_id": str(uuid4()), "session_id": str(uuid4()), "created_at": created_at}


def _celery_message(redis_url: str, task: dict[str, Any]) -> bytes:
    app = create_celery_app(redis_url, concurrency=1, visibility_timeout=60)
    CeleryBroker(app).publish_again(task)
    client = connect(redis_url, name="test")
    message = client.rpop(CELERY_RETRY_QUEUE)
    assert isinstance(message, bytes)
    return message


def _oldest(redis_url: str) -> datetime | None:
    async def run() -> datetime | None:
        client = connect_async(redis_url, name="test")
        try:
            return await QueueScan(client).oldest()
        finally:
            await client.aclose()

    return asyncio.run(run())


def _among(redis_url: str, wanted: set[str]) -> set[str]:
    async def run() -> set[str]:
        client = connect_async(redis_url, name="test")
        try:
            return await QueueScan(client).sessions_among(wanted)
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_nothing_waits_in_an_empty_redis(redis_url: str) -> None:
    assert _oldest(redis_url) is None
    assert _among(redis_url, {str(uuid4())}) == set()


@pytest.mark.parametrize(
    "place", [TASK_LIST, inflight_list("some-consumer"), CELERY_QUEUE, CELERY_RETRY_QUEUE]
)
def test_a_task_is_found_wherever_it_waits(redis_url: str, place: str) -> None:
    old, new = _task("2026-01-01T00:00:00.000Z"), _task("2026-02-01T00:00:00.000Z")
    plain = place in (TASK_LIST, inflight_list("some-consumer"))
    elements = [
        json.dumps(task).encode() if plain else _celery_message(redis_url, task) for task in (old, new)
    ]
    client = connect(redis_url, name="test")
    client.lpush(place, *elements)
    assert _oldest(redis_url) == datetime(2026, 1, 1, tzinfo=UTC)
    assert _among(redis_url, {old["session_id"], new["session_id"], str(uuid4())}) == {
        old["session_id"],
        new["session_id"],
    }


def test_task_in_a_lane_is_found_and_counts_as_waiting(redis_url: str) -> None:
    waiting, handed = str(uuid4()), str(uuid4())
    client = connect(redis_url, name="test")
    client.hset(TASKS_KEPT, mapping={waiting: "message", handed: "message"})
    client.zadd(f"{TASKS_WAITING_PREFIX}b2b", {waiting: datetime(2026, 1, 1, tzinfo=UTC).timestamp()})
    client.zadd(TASKS_HANDED, {handed: 1})
    assert _oldest(redis_url) == datetime(2026, 1, 1, tzinfo=UTC)
    assert _among(redis_url, {waiting, handed, str(uuid4())}) == {waiting, handed}


def test_handed_tasks_are_put_back_once_or_forgotten(redis_url: str) -> None:
    async def with_redis(use: Callable[[HandedTasks], Awaitable[T]]) -> T:
        client = connect_async(redis_url, name="test")
        try:
            return await use(HandedTasks(client))
        finally:
            await client.aclose()

    client = connect(redis_url, name="test")
    now = int(time.time() * 1000)
    lost, held, young = (str(uuid4()) for _ in range(3))
    client.hset(TASKS_KEPT, mapping=dict.fromkeys((lost, held, young), "message"))
    client.zadd(TASKS_HANDED, {lost: now - 60_000, held: now - 50_000, young: now})
    old = asyncio.run(with_redis(lambda handed: handed.older_than(30)))
    assert set(old) == {lost, held}
    asyncio.run(with_redis(lambda handed: handed.forget({held})))
    assert asyncio.run(with_redis(lambda handed: handed.put_back(lost, old[lost])))
    assert not asyncio.run(with_redis(lambda handed: handed.put_back(lost, old[lost])))
    assert not asyncio.run(with_redis(lambda handed: handed.put_back(held, old[held])))
    assert client.llen(CELERY_QUEUE) == 1
    assert asyncio.run(with_redis(lambda handed: handed.older_than(30))) == {}


def test_a_task_that_a_worker_has_taken_is_found_but_waits_no_more(redis_url: str) -> None:
    task = _task("2026-01-01T00:00:00.000Z")
    entry = json.dumps([json.loads(_celery_message(redis_url, task)), CELERY_QUEUE, CELERY_QUEUE])
    connect(redis_url, name="test").hset(UNACKED_HASH, mapping={"tag": entry})
    assert _among(redis_url, {task["session_id"]}) == {task["session_id"]}
    # A killed worker leaves it there for an hour, which must not keep the reaper from younger sessions.
    assert _oldest(redis_url) is None


def _take_as_worker(redis_url: str) -> str:
    """Take one message without acknowledging it, as a worker that is killed then; returns its tag."""
    app = create_celery_app(redis_url, concurrency=1, visibility_timeout=60)
    with app.connection_for_read() as connection:
        channel = connection.channel()
        message = app.amqp.queues[CELERY_RETRY_QUEUE].bind(channel).get()
        tag = str(message.delivery_tag)
        channel.qos._delivered.clear()  # what closing would put back; a killed worker closes nothing
    return tag


def test_what_a_dead_worker_took_is_delivered_again_once(redis_url: str) -> None:
    app = create_celery_app(redis_url, concurrency=1, visibility_timeout=60)
    older, newer = _task("2026-01-01T00:00:00.000Z"), _task("2026-02-01T00:00:00.000Z")
    CeleryBroker(app).publish_again(older)
    tag = _take_as_worker(redis_url)
    CeleryBroker(app).publish_again(newer)

    async def taken(moment: datetime) -> dict[str, str]:
        client = connect_async(redis_url, name="test")
        try:
            return await QueueScan(client).taken_before(moment)
        finally:
            await client.aclose()

    soon = datetime.now(UTC) + timedelta(seconds=1)
    assert asyncio.run(taken(soon)) == {tag: older["session_id"]}
    assert asyncio.run(taken(soon - timedelta(minutes=1))) == {}

    CeleryBroker(app).deliver_again(tag)
    CeleryBroker(app).deliver_again(tag)
    assert asyncio.run(taken(soon)) == {}
    client = connect(redis_url, name="test")
    waiting: list[bytes] = client.lrange(CELERY_RETRY_QUEUE, 0, -1)  # type: ignore[assignment]
    assert [task_in(message)["session_id"] for message in waiting] == [
        newer["session_id"],
        older["session_id"],  # at the right end: the next to be taken
    ]


def test_what_is_settled_is_acknowledged_in_the_place_of_a_dead_worker(redis_url: str) -> None:
    app = create_celery_app(redis_url, concurrency=1, visibility_timeout=60)
    CeleryBroker(app).publish_again(_task("2026-01-01T00:00:00.000Z"))
    tag = _take_as_worker(redis_url)

    async def forget() -> None:
        client = connect_async(redis_url, name="test")
        try:
            await QueueScan(client).forget_taken([tag, "unknown"])
        finally:
            await client.aclose()

    asyncio.run(forget())
    client = connect(redis_url, name="test")
    assert client.hlen(UNACKED_HASH) == client.zcard(UNACKED_INDEX) == 0
    CeleryBroker(app).deliver_again(tag)
    assert client.llen(CELERY_RETRY_QUEUE) == 0


def test_every_element_of_a_long_list_is_looked_at(redis_url: str) -> None:
    tasks = [_task("2026-01-01T00:00:00.000Z") for _ in range(1501)]
    connect(redis_url, name="test").lpush(TASK_LIST, *(json.dumps(task) for task in tasks))
    wanted = {tasks[0]["session_id"], tasks[750]["session_id"], tasks[1500]["session_id"]}
    assert _among(redis_url, wanted) == wanted


@pytest.mark.parametrize(
    "element", [b"", b"nonsense", b"[]", b"3", b'{"body": "!"}', b'[[["x"]]]', b"[" * 100000]
)
def test_unreadable_element_holds_no_task(element: bytes) -> None:
    assert task_in(element) == {}


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00Z", "1000-01-01T00:00:00.000Z", "1970-01-01T00:00:00Z"]
)
def test_time_in_which_no_task_was_made_keeps_the_sweep_from_nothing(redis_url: str, moment: str) -> None:
    client = connect(redis_url, name="test")
    client.lpush(TASK_LIST, json.dumps(_task(moment)))
    client.zadd(
        f"{TASKS_WAITING_PREFIX}b2c",
        {
            str(uuid4()): datetime.fromisoformat(moment).timestamp(),
            str(uuid4()): datetime(2026, 1, 1, tzinfo=UTC).timestamp(),
        },
    )
    assert _oldest(redis_url) == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("session_id", ["x", 'a","b', "", 7, None, ["x"], {"x": 1}])
def test_taken_message_that_names_no_session_is_no_business_of_the_sweep(
    redis_url: str, session_id: object
) -> None:
    client = connect(redis_url, name="test")
    fine = _task("2026-01-01T00:00:00.000Z")
    for tag, task in (("odd", {**fine, "session_id": session_id}), ("fine", fine)):
        message = json.loads(_celery_message(redis_url, task))
        client.hset(UNACKED_HASH, tag, json.dumps([message, CELERY_QUEUE, CELERY_QUEUE]))
        client.zadd(UNACKED_INDEX, {tag: 1})

    async def taken() -> dict[str, str]:
        asynchronous = connect_async(redis_url, name="test")
        try:
            return await QueueScan(asynchronous).taken_before(datetime.now(UTC))
        finally:
            await asynchronous.aclose()

    assert asyncio.run(taken()) == {"fine": fine["session_id"]}
