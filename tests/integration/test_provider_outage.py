"""What the provider refuses every job for stops all replicas and burns no backlog; one job then probes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from tests.integration.tryons import PAYERS, Samples, TryOns, start_generators

from wearon_contracts.errors import ErrorCode, sentence
from wearon_generator.breaker import KEY_PREFIX, PAUSE_SECONDS, TRIPS_AFTER
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow

BACKLOG: Final = 40
EDITS: Final = "/v1/images/edits"


def error(status: int, code: str | None = None, kind: str | None = None) -> dict[str, Any]:
    """An answer as OpenAI gives it."""
    body = {"error": {"message": "refused", "type": kind, "param": None, "code": code}}
    return {"status": status, "body": body}


CAUSES: Final = {
    "401": ("key_refused", error(401, "invalid_api_key", "invalid_request_error")),
    "403": ("forbidden", error(403, None, "invalid_request_error")),
    "404 model_not_found": ("model_gone", error(404, "model_not_found", "invalid_request_error")),
    "400 billing_hard_limit_reached": ("no_money", error(400, "billing_hard_limit_reached")),
    "429 billing_not_active": ("no_money", error(429, "billing_not_active", "billing_not_active")),
    "429 only by type": ("no_money", error(429, None, "insufficient_quota")),
    "400 unknown_parameter": ("parameter_refused", error(400, "unknown_parameter")),
    "418 never heard of": ("unknown", error(418, "teapot")),
}


@pytest.fixture(scope="module")
def generators(stack: Stack) -> list[Service]:
    stack.start_service("consumer")
    return start_generators(stack, 2)


@pytest.fixture
def tryons(stack: Stack) -> Iterator[TryOns]:
    stack.reset()
    yield TryOns(stack)
    stack.openai.set_latency(0)


def pauses(generator: Service) -> dict[str, int]:
    """The reasons for which jobs are not started, where an alarm looks."""
    by_reason = Samples(generator.metrics()).by("provider_pause", "reason")
    return {reason: value for reason, value in by_reason.items() if value}


def shows_pause(generator: Service, reason: str) -> bool:
    """Both where a probe and where an alarm would look."""
    try:
        check = generator.readiness()["checks"]["provider"]
    except httpx.ConnectError:
        return False
    return not check["ok"] and reason in check["detail"] and pauses(generator) == {reason: 1}


def pause_key(stack: Stack) -> bytes:
    with stack.redis.client() as client:
        keys: list[bytes] = client.keys(f"{KEY_PREFIX}*:pause")
        return keys[0] if keys else b""


def end_pause(stack: Stack) -> None:
    """What the passing of `PAUSE_SECONDS` does."""
    with stack.redis.client() as client:
        assert client.delete(pause_key(stack)) == 1


def pause_left(stack: Stack) -> int:
    with stack.redis.client() as client:
        return int(client.ttl(pause_key(stack)))


@pytest.mark.parametrize("cause", CAUSES)
def test_at_most_three_jobs_fail_and_the_rest_complete_once_the_cause_is_gone(
    stack: Stack, generators: list[Service], tryons: TryOns, cause: str
) -> None:
    reason, answer = CAUSES[cause]
    stack.openai.inject("status", path=EDITS, times=None, **answer)
    backlog = [tryons.make(payer) for payer in PAYERS * (BACKLOG // len(PAYERS))]
    tryons.push(*backlog)
    for generator in generators:
        wait_until(lambda g=generator: shows_pause(g, reason), timeout=20, what="pause shown")  # type: ignore[misc]

    # A probe that fails costs no job either.
    end_pause(stack)
    wait_until(lambda: pause_left(stack) > 0, timeout=15, what="second pause")

    stack.openai.clear_faults()
    rows = tryons.wait_settled(*backlog, timeout=60)
    failed = [tryon for tryon, row in zip(backlog, rows, strict=True) if row["status"] == "failed"]
    assert len(failed) <= TRIPS_AFTER
    code = ErrorCode.QUOTA_EXHAUSTED if reason == "no_money" else ErrorCode.INTERNAL_ERROR
    assert not re.search("picture|image|photo", sentence(code))
    for tryon in backlog:
        if tryon in failed:
            tryons.assert_failed(tryon, code, sentence(code))
        else:
            tryons.assert_completed(tryon, calls=None)
        # No status ever steps back, not even of a job that was postponed.
        assert tryons.statuses(tryon) == ["processing", tryons.row(tryon)["status"]]
    alarms = [e for g in generators for e in g.events(event="provider_refuses_every_job", level="error")]
    assert {alarm["request_id"] for alarm in alarms} >= {tryon.job.request_id for tryon in failed}
    assert all(alarm["reason"] == reason for alarm in alarms if alarm["request_id"] in ids(failed))
    for generator in generators:
        wait_until(lambda g=generator: g.ready() and not pauses(g), timeout=10, what="pause over")  # type: ignore[misc]


def ids(tryons: list[Any]) -> set[str]:
    return {tryon.job.request_id for tryon in tryons}


@pytest.mark.parametrize("fate", ["settled elsewhere", "image refused", "given back"])
def test_probe_that_never_asks_makes_way_for_another(
    stack: Stack, generators: list[Service], tryons: TryOns, fate: str
) -> None:
    stack.openai.set_mode("insufficient_quota", times=TRIPS_AFTER)
    tryons.wait_settled(*(tryons.order() for _ in range(TRIPS_AFTER)))
    urls = ["http://127.0.0.1/x.jpg"] if fate == "image refused" else None
    first = tryons.order(urls=urls)
    wait_until(lambda: tryons.entry(first), timeout=10, what="the first is held")
    second = tryons.order()
    wait_until(lambda: tryons.entry(second), timeout=10, what="the second is held")
    if fate == "settled elsewhere":
        stack.app.rows("select app_recover_stuck_session(%s, %s)", first.job.session_id, first.job.owner_id)
    if fate == "given back":
        # Taken over by somebody else: the lease is lost, and the job leaves the line.
        stack.app.rows(
            "update generation_ledger set holder = 'somebody' where session_id = %s returning 1",
            first.job.session_id,
        )
    end_pause(stack)
    tryons.wait_settled(second, timeout=30)
    tryons.assert_completed(second)


def test_all_wait_for_the_one_job_that_probes(
    stack: Stack, generators: list[Service], tryons: TryOns
) -> None:
    stack.openai.set_mode("insufficient_quota")
    backlog = [tryons.make() for _ in range(12)]
    tryons.push(*backlog)
    for generator in generators:
        wait_until(lambda g=generator: shows_pause(g, "no_money"), timeout=20, what="pause shown")  # type: ignore[misc]
    wait_until(lambda: 0 < pause_left(stack) < PAUSE_SECONDS - 4, timeout=10, what="four seconds of pause")
    asked = len(stack.openai.calls())
    wait_until(lambda: pause_left(stack) < PAUSE_SECONDS - 6, timeout=10, what="six seconds of pause")
    assert len(stack.openai.calls()) == asked

    stack.openai.clear_modes()
    stack.openai.set_latency(1.5)
    end_pause(stack)
    rows = tryons.wait_settled(*backlog, timeout=60)
    assert sum(row["status"] == "completed" for row in rows) >= len(backlog) - TRIPS_AFTER
    probe, *others = sorted(stack.openai.calls(), key=lambda call: call["started_at"])[asked:]
    assert min(call["started_at"] for call in others) >= probe["finished_at"]


def test_one_shoppers_refused_request_stops_nobody(
    stack: Stack, generators: list[Service], tryons: TryOns
) -> None:
    stack.openai.inject("status", path=EDITS, times=TRIPS_AFTER + 1, **error(413))
    refused = [tryons.order() for _ in range(TRIPS_AFTER + 1)]
    tryons.wait_settled(*refused)
    for tryon in refused:
        tryons.assert_failed(tryon, ErrorCode.INTERNAL_ERROR, sentence(ErrorCode.INTERNAL_ERROR))
    assert not any(pauses(generator) for generator in generators)
    last = tryons.order()
    tryons.wait_settled(last, timeout=20)
    tryons.assert_completed(last)
