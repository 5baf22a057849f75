"""Celery pops a message before it notes that down; no job is lost with a worker that dies in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

import pytest
from tests.integration.tryons import TryOn, TryOns, start_generators

from wearon_contracts.queues import CELERY_QUEUE, TASKS_HANDED, TASKS_KEPT
from wearon_local.processes import wait_until
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # kills generators and waits for their leases to run out

SETTINGS: Final = {"GENERATIONS_PER_MINUTE": "1200", "GENERATOR_CONCURRENCY": "32"}
TIMING: Final = {"sweep_interval": 1, "lease": 12, "renewal_interval": 3, "renewal_timeout": 2}
KILLS: Final = 6
JOBS: Final = 120


@pytest.fixture
def tryons(stack: Stack) -> Iterator[TryOns]:
    for service in stack.services:
        if service.running and service.name.startswith(("generator", "consumer")):
            service.terminate()
    stack.reset()
    yield TryOns(stack)


def test_message_popped_by_a_worker_that_died_is_put_back(stack: Stack, tryons: TryOns) -> None:
    stack.start_service("consumer")
    tryon = tryons.order()
    with stack.redis.client() as redis:
        wait_until(lambda: redis.llen(CELERY_QUEUE), timeout=20, what="the message")
        assert redis.rpop(CELERY_QUEUE)  # and then the worker is killed
    generator = start_generators(stack, 1, SETTINGS, timing=TIMING)[0]
    tryons.wait_settled(tryon, timeout=60)
    assert tryons.row(tryon)["status"] == "completed"
    assert generator.metrics()["wearon_generator_put_back_total"] == 1
    assert generator.metrics()["wearon_generator_reaped_total"] == 0
    with stack.redis.client() as redis:
        wait_until(lambda: not redis.exists(TASKS_HANDED, TASKS_KEPT), timeout=10, what="nothing kept")


def completed(tryons: TryOns) -> list[dict[str, Any]]:
    return tryons.app.rows("select id from generation_sessions where status = 'completed'")


@pytest.mark.parametrize("seed", [1, 2])
def test_no_job_is_lost_when_generators_are_killed(stack: Stack, tryons: TryOns, seed: int) -> None:
    chance = random.Random(seed)
    stack.start_service("consumer")
    running = start_generators(stack, 2, SETTINGS, timing=TIMING)
    pushed: list[TryOn] = []
    for _ in range(KILLS):
        pushed += [tryons.order() for _ in range(JOBS // KILLS)]
        wanted = len(pushed) - chance.randrange(5, 18)
        wait_until(
            lambda wanted=wanted: len(completed(tryons)) >= wanted,
            timeout=120,
            what=f"{wanted} completed",
            every=0.2,
        )
        running.pop(chance.randrange(2)).kill()
        running += start_generators(stack, 1, SETTINGS, timing=TIMING)
    tryons.wait_settled(*pushed, timeout=180)
    assert {tryons.row(tryon)["status"] for tryon in pushed} == {"completed"}
