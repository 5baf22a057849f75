"""What the services ask of Redis while nothing is to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.bench.idle import LIMIT, count_calls
from tests.integration.tryons import TryOns, start_generators

from wearon_generator.presence import PAUSED_KEY
from wearon_local.processes import wait_until
from wearon_local.stack import Stack


@pytest.fixture
def tryons(stack: Stack) -> Iterator[TryOns]:
    stack.stop_services()
    stack.reset()
    yield TryOns(stack)


@pytest.mark.slow
def test_idle_consumer_and_generator_send_less_than_a_command_a_second(stack: Stack) -> None:
    stack.start_service("consumer")
    stack.start_service("generator")
    calls = count_calls(stack)
    assert sum(calls.values()) < LIMIT, calls.most_common()


def test_job_that_ends_an_idle_time_meets_a_pause_made_just_before(stack: Stack, tryons: TryOns) -> None:
    (generator,) = start_generators(stack, 1, {})
    stack.start_service("consumer")
    with stack.redis.client() as client:
        client.set(PAUSED_KEY, "test")
        tryon = tryons.make()
        tryons.push(tryon)
        wait_until(lambda: generator.events(event="job_held"), timeout=20, what="the hold")
        wait_until(lambda: generator.events(event="jobs_paused"), timeout=5, what="the pause noticed")
        assert tryons.row(tryon)["status"] == "queued"
        client.delete(PAUSED_KEY)
    tryons.wait_settled(tryon)
    tryons.assert_completed(tryon)
