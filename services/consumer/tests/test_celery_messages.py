"""The messages against those of celery itself."""

from __future__ import annotations

import json
from typing import Any

import celery
from celery.utils.saferepr import saferepr
from hypothesis import example, given
from hypothesis import strategies as st

from wearon_consumer.celery_messages import CeleryMessages, argsrepr
from wearon_contracts.queues import (
    CELERY_QUEUE,
    DEAD_LETTER_LIST,
    PROCESS_GENERATION_TASK,
    REJECT_GENERATION_TASK,
)

from .lab import Lab, encode, new_task

UNIQUE_PER_PROCESS = ("origin",)
UNIQUE_PER_MESSAGE = ("delivery_tag", "reply_to")


def celery_app(lab: Lab) -> celery.Celery:
    app = celery.Celery(broker=lab.server.url)
    app.conf.task_default_queue = CELERY_QUEUE
    return app


def everything_in_redis(lab: Lab) -> dict[bytes, Any]:
    """All keys but the dead letters; lists as lists, sets as sets."""
    everything: dict[bytes, Any] = {}
    keys: list[Any] = lab.redis.keys()
    for key in keys:
        if key != DEAD_LETTER_LIST.encode():
            is_list = lab.redis.type(key) == b"list"
            everything[key] = lab.redis.lrange(key, 0, -1) if is_list else lab.redis.smembers(key)
    return everything


def comparable(raw: bytes) -> tuple[str, dict[str, Any]]:
    """The message as text with what differs between any two messages or processes blotted out, and that."""
    message = json.loads(raw)
    varying = {name: message["headers"].pop(name) for name in UNIQUE_PER_PROCESS}
    varying |= {name: message["properties"].pop(name) for name in UNIQUE_PER_MESSAGE}
    return json.dumps(message), varying


def test_redis_looks_exactly_as_after_send_task(lab: Lab) -> None:
    valid = new_task(prompt="She said \"it's 5' long\" – naïve 😀 \\ \n" * 20)
    invalid = new_task(image_urls=[])
    lab.push(encode(valid), encode(invalid))
    consumer = lab.start()
    lab.wait_published(2)
    assert consumer.terminate() == 0
    ours, published = everything_in_redis(lab), lab.published()
    lab.redis.flushall()

    app = celery_app(lab)
    for message in published:
        app.send_task(message.name, args=[message.argument], task_id=message.task_id, queue=CELERY_QUEUE)
    theirs = everything_in_redis(lab)

    assert ours.keys() == theirs.keys()
    queue = CELERY_QUEUE.encode()
    for our_raw, their_raw in zip(ours.pop(queue), theirs.pop(queue), strict=True):
        our_text, our_varying = comparable(our_raw)
        their_text, their_varying = comparable(their_raw)
        assert our_text == their_text
        assert {k: len(v) for k, v in our_varying.items()} == {
            k: len(v) for k, v in their_varying.items()
        } | {
            "origin": len(our_varying["origin"])  # it holds the process id
        }
    assert ours == theirs


def test_a_stock_worker_executes_what_is_published(lab: Lab) -> None:
    valid, invalid = new_task(), new_task(channel="b2b", store_id=..., prompt=None)
    lab.push(encode(valid), encode(invalid))
    lab.start()
    lab.start_stock_worker()
    executed = [json.loads(raw) for raw in lab.wait_list("executed", 2, timeout=60)]
    assert executed[0] == [PROCESS_GENERATION_TASK, valid["task_id"], valid]
    name, task_id, argument = executed[1]
    assert name == REJECT_GENERATION_TASK
    assert argument == {
        "channel": "b2b",
        "session_id": invalid["session_id"],
        "request_id": invalid["request_id"],
        "code": "invalid_task",
    }
    assert len(task_id) == 36


VALUES = st.text() | st.integers() | st.none() | st.lists(st.text(max_size=300), max_size=5)


@given(st.dictionaries(st.text(max_size=40), VALUES | st.text(min_size=200), max_size=12))
@example({"a": "x" * 1013, "b": "y"})
@example({"a": ["x" * 500, "y'" * 300], "b": 1})
def test_argsrepr_is_celerys_own(argument: dict[str, Any]) -> None:
    assert argsrepr(argument) == saferepr([argument], 1024)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()))
@example("%(body)s", '"<body>"', {"%": "%s"})
def test_any_text_survives_in_a_message(name: str, task_id: str, argument: dict[str, Any]) -> None:
    message = json.loads(CeleryMessages("queue").message(name, task_id, argument))
    headers = message["headers"]
    assert (headers["task"], headers["id"], headers["root_id"]) == (name, task_id, task_id)
    assert headers["argsrepr"] == saferepr([argument], 1024)
    assert message["properties"]["delivery_info"] == {"exchange": "", "routing_key": "queue"}


def test_delivery_tags_differ() -> None:
    messages = CeleryMessages("queue")
    tags = {json.loads(messages.message("n", "i", {}))["properties"]["delivery_tag"] for _ in range(100)}
    assert len(tags) == 100
