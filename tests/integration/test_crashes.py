"""Generators that are killed or stopped in the middle of jobs: the jobs run again, once, and elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from time import time

import pytest
from tests.integration.leaks import assert_no_secret_in_logs
from tests.integration.tryons import (
    Samples,
    TryOn,
    TryOns,
    events_of,
    keep_status_history,
    start_generators,
)

from wearon_contracts.queues import CELERY_RETRY_QUEUE
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # kills generators and waits for their leases to run out

RUNS_AGAIN_WITHIN = 60.0


@pytest.fixture(scope="module")
def consumer(stack: Stack) -> Service:
    return stack.start_service("consumer")


@pytest.fixture
def tryons(stack: Stack, consumer: Service) -> Iterator[TryOns]:
    for service in stack.services:
        if service is not consumer:
            service.terminate()
    stack.reset()
    yield TryOns(stack)
    stack.openai.set_latency(0)


@dataclass(frozen=True)
class Killing:
    """A generator was killed `at` this time; `taken`, `put_off` and `others` are all try-ons there are."""

    tryons: TryOns
    killed: Service
    living: list[Service]
    at: float
    taken: list[TryOn]
    put_off: list[TryOn]
    others: list[TryOn]


@pytest.fixture(scope="module", autouse=True)
def killing() -> Iterator[Killing]:
    """On a stack of its own, and before all other tests here, which pass while its leases run out."""
    with Stack() as stack:
        keep_status_history(stack)
        stack.start_service("consumer", wait=False)
        tryons = TryOns(stack)
        (killed,) = start_generators(stack, 1)
        # Taken from the broker, and not yet held.
        taken = [tryons.make() for _ in range(3)]
        for tryon in taken:
            stack.gateway.inject("hang", path="/rpc/generation_hold$", contains=tryon.id)
        tryons.push(*taken)
        wait_until(
            lambda: all(f["struck"] for f in stack.gateway.faults()), timeout=10, what="messages taken"
        )
        (other,) = start_generators(stack, 1)
        # Put off after a rate limit, working, and waiting.
        stack.openai.set_latency(30)
        put_off = [tryons.order(prompt="[[standin:rate_limit_once]]") for _ in range(3)]
        others = [tryons.order() for _ in range(60)]
        full_swing = lambda: jobs(killed, "working") >= 6 and jobs(killed, "waiting") >= 2  # noqa: E731
        wait_until(full_swing, timeout=20, what="in full swing")
        killed.kill()
        at = time()
        stack.openai.set_latency(0)
        # One that starts now must take nobody for lost: not those who wait, nor those somebody works on.
        stack.app.rows("update generation_sessions set created_at = now() - interval '1 day' returning 1")
        (newcomer,) = start_generators(stack, 1, {"STUCK_AFTER_SECONDS": "1"})
        yield Killing(tryons, killed, [other, newcomer], at, taken, put_off, others)
        stack.stop_services()
        assert_no_secret_in_logs(stack)


def jobs(generator: Service, state: str) -> float:
    """How many it has, `waiting` or `working`."""
    return Samples(generator.metrics()).total(f"jobs_{state}")


def times_of(tryon: TryOn, event: str, *generators: Service) -> list[float]:
    return [
        datetime.fromisoformat(line["timestamp"]).timestamp()
        for line in events_of(tryon, *generators)
        if line["event"] == event
    ]


def test_stored_result_of_a_killed_generator_is_not_paid_for_twice(stack: Stack, tryons: TryOns) -> None:
    (killed,) = start_generators(stack, 1)
    tryon = tryons.make()
    stack.gateway.inject(
        "status", status=503, path="/rpc/generation_complete$", contains=tryon.id, times=None
    )
    tryons.push(tryon)
    killed.process.wait_until(lambda: killed.events(event="result_stored"), what="result stored")
    killed.kill()
    stack.gateway.clear_faults()
    lease_runs_out(tryons, tryon)
    (other,) = start_generators(stack, 1)
    tryons.wait_settled(tryon)
    tryons.assert_completed(tryon, calls=1)
    assert tryons.outcome(tryon).attempts == 2
    assert [event["event"] for event in events_of(tryon, other)].count("result_found") == 1


def lease_runs_out(tryons: TryOns, tryon: TryOn) -> None:
    """What the passing of a lease does."""
    changed = tryons.app.rows(
        "update generation_ledger set lease_expires_at = now() where session_id = %s returning 1",
        tryon.job.session_id,
    )
    assert changed


def test_sigterm_gives_waiting_jobs_back_and_finishes_the_others(stack: Stack, tryons: TryOns) -> None:
    (stopped,) = start_generators(stack, 1, {"GENERATIONS_PER_MINUTE": "60"})
    put_off = tryons.order(prompt="[[standin:rate_limit_once=5]]")
    stopped.process.wait_until(lambda: stopped.events(event="session_requeued"), what="one is put off")
    stack.openai.set_latency(3)
    others = [tryons.order() for _ in range(6)]
    wait_until(
        lambda: jobs(stopped, "working") >= 1 <= jobs(stopped, "waiting"), timeout=15, what="in full swing"
    )
    stopped.process.signal(15)
    stopped.process.wait_until(lambda: jobs(stopped, "waiting") == 0, timeout=5, what="nobody waits")
    working = [tryon for tryon in others if tryons.row(tryon)["status"] != "queued"]
    waiting = [tryon for tryon in others if tryon not in working]
    assert working and waiting
    # The others still wait in their lanes.
    held = [entry for tryon in waiting if (entry := tryons.entry(tryon)) is not None]
    assert held
    with stack.redis.client() as client:
        wait_until(lambda: client.llen(CELERY_RETRY_QUEUE) >= len(held), timeout=3, what="given back")
    assert stopped.running, "they were given back at the end, not at once"
    assert {(entry["state"], entry["holder"]) for entry in held} == {("waiting", None)}
    assert stopped.process.wait(20) == 0
    assert not any("Traceback" in line for line in stopped.process.log().splitlines())
    for tryon in working:
        tryons.assert_completed(tryon)

    stack.openai.set_latency(0)
    start_generators(stack, 1)
    tryons.wait_settled(put_off, *waiting)
    for tryon in waiting:
        tryons.assert_completed(tryon)
        assert tryons.outcome(tryon).attempts == 1
    tryons.assert_completed(put_off, calls=2)


def test_sigterm_while_supabase_is_unavailable_leaves_the_job_to_the_ledger(
    stack: Stack, tryons: TryOns
) -> None:
    """It waits for a while, then leaves the job to the ledger."""
    (stopped,) = start_generators(stack, 1, timing={"stop_patience": 2})
    tryon = tryons.order(prompt="[[standin:slow=2]]")
    wait_until(lambda: tryons.calls(tryon), timeout=10, what="the call")
    stack.gateway.kill()
    assert stopped.terminate(timeout=20) == 0
    assert stopped.events(event="job_abandoned")
    stack.gateway.start()
    lease_runs_out(tryons, tryon)
    start_generators(stack, 1)
    tryons.wait_settled(tryon)
    tryons.assert_completed(tryon, calls=2)


def test_sigterm_while_redis_is_unavailable_loses_no_job(stack: Stack, tryons: TryOns) -> None:
    """What was in work is finished; what waited is found in the ledger."""
    (stopped,) = start_generators(stack, 1, {"GENERATIONS_PER_MINUTE": "60"})
    stack.openai.set_latency(3)
    ordered = [tryons.order() for _ in range(4)]
    wait_until(
        lambda: jobs(stopped, "working") >= 1 <= jobs(stopped, "waiting"), timeout=15, what="in full swing"
    )
    stack.redis.kill()
    try:
        assert stopped.terminate(timeout=40) == 0
    finally:
        stack.redis.start()
    stack.openai.set_latency(0)
    for tryon in ordered:
        entry = tryons.entry(tryon)
        if entry is not None and entry["state"] != "settled":
            lease_runs_out(tryons, tryon)
    start_generators(stack, 1)
    tryons.wait_settled(*ordered)
    for tryon in ordered:
        tryons.assert_completed(tryon)


def test_killed_generators_jobs_run_again_elsewhere(killing: Killing, figure: Callable[[str], None]) -> None:
    """Within a minute at default settings, whatever it was doing with them; and nobody else is disturbed."""
    everything = [*killing.taken, *killing.put_off, *killing.others]
    killing.tryons.wait_settled(*everything, timeout=90)
    seconds, working = [], 0
    for tryon in everything:
        killing.tryons.assert_completed(tryon, calls=None)
        attempts = killing.tryons.outcome(tryon).attempts
        begun_before = len(times_of(tryon, "session_processing", killing.killed))
        if tryon in killing.taken or times_of(tryon, "job_held", killing.killed):
            begun = times_of(tryon, "session_processing", *killing.living)
            again = [moment for moment in begun if moment > killing.at]
            assert (len(again), attempts) == (1, begun_before + 1), "it ran again more than once"
            seconds.append(again[0] - killing.at)
            working += begun_before
        else:
            assert attempts == (2 if tryon in killing.put_off else 1), "a live replica was disturbed"
    figure(
        f"kill -9 of a generator: its {len(seconds)} jobs ({working} working, {len(killing.taken)} not yet "
        f"held) ran again elsewhere after {statistics.median(seconds):.1f} s (median), {max(seconds):.1f} s "
        "(maximum)"
    )
    assert working >= 4
    assert max(seconds) < RUNS_AGAIN_WITHIN
