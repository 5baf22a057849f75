from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from wearon_generator.breaker import PAUSE_KEY, TRIPS_AFTER, QuotaBreaker
from wearon_generator.metrics import Metrics
from wearon_service_kit.redis_clients import connect_async


@asynccontextmanager
async def _replicas(url: str) -> AsyncIterator[tuple[Redis, QuotaBreaker, QuotaBreaker]]:
    redis = connect_async(url, name="test")
    one, other = (QuotaBreaker(redis, name, Metrics(CollectorRegistry())) for name in ("one", "other"))
    try:
        yield redis, one, other
    finally:
        await redis.aclose()


async def _pause_and_let_it_pass(redis: Redis, breaker: QuotaBreaker) -> None:
    """Afterwards one job may probe."""
    for _ in range(TRIPS_AFTER):
        await breaker.exhausted()
    await redis.delete(PAUSE_KEY)


async def _admitted(breaker: QuotaBreaker) -> bool:
    """Whether a job may start now rather than after the next look at Redis."""
    waiting = asyncio.create_task(breaker.wait_until_closed())
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    waiting.cancel()
    return bool(done)


def test_it_opens_for_all_replicas_after_failures_in_a_row(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (_, one, other):
            for _ in range(TRIPS_AFTER - 1):
                await one.exhausted()
            assert await _admitted(other)
            await other.exhausted()
            assert not await _admitted(one)
            assert not await _admitted(other)
            assert one.open and other.open

    asyncio.run(run())


def test_an_answer_in_between_starts_the_count_again(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (_, one, other):
            await one.exhausted()
            await one.exhausted()
            await other.answered()
            await one.exhausted()
            assert await _admitted(one)

    asyncio.run(run())


def test_after_the_pause_one_job_probes_alone(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, other):
            await _pause_and_let_it_pass(redis, one)
            assert await _admitted(one)
            assert not await _admitted(other)
            assert not await _admitted(one)
            await one.answered()
            assert await _admitted(other)
            assert not other.open

    asyncio.run(run())


def test_a_probe_that_fails_pauses_again(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, other):
            await _pause_and_let_it_pass(redis, one)
            assert await _admitted(other)
            await other.exhausted()
            assert not await _admitted(one)
            assert await redis.ttl(PAUSE_KEY) > 50

    asyncio.run(run())


def test_a_probe_without_an_answer_lets_another_one_be_made(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, other):
            await _pause_and_let_it_pass(redis, one)
            assert await _admitted(one)
            await other.inconclusive()  # not the one who probes
            assert not await _admitted(other)
            await one.inconclusive()
            assert await _admitted(other)

    asyncio.run(run())


def test_only_the_end_of_the_job_that_probes_lets_another_probe(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, other):
            await _pause_and_let_it_pass(redis, one)
            assert await _admitted(one)
            one.given_to("prober")
            await one.inconclusive("bystander")
            await one.inconclusive()
            assert not await _admitted(other)
            await one.inconclusive("prober")
            assert await _admitted(other)

    asyncio.run(run())
