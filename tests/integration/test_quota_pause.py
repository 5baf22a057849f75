"""An exhausted quota stops all replicas and burns no backlog; then one job finds out whether it is over."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.integration.tryons import PAYERS, Samples, TryOns

from wearon_contracts.errors import ErrorCode, sentence
from wearon_generator.breaker import PAUSE_KEY, PAUSE_SECONDS, TRIPS_AFTER
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

CODE = ErrorCode.QUOTA_EXHAUSTED
RATE = {"GENERATIONS_PER_MINUTE": "180"}
"""Slow enough for an answer to arrive before the next call."""


@pytest.fixture(scope="module")
def generator(stack: Stack) -> Service:
    stack.start_service("consumer")
    return stack.start_service("generator", RATE)


@pytest.fixture
def tryons(stack: Stack) -> Iterator[TryOns]:
    stack.reset()
    yield TryOns(stack)
    stack.openai.set_latency(0)


def shows_pause(generator: Service) -> bool:
    """Both where a probe and where an alarm would look."""
    try:
        check = generator.readiness()["checks"]["provider_quota"]
    except httpx.ConnectError:
        return False
    return not check["ok"] and Samples(generator.metrics()).total("quota_pause") == 1


def end_pause(stack: Stack) -> None:
    """What the passing of `PAUSE_SECONDS` does."""
    with stack.redis.client() as client:
        assert client.delete(PAUSE_KEY) == 1


def pause_left(stack: Stack) -> int:
    with stack.redis.client() as client:
        return int(client.ttl(PAUSE_KEY))


@pytest.mark.parametrize("fate", ["settled elsewhere", "image refused", "given back"])
def test_probe_that_never_asks_makes_way_for_another(
    stack: Stack, generator: Service, tryons: TryOns, fate: str
) -> None:
    stack.openai.set_mode("insufficient_quota", times=TRIPS_AFTER)
    tryons.wait_settled(*(tryons.order() for _ in range(TRIPS_AFTER)))
    # The only replica: it gives the probe to the first one.
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


def test_backlog_is_not_burnt_and_one_job_probes(stack: Stack, generator: Service, tryons: TryOns) -> None:
    latecomer = stack.start_service("generator", RATE, wait=False)
    stack.openai.set_mode("insufficient_quota")
    backlog = [tryons.make(payer) for payer in PAYERS * 4]
    tryons.push(*backlog)

    wait_until(lambda: shows_pause(generator), timeout=15, what="pause shown")
    # One that has perhaps nothing to do shows it, too.
    wait_until(lambda: shows_pause(latecomer), timeout=15, what="pause shown by the other replica")
    wait_until(lambda: 0 < pause_left(stack) < PAUSE_SECONDS - 2, timeout=10, what="two seconds of pause")
    burnt = len(stack.openai.calls())
    # Each replica may have had its next slot already.
    assert TRIPS_AFTER <= burnt <= TRIPS_AFTER + 2
    wait_until(lambda: pause_left(stack) < PAUSE_SECONDS - 4, timeout=10, what="four seconds of pause")
    assert len(stack.openai.calls()) == burnt
    failed = [tryon for tryon in backlog if tryons.row(tryon)["status"] == "failed"]
    assert len(failed) == burnt
    for tryon in failed:
        tryons.assert_failed(tryon, CODE, sentence(CODE))
    both = (generator, latecomer)
    assert {alarm["level"] for replica in both for alarm in replica.events(event="quota_pause")} == {"error"}
    said = [e for replica in both for e in replica.events(event="provider_refuses_every_job", level="error")]
    assert {event["request_id"] for event in said} >= {tryon.job.request_id for tryon in failed}

    # The probe fails: one more job is lost to it, and no other begins.
    end_pause(stack)
    wait_until(lambda: pause_left(stack) > 0, timeout=15, what="second pause")
    wait_until(lambda: pause_left(stack) < PAUSE_SECONDS - 2, timeout=10, what="two seconds of pause")
    assert len(stack.openai.calls()) == burnt + 1

    # The probe succeeds: only then do the others go on.
    stack.openai.clear_modes()
    stack.openai.set_latency(1.5)
    end_pause(stack)
    rows = tryons.wait_settled(*backlog, timeout=60)
    assert sum(row["status"] == "completed" for row in rows) == len(backlog) - burnt - 1
    _, probe, *others = sorted(stack.openai.calls(), key=lambda call: call["started_at"])[burnt:]
    assert min(call["started_at"] for call in others) >= probe["finished_at"]
    for replica in both:
        wait_until(lambda r=replica: not shows_pause(r) and r.ready(), timeout=10, what="pause over")  # type: ignore[misc]
