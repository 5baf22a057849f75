"""Spoilt tasks and sizing requests by the hundred: pydantic and ajv must judge every one alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wearon_contracts.sizing import EstimateBodyRequest
from wearon_contracts.tasks import GenerationTask

UUID = "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11"
TASK: dict[str, Any] = {
    "task_id": UUID,
    "channel": "b2c",
    "user_id": UUID,
    "store_id": UUID,
    "session_id": UUID,
    "image_urls": ["https://cdn.shop.example/person.jpg"],
    "prompt": "",
    "request_id": "req_1",
    "version": 1,
    "created_at": "2026-11-23T21:00:00.123Z",
}
REQUEST: dict[str, Any] = {
    "image_url": "https://cdn.shop.example/person.jpg",
    "height_cm": 175.5,
    "weight_kg": 70,
    "gender": "other",
    "fit_preference": "loose",
}

# Without half surrogate pairs: pydantic refuses them, JSON Schema has no portable word for them.
odd_characters = st.sampled_from("\x00\x1c\x7f\x85\xa0\u2028\ufeff\uff15٢é\U0001f457\n :/?#@[]%{}0aZ+-.T")
scalars = (
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats(0, 300) | st.text(odd_characters, max_size=4)
)
dates = st.builds(
    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}{}".format,
    st.sampled_from([0, 1, 1900, 2000, 2026, 2028, 9999]),
    *(st.integers(0, limit) for limit in (13, 32, 25, 61, 61)),
    st.sampled_from(["", ".", ".5", ".123456789", ".1234567890"]),
    st.sampled_from(["Z", "z", "", "+00:00"]),
)
urls = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["https", "HTTP", "h+t.t-p", "1http", "", "\u017f"]),
    st.sampled_from(["://", ":/", ":", "//"]),
    st.text(odd_characters, max_size=3),
    st.sampled_from(["", "/a.jpg", "/a b", "?x", "/" + "a" * 8186, "]"]),
)
values = (
    scalars
    | dates
    | urls
    | st.lists(scalars | urls, max_size=17)
    | st.dictionaries(st.text(odd_characters, max_size=2), scalars)
)


@st.composite
def spoilt(draw: st.DrawFn, original: dict[str, Any]) -> dict[str, Any]:
    """`original` with up to three keys dropped, replaced, or with characters put into their text."""
    spoilt = dict(original)
    for key in draw(st.lists(st.sampled_from([*original, "other"]), max_size=3, unique=True)):
        match draw(st.sampled_from(["drop", "replace", "splice"])), spoilt.get(key):
            case "drop", _:
                spoilt.pop(key, None)
            case "splice", str(text):
                at = draw(st.integers(0, len(text)))
                spoilt[key] = (
                    text[:at]
                    + draw(st.text(odd_characters, max_size=2))
                    + text[at + draw(st.integers(0, 1)) :]
                )
            case _:
                spoilt[key] = draw(values)
    return spoilt


def _taken_by_pydantic(model: Any, text: str) -> bool:
    try:
        model.model_validate(json.loads(text))
    except ValidationError:
        return False
    return True


thorough = settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("channel", ["b2c", "b2b"])
@thorough
@given(data=st.data())
def test_both_languages_judge_tasks_alike(channel: str, ajv: Any, data: st.DataObject) -> None:
    text = json.dumps(data.draw(spoilt({**TASK, "channel": channel})))
    assert ajv.judge("generation-task", text).valid == _taken_by_pydantic(GenerationTask, text)


@thorough
@given(request=spoilt(REQUEST))
def test_both_languages_judge_sizing_requests_alike(ajv: Any, request: dict[str, Any]) -> None:
    text = json.dumps(request)
    assert ajv.judge("estimate-body-request", text).valid == _taken_by_pydantic(EstimateBodyRequest, text)
