"""Faults strike as asked, no more often, and the record tells what happened."""

from __future__ import annotations

import time
from uuid import uuid4

import httpx
import pytest

from wearon_local.app.next_app import SAMPLE_PERSON
from wearon_local.stack import Stack

SAMPLE = f"/samples/{SAMPLE_PERSON.name}"


def get(stack: Stack, path: str = SAMPLE, **options: float) -> httpx.Response:
    return httpx.get(stack.gateway_url + path, **options)


def test_a_status_is_answered_as_often_as_asked_then_the_work_is_done(stack: Stack) -> None:
    stack.gateway.inject("status", path="^/samples/", status=503, times=2, headers={"retry-after": "7"})
    first = get(stack)
    assert (first.status_code, first.headers["retry-after"]) == (503, "7")
    assert get(stack).status_code == 503
    assert get(stack).status_code == 200
    assert [r.status for r in stack.gateway.requests()] == [503, 503, 200]


def test_only_matching_requests_are_struck_and_the_first_may_be_skipped(stack: Stack) -> None:
    stack.gateway.inject("status", method="get", path="person", status=500, skip=1, times=None)
    assert get(stack, "/samples/garment-drawn-tshirt.jpg").status_code == 200
    assert [get(stack).status_code for _ in range(3)] == [200, 500, 500]
    assert stack.gateway.faults()[0]["struck"] == 2
    stack.gateway.clear_faults()
    assert get(stack).status_code == 200


def test_a_fault_can_wait_for_a_certain_body(stack: Stack) -> None:
    marked = stack.app.create_user()
    stack.gateway.inject("status", path="/rpc/deduct_credits$", contains=str(marked), status=500, times=None)

    def deduct(user_id: object) -> int:
        body = {"p_user_id": str(user_id), "p_amount": 1, "p_description": "x"}
        url = f"{stack.gateway_url}/rest/v1/rpc/deduct_credits"
        return httpx.post(url, json=body, headers={"apikey": stack.service_role_key}).status_code

    assert deduct(stack.app.create_user()) == 200
    assert deduct(marked) == 500


@pytest.mark.parametrize("action", ["drop", "reset"])
def test_the_connection_ends_without_an_answer(stack: Stack, action: str) -> None:
    stack.gateway.inject(action, path=SAMPLE)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        get(stack)
    assert stack.gateway.requests()[-1].status is None
    assert get(stack).status_code == 200


def test_a_lost_answer_leaves_the_work_done(stack: Stack) -> None:
    user_id = stack.app.create_user(credits=5)
    stack.gateway.inject("lose_answer", path="/rpc/deduct_credits$")
    body = {"p_user_id": str(user_id), "p_amount": 1, "p_description": "x"}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(
            f"{stack.gateway_url}/rest/v1/rpc/deduct_credits",
            json=body,
            headers={"apikey": stack.service_role_key},
        )
    assert stack.app.balance(user_id) == 4


def test_an_answer_can_be_late_and_the_work_is_done_meanwhile(stack: Stack) -> None:
    user_id = stack.app.create_user(credits=5)
    stack.gateway.inject("late_answer", path="/rpc/deduct_credits$", seconds=30)
    body = {"p_user_id": str(user_id), "p_amount": 1, "p_description": "x"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{stack.gateway_url}/rest/v1/rpc/deduct_credits",
            json=body,
            headers={"apikey": stack.service_role_key},
            timeout=0.5,
        )
    assert stack.app.balance(user_id) == 4


def test_a_delay_is_as_long_as_asked(stack: Stack) -> None:
    stack.gateway.inject("delay", path=SAMPLE, seconds=0.3)
    started = time.monotonic()
    assert get(stack).status_code == 200
    assert time.monotonic() - started >= 0.3


def test_hanging_ends_with_the_client(stack: Stack) -> None:
    stack.gateway.inject("hang", path=SAMPLE)
    with pytest.raises(httpx.ReadTimeout):
        get(stack, timeout=0.2)
    assert get(stack).status_code == 200


def test_the_tests_own_requests_are_spared_and_not_recorded(stack: Stack) -> None:
    stack.gateway.inject("status", status=500, times=None)
    user_id = stack.app.create_user()
    path = stack.app.upload(f"uploads/{uuid4()}.jpg", SAMPLE_PERSON)
    assert stack.app.download(stack.app.sign(path)).status_code == 200
    assert stack.app.b2c_job(user_id).session_id
    assert stack.gateway.requests() == []


def test_the_record_holds_no_token(stack: Stack) -> None:
    path = stack.app.upload(f"uploads/{uuid4()}.jpg", SAMPLE_PERSON)
    url = stack.app.sign(path)
    httpx.get(url)
    record = stack.gateway.requests()[-1]
    assert record.path.endswith(path)
    assert url.split("token=")[1] not in record.query
    assert record.query.startswith("token=")


def test_an_unknown_fault_is_refused_by_name(stack: Stack) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        stack.gateway.inject("status", path="(")
    answer = httpx.post(f"{stack.gateway_url}/_control/faults", json={"action": "explode"})
    assert answer.status_code == 422
