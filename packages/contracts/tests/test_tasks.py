from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wearon_contracts.schemas import MESSAGES
from wearon_contracts.tasks import (
    Channel,
    DeadLetter,
    DeadLetterReason,
    GenerationTask,
    RejectedTask,
)

TASK: dict[str, Any] = {
    "task_id": "5f0c7d7e-2a44-4a5f-8a86-1b0f6f1f6a10",
    "channel": "b2c",
    "user_id": "9b2e4c10-6f0d-4d1e-8c57-2f1a7e5d3c21",
    "session_id": "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11",
    "image_urls": ["https://cdn.shop.example/person.jpg", "https://cdn.shop.example/jacket.jpg"],
    "prompt": "",
    "request_id": "req_1",
    "created_at": "2026-11-23T21:00:00.123Z",
}
STORE = "c3a1f9d2-0b8e-4f6a-9d24-7e5b1c2a3f32"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(
        ["b2c", "b2b", "queued", STORE, "2026-11-23T21:00:00Z", "https://a.example/b", "\x00", "\ud800"]
    ),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from([*TASK, "store_id", "version", "status", "image_url", "height_cm", "measurements"])


def test_a_task_becomes_the_message_it_was_made_from() -> None:
    task = GenerationTask.model_validate(TASK)
    assert task.to_message() == {**TASK, "version": 1}
    assert GenerationTask.model_validate(task.to_message()) == task


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_trace_goes_along_with_the_task() -> None:
    task = GenerationTask.model_validate({**TASK, "traceparent": TRACEPARENT})
    assert task.to_message()["traceparent"] == TRACEPARENT


@pytest.mark.parametrize(
    "given",
    [
        None,
        7,
        [TRACEPARENT],
        "",
        TRACEPARENT.upper(),
        f"{TRACEPARENT}\n",
        f"ff{TRACEPARENT[2:]}",
        f"00-{'0' * 32}{TRACEPARENT[35:]}",
        f"{TRACEPARENT[:36]}{'0' * 16}-01",
    ],
)
def test_invalid_traceparent_is_ignored_and_the_task_accepted(given: object) -> None:
    assert GenerationTask.model_validate({**TASK, "traceparent": given}).to_message() == {
        **TASK,
        "version": 1,
    }


def test_absent_and_null_mean_the_same() -> None:
    with_nulls = GenerationTask.model_validate({**TASK, "store_id": None, "version": None})
    assert with_nulls == GenerationTask.model_validate(TASK)
    assert "store_id" not in with_nulls.to_message()


def test_unknown_keys_do_not_travel_on() -> None:
    task = GenerationTask.model_validate({**TASK, "priority": "high"})
    assert "priority" not in task.to_message()


def test_spelling_of_a_uuid_does_not_make_another_task() -> None:
    shouted = {**TASK, "task_id": TASK["task_id"].upper(), "session_id": TASK["session_id"].upper()}
    assert GenerationTask.model_validate(shouted).celery_task_id == TASK["task_id"]
    assert GenerationTask.model_validate(shouted) == GenerationTask.model_validate(TASK)


@pytest.mark.parametrize(("channel", "owner"), [("b2c", TASK["user_id"]), ("b2b", STORE)])
def test_the_channel_decides_who_the_owner_is(channel: str, owner: str) -> None:
    task = GenerationTask.model_validate({**TASK, "channel": channel, "store_id": STORE})
    assert task.owner_id == UUID(owner)


def test_a_refusal_names_the_owner_that_is_missing() -> None:
    with pytest.raises(ValidationError, match="store_id is required for channel b2b"):
        GenerationTask.model_validate({**TASK, "channel": "b2b"})


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        GenerationTask.model_validate(TASK).prompt = "other"  # type: ignore[misc]


@pytest.mark.parametrize("key", ["prompt", "request_id"])
def test_half_a_surrogate_pair_is_no_text(key: str) -> None:
    # No golden says so: JSON Schema has no portable word for it.
    spoilt = {**TASK, key: "a\ud800"}
    with pytest.raises(ValidationError, match=key):
        GenerationTask.model_validate(spoilt)
    with pytest.raises(ValidationError):
        GenerationTask.model_validate_json(json.dumps(spoilt))


@given(
    moment=st.datetimes(datetime(1000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    prompt=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    ids=st.lists(st.uuids(), min_size=3, max_size=3),
    urls=st.lists(
        st.from_regex(r"https://[a-z.-]{1,40}/[!-~]{0,60}", fullmatch=True), min_size=1, max_size=16
    ),
    channel=st.sampled_from(Channel),
)
def test_every_task_survives_the_way_to_the_worker(
    moment: datetime, prompt: str, ids: list[UUID], urls: list[str], channel: Channel
) -> None:
    owner = "user_id" if channel is Channel.B2C else "store_id"
    sent = {
        "task_id": str(ids[0]),
        "channel": channel.value,
        owner: str(ids[1]),
        "session_id": str(ids[2]),
        "image_urls": urls,
        "prompt": prompt,
        "request_id": prompt[:20],
        "version": 1,
        "created_at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    received = GenerationTask.model_validate_json(json.dumps(sent))
    assert json.loads(json.dumps(received.to_message())) == sent


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
@settings(deadline=None)
@given(value=json_values | st.dictionaries(keys, json_values))
def test_no_json_raises_anything_but_a_validation_error(message: Any, value: Any) -> None:
    with suppress(ValidationError):
        message.model.model_validate(value)
    with suppress(ValidationError):
        message.model.model_validate_json(json.dumps(value))


@settings(deadline=None)
@given(change=st.dictionaries(keys, json_values, min_size=1, max_size=2))
def test_no_spoilt_task_raises_anything_but_a_validation_error(change: dict[str, Any]) -> None:
    try:
        task = GenerationTask.model_validate({**TASK, **change})
    except ValidationError:
        return
    assert GenerationTask.model_validate_json(json.dumps(task.to_message())) == task


@given(st.binary())
def test_no_bytes_raise_anything_but_a_validation_error(raw: bytes) -> None:
    with pytest.raises(ValidationError):
        GenerationTask.model_validate_json(raw)


def test_a_notice_needs_no_more_than_the_session() -> None:
    notice = RejectedTask.model_validate({"channel": "b2c", "session_id": TASK["session_id"]})
    assert (notice.request_id, notice.code) == ("", "invalid_task")
    assert RejectedTask.model_validate(notice.model_dump(mode="json")) == notice


def test_a_dead_letter_is_dated_in_utc() -> None:
    letter = DeadLetter(
        reason=DeadLetterReason.NOT_JSON,
        detail="Expecting value at character 0",
        raw="{",
        set_aside_at=datetime(2026, 11, 23, 22, 0, tzinfo=timezone(timedelta(hours=1))),
        set_aside_by="consumer-1",
    )
    written = json.loads(letter.model_dump_json())
    assert written["set_aside_at"] == "2026-11-23T21:00:00.000Z"
    assert DeadLetter.model_validate(written) == letter


def test_a_time_without_a_zone_is_no_time() -> None:
    with pytest.raises(ValidationError, match="time zone"):
        DeadLetter(
            reason=DeadLetterReason.NOT_JSON,
            detail="",
            raw="{",
            set_aside_at=datetime(2026, 11, 23),  # noqa: DTZ001 - what is refused
            set_aside_by="consumer-1",
        )
