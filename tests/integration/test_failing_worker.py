"""A worker that an error ends stops in order, and its process ends, so that it is started anew."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import pytest
from tests.integration.tryons import TryOns, start_generators

from wearon_generator.presence import PAUSED_KEY
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

ENV: Final = {"PYTHONPATH": str(Path(__file__).parents[2])}
SLOW: Final = "[[standin:slow=6]]"


@pytest.fixture
def failing(stack: Stack) -> Service:
    stack.stop_services()
    stack.reset()
    stack.start_service("consumer")
    return stack.start_service("generator", ENV, module="tests.integration.failing_generator")


def test_waiting_job_is_given_back_and_another_generator_takes_it(stack: Stack, failing: Service) -> None:
    tryons = TryOns(stack)
    with stack.redis.client() as redis:
        redis.set(PAUSED_KEY, "test")
        tryon = tryons.order()
        wait_until(lambda: failing.events(event="job_held"), timeout=20, what="the hold")
        wait_until(lambda: failing.events(event="jobs_paused"), timeout=20, what="the pause noticed")
        failing.process.signal(signal.SIGUSR1)
        assert failing.process.wait(timeout=20) == 1
        redis.delete(PAUSED_KEY)
    start_generators(stack, 1)
    tryons.wait_settled(tryon)
    tryons.assert_completed(tryon)


def test_job_in_work_is_finished_by_a_generator_that_is_not_ready(stack: Stack, failing: Service) -> None:
    tryons = TryOns(stack)
    tryon = tryons.order(prompt=SLOW)
    wait_until(lambda: failing.events(event="provider_called"), timeout=20, what="the call")
    failing.process.signal(signal.SIGUSR1)
    wait_until(lambda: not failing.readiness()["checks"]["worker"]["ok"], timeout=5, what="not ready")
    assert tryons.row(tryon)["status"] == "processing"
    assert failing.process.wait(timeout=30) == 1
    tryons.assert_completed(tryon)
    assert len(stack.openai.calls()) == 1
