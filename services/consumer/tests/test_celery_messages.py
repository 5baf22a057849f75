"""The messages against those of celery itself."""

from __future__ import annotations

import base64
import json
from typing import Any

import celery
from hypothesis import example, given
from hypothesis import strategies as st

from wearon_consumer.celery_messages import CeleryMessages
from wearon_contracts.queues import (
    CELERY_QUEUE,
    PROCESS_GENERATION_TASK,
    REJECT_GENERATION_TASK,
)

from .lab import Lab, encode, new_task

UNIQUE_PER_PROCESS = ("origin",)
LEFT_OUT_ON_PURPOSE = ("argsrepr",)  # it would show signed URLs and prompts in logs
UNIQUE_PER_MESSAGE = ("delivery_tag", "reply_to")


def celery_app(lab: Lab) -> celery.Celery:
    app = celery.Celery(broker=lab.server.url)
    app.conf.task_default_queue = CELERY_QUEUE
    return app


def everything_in_redis(lab: Lab) -> dict[bytes, Any]:
    """The keys that Celery uses; lists as lists, sets as sets."""
    everything: dict[bytes, Any] = {}
    keys: list[Any] = lab.redis.keys()
    for key in keys:
        if not key.startswith(b"wearon:"):
            is_list = lab.redis.type(key) == b"list"
            everything[key] = lab.redis.lrange(key, 0, -1) if is_list else lab.redis.smembers(key)
    return everything


def comparable(raw: bytes) -> tuple[str, dict[str, Any]]:
    """The message as text with what differs between any two messages or processes blotted out, and that."""
    message = json.loads(raw)
    message["body"] = json.loads(base64.b64decode(message["body"]))  # JSON may be spelt in more ways than one
    for name in LEFT_OUT_ON_PURPOSE:
        message["headers"].pop(name)
    varying = {name: message["headers"].pop(name) for name in UNIQUE_PER_PROCESS}
    varying |= {name: message["properties"].pop(name) for name in UNIQUE_PER_MESSAGE}
    return json.dumps(message), varying


def test_published_messages_leave_redis_as_send_task_does(lab: Lab) -> None:
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


def test_plain_celery_worker_executes_published_messages(lab: Lab) -> None:
    valid, invalid = new_task(), new_task(channel="b2b", store_id=..., prompt=None)
    lab.push(encode(valid), encode(invalid))
    lab.start()
    lab.start_stock_worker()
    executed = sorted(json.loads(raw) for raw in lab.wait_list("executed", 2, timeout=60))
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


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()))
@example("%(body)s", '"<body>"', {"%": "%s"})
def test_message_keeps_any_text_unchanged(name: str, task_id: str, argument: dict[str, Any]) -> None:
    message = json.loads(CeleryMessages("queue").message(name, task_id, json.dumps(argument)))
    headers = message["headers"]
    assert (headers["task"], headers["id"], headers["root_id"]) == (name, task_id, task_id)
    assert headers["argsrepr"] == "[{...}]"
    assert message["properties"]["delivery_info"] == {"exchange": "", "routing_key": "queue"}


def test_each_message_has_its_own_delivery_tag() -> None:
    messages = CeleryMessages("queue")
    tags = {json.loads(messages.message("n", "i", "{}"))["properties"]["delivery_tag"] for _ in range(100)}
    assert len(tags) == 100
