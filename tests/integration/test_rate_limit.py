"""GENERATIONS_PER_MINUTE over all replicas, waiting for it, and the provider's own limit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from tests.integration.tryons import TryOn, TryOns, start_generators

from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # starts three generators and fills a minute


@pytest.fixture(scope="module")
def consumer(stack: Stack) -> Service:
    return stack.start_service("consumer")


@pytest.fixture
def tryons(stack: Stack, consumer: Service) -> TryOns:
    for service in stack.services:
        if service is not consumer:
            service.terminate()
    stack.reset()
    return TryOns(stack)


def call_times(stack: Stack) -> list[float]:
    return sorted(call["started_at"] for call in stack.openai.calls())


def most_within(seconds: float, times: list[float]) -> int:
    """The largest number of calls in any window of so many seconds."""
    return max(sum(start <= moment < start + seconds for moment in times) for start in times)


def order_and_measure(
    tryons: TryOns, generators: list[Service], jobs: int, figure: Callable[[str], None]
) -> None:
    """At 60 a minute: never more than n + 2 calls in any n seconds, a gap below 2.5 s, and all take part."""
    ordered = [tryons.make() for _ in range(jobs)]
    tryons.push(*ordered)
    tryons.wait_settled(*ordered, timeout=jobs + 60)
    times = call_times(tryons.stack)
    assert len(times) == jobs
    for seconds in (5, 10, 20, 30, 60):
        assert most_within(seconds, times) <= seconds + 2, f"in {seconds} s"
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    shares = {generator.name: len(generator.events(event="provider_called")) for generator in generators}
    figure(
        f"60 a minute over {len(generators)} replicas, {jobs} jobs: at most {most_within(60, times)} calls "
        f"in 60 s and {most_within(10, times)} in 10 s, longest gap {max(gaps):.2f} s, "
        f"calls by replica {sorted(shares.values())}"
    )
    assert max(gaps) < 2.5
    assert min(shares.values()) >= 1, "a replica took no part"


def test_rate_limit_holds_over_three_replicas(
    stack: Stack, tryons: TryOns, figure: Callable[[str], None]
) -> None:
    generators = start_generators(stack, 3, {"GENERATIONS_PER_MINUTE": "60"})
    order_and_measure(tryons, generators, 20, figure)


@pytest.mark.full
def test_rate_limit_holds_over_three_replicas_for_90_jobs(
    stack: Stack, tryons: TryOns, figure: Callable[[str], None]
) -> None:
    generators = start_generators(stack, 3, {"GENERATIONS_PER_MINUTE": "60"})
    order_and_measure(tryons, generators, 90, figure)


def test_rate_limit_fails_nobody_for_having_waited(stack: Stack, tryons: TryOns) -> None:
    """Waits that would outlast the broker's are given back, and what waits anywhere is not taken for lost."""
    generators = start_generators(
        stack,
        2,
        {"GENERATIONS_PER_MINUTE": "300", "GENERATOR_CONCURRENCY": "16", "STUCK_AFTER_SECONDS": "2"},
        timing={"longest_wait": 2, "sweep_interval": 1, "election": 3},
    )
    ordered = [tryons.make() for _ in range(50)]
    tryons.push(*ordered)
    tryons.wait_settled(*ordered, timeout=90)
    assert {generator.name for generator in generators for _ in given_back(generator)} == {
        generator.name for generator in generators
    }
    assert_all_made_once(tryons, ordered)


def given_back(generator: Service) -> list[dict[str, object]]:
    return generator.events(event="job_given_back", reason="too_long")


def assert_all_made_once(tryons: TryOns, ordered: list[TryOn]) -> None:
    statuses = Counter(tryons.app.statuses([tryon.job for tryon in ordered]).values())
    assert statuses == {"completed": len(ordered)}
    calls = Counter(call["prompt"] for call in tryons.stack.openai.calls())
    assert calls == {tryon.job.task["prompt"]: 1 for tryon in ordered}
    ledger = (
        "select attempt, count(*) as sessions from generation_ledger where session_id = any(%s) group by 1"
    )
    claims = tryons.app.rows(ledger, [tryon.job.session_id for tryon in ordered])
    assert claims == [{"attempt": 1, "sessions": len(ordered)}]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_rate_limit_fails_nobody_of_2000_for_having_waited(
    stack: Stack, tryons: TryOns, figure: Callable[[str], None]
) -> None:
    """They exceed the limit for almost seven minutes, the longest-waiting one included."""
    generators = start_generators(stack, 3, {"STUCK_AFTER_SECONDS": "20"})
    ordered = [tryons.make() for _ in range(2000)]
    tryons.push(*ordered)
    tryons.wait_settled(*ordered, timeout=700)
    assert_all_made_once(tryons, ordered)
    times = call_times(stack)
    figure(
        f"2,000 jobs at 300 a minute: {(times[-1] - times[0]) / 60:.1f} minutes, all completed, "
        f"at most {most_within(60, times)} calls in 60 s"
    )
    # A call comes as long after its slot as the claim takes: in a minute there may be those of a second more.
    assert most_within(60, times) <= 300 * 61 / 60 + 1
    assert all(generator.running for generator in generators)


def test_rate_limit_of_the_provider_puts_the_session_back_until_it_is_due(
    stack: Stack, tryons: TryOns
) -> None:
    start_generators(stack, 1)
    tryon = tryons.order(prompt="[[standin:rate_limit_once=4]]")
    wait_until(lambda: (tryons.entry(tryon) or {}).get("state") == "retrying", timeout=15, what="put off")
    assert tryons.row(tryon)["status"] == "queued"
    told = tryons.outcome(tryon)
    assert (told.status, told.outcome, told.rate_limit_retries) == ("queued", None, 1)
    assert told.retry_at is not None
    assert told.retry_at > datetime.now(UTC)
    tryons.assert_taken(tryon)
    tryons.wait_settled(tryon)
    tryons.assert_completed(tryon, calls=2)
    first, second = call_times(stack)
    assert 4 <= second - first < 9, "Retry-After was not kept"
