"""Reading elements: any bytes give either a task or a refusal with its reason and the ids found."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wearon_consumer.elements import NO_IDS, ElementIds, Refusal, read_element
from wearon_contracts.tasks import Channel, GenerationTask
from wearon_contracts.tasks import DeadLetterReason as R

from .lab import encode, new_task

SESSION = "01890000-0000-7000-8000-00000000ab0c"
ALL_IDS = ElementIds(Channel.B2C, UUID(SESSION), "req_1")
NO_CHANNEL = ElementIds(None, UUID(SESSION), "req_1")
NO_SESSION = ElementIds(Channel.B2C, None, "req_1")
NO_REQUEST = ElementIds(Channel.B2C, UUID(SESSION))


def refused(raw: bytes) -> Refusal:
    outcome = read_element(raw)
    assert isinstance(outcome, Refusal), outcome
    return outcome


def accepted(raw: bytes) -> GenerationTask:
    outcome = read_element(raw)
    assert isinstance(outcome, GenerationTask), outcome
    return outcome


def task_bytes(**changes: Any) -> bytes:
    return encode(new_task(**{"session_id": SESSION, "request_id": "req_1", **changes}))


def with_member(member: str) -> bytes:
    """A valid task with one more member of literal JSON at its end."""
    return task_bytes()[:-1] + b"," + member.encode() + b"}"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(task_bytes(version=...), id="no version"),
        pytest.param(task_bytes(version=None, store_id=None), id="null for absent"),
        pytest.param(task_bytes(channel="b2b", user_id=..., store_id=SESSION), id="b2b"),
        pytest.param(task_bytes(prompt=""), id="empty prompt"),
        pytest.param(task_bytes(prompt="😀 \u2028 \u202e"), id="any script"),
        pytest.param(json.dumps(new_task(), indent=2).encode(), id="white space"),
        pytest.param(with_member('"extra":{"deep":[1,2,{"a":null}]}'), id="unknown key"),
        pytest.param(with_member('"NaN":"NaN, Infinity and -Infinity are words here"'), id="the word NaN"),
        pytest.param(with_member('"extra":' + "9" * 5000), id="integer of 5000 digits in an unknown key"),
        pytest.param(with_member('"extra":1e999'), id="number beyond floats in an unknown key"),
        pytest.param(with_member(r'"extra":"\ud800"'), id="half a pair in an unknown key"),
        pytest.param(with_member('"extra":' + "[" * 300 + "]" * 300), id="nested 300 deep"),
        pytest.param(task_bytes()[:-1] + b" " * (64 * 1024 - len(task_bytes())) + b"}", id="64 KiB exactly"),
    ],
)
def test_valid_element_is_accepted(raw: bytes) -> None:
    accepted(raw)


def test_repeated_key_takes_its_last_value() -> None:
    assert accepted(with_member('"prompt":"second"')).prompt == "second"


@pytest.mark.parametrize(
    ("raw", "reason", "ids"),
    [
        pytest.param(b"", R.NOT_JSON, NO_IDS, id="empty"),
        pytest.param(b"hello", R.NOT_JSON, NO_IDS, id="text"),
        pytest.param(b"\x00\x01", R.NOT_JSON, NO_IDS, id="control characters"),
        pytest.param(b"\xff\xfe", R.NOT_UTF8, NO_IDS, id="not UTF-8"),
        pytest.param(task_bytes().replace(b"chic", b"\xe9"), R.NOT_UTF8, ALL_IDS, id="Latin-1"),
        pytest.param(task_bytes().decode().encode("utf-16"), R.NOT_UTF8, NO_IDS, id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf" + task_bytes(), R.NOT_JSON, ALL_IDS, id="byte order mark"),
        pytest.param(task_bytes() + b"}", R.NOT_JSON, ALL_IDS, id="something after it"),
        pytest.param(task_bytes()[:-20], R.NOT_JSON, ALL_IDS, id="cut off"),
        pytest.param(with_member('"extra":NaN'), R.NOT_JSON, ALL_IDS, id="NaN"),
        pytest.param(with_member('"extra":-Infinity'), R.NOT_JSON, ALL_IDS, id="-Infinity"),
        pytest.param(with_member('"extra":"\x01"'), R.NOT_JSON, ALL_IDS, id="raw control character"),
        pytest.param(with_member("'extra':1"), R.NOT_JSON, NO_IDS, id="single quotes"),
        pytest.param(with_member('"extra":' + "[" * 9000 + "]" * 9000), R.NOT_JSON, NO_IDS, id="deep"),
        pytest.param(b"null", R.NOT_AN_OBJECT, NO_IDS, id="null"),
        pytest.param(b"[" + task_bytes() + b"]", R.NOT_AN_OBJECT, NO_IDS, id="list"),
        pytest.param(json.dumps(task_bytes().decode()).encode(), R.NOT_AN_OBJECT, NO_IDS, id="twice"),
        pytest.param(b"{}", R.INVALID_TASK, NO_IDS, id="empty object"),
        pytest.param(task_bytes(prompt=...), R.INVALID_TASK, ALL_IDS, id="key missing"),
        pytest.param(task_bytes(image_urls=["/relative"]), R.INVALID_TASK, ALL_IDS, id="URL"),
        pytest.param(task_bytes(user_id=...), R.INVALID_TASK, ALL_IDS, id="no owner"),
        pytest.param(task_bytes(channel="b2x"), R.INVALID_TASK, NO_CHANNEL, id="channel"),
        pytest.param(with_member('"session_id":"x"'), R.INVALID_TASK, NO_SESSION, id="session twice"),
        pytest.param(with_member(r'"prompt":"\ud83d"'), R.INVALID_TASK, ALL_IDS, id="half a pair"),
        pytest.param(with_member(r'"prompt":"\u0000"'), R.INVALID_TASK, ALL_IDS, id="NUL"),
        pytest.param(with_member(r'"request_id":"\ud83d"'), R.INVALID_TASK, NO_REQUEST, id="request id"),
        pytest.param(task_bytes(version="1"), R.INVALID_TASK, ALL_IDS, id="version a string"),
        pytest.param(task_bytes(version=True), R.INVALID_TASK, ALL_IDS, id="version true"),
        pytest.param(task_bytes(version=1.5), R.INVALID_TASK, ALL_IDS, id="version 1.5"),
        pytest.param(with_member('"version":' + "9" * 5000), R.INVALID_TASK, ALL_IDS, id="version huge"),
        pytest.param(task_bytes(version=2), R.UNKNOWN_VERSION, ALL_IDS, id="version 2"),
        pytest.param(task_bytes(version=2.0), R.UNKNOWN_VERSION, ALL_IDS, id="version 2.0"),
        pytest.param(task_bytes(version=0, prompt=...), R.UNKNOWN_VERSION, ALL_IDS, id="version 0"),
        pytest.param(task_bytes(prompt="x" * 65_536), R.TOO_LARGE, ALL_IDS, id="over 64 KiB"),
        pytest.param(b"\0oversized 53000000 " + task_bytes()[:400], R.TOO_LARGE, NO_REQUEST, id="head"),
        pytest.param(b"\0oversized 53000000 nothing", R.TOO_LARGE, NO_IDS, id="head without ids"),
        pytest.param(b"[" * 500_000, R.TOO_LARGE, NO_IDS, id="half a MiB of brackets"),
    ],
)  # fmt: skip
def test_invalid_element_is_refused_with_its_reason_and_ids(raw: bytes, reason: R, ids: ElementIds) -> None:
    refusal = refused(raw)
    assert (refusal.reason, refusal.ids) == (reason, ids)
    assert refusal.detail


def test_rejection_needs_both_session_and_channel() -> None:
    rejection = refused(task_bytes(prompt=...)).ids.rejection()
    assert rejection is not None
    assert (str(rejection.session_id), rejection.channel, rejection.request_id) == (
        SESSION,
        Channel.B2C,
        "req_1",
    )
    assert refused(task_bytes(channel="b2x")).ids.rejection() is None
    assert refused(task_bytes(session_id=f"{{{SESSION}}}", prompt=...)).ids.rejection() is None


def test_detail_names_fields_but_never_their_values() -> None:
    refusal = refused(task_bytes(prompt=5, image_urls=["secret.jpg?token=abc"], user_id="s3cr3t"))
    for field in ("prompt", "image_urls.0", "user_id"):
        assert field in refusal.detail
    for value in ("secret", "abc", "s3cr3t"):
        assert value not in refusal.detail


def test_detail_of_many_errors_stays_short() -> None:
    assert len(refused(task_bytes(image_urls=[""] * 16)).detail) <= 1000


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["b2c", "b2b", SESSION]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.binary(max_size=200))
@example(b'{"session_id":"\xff"')
def test_read_element_never_raises(raw: bytes) -> None:
    refused(raw)


@given(st.dictionaries(st.sampled_from(sorted(new_task())), JSON))
def test_task_with_random_values_is_accepted_unchanged_or_refused(changes: dict[str, Any]) -> None:
    task = {**new_task(), **changes}
    outcome = read_element(json.dumps(task).encode())
    if isinstance(outcome, GenerationTask):
        assert outcome.prompt == task["prompt"]
        assert outcome.image_urls == task["image_urls"]
        assert str(outcome.session_id) == task["session_id"].lower()
    else:
        assert changes


@given(st.integers(min_value=0), st.binary(max_size=3), st.integers(min_value=0, max_value=3))
def test_damaged_task_is_accepted_or_refused(position: int, inserted: bytes, removed: int) -> None:
    raw = task_bytes()
    at = position % len(raw)
    outcome = read_element(raw[:at] + inserted + raw[at + removed :])
    if isinstance(outcome, Refusal):
        outcome.ids.rejection()


@given(
    prompt=st.text().filter(lambda text: "\x00" not in text),
    request_id=st.text(alphabet="abc-_0123", max_size=40),
)
def test_accepted_task_is_passed_on_unchanged(prompt: str, request_id: str) -> None:
    task = new_task(prompt=prompt, request_id=request_id)
    message = accepted(encode(task)).to_message()
    assert message == task
