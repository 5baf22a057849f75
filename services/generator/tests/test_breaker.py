from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from wearon_generator.activity import Activity
from wearon_generator.breaker import KEY_PREFIX, PAUSE_SECONDS, TRIPS_AFTER, ProviderBreaker
from wearon_generator.metrics import Metrics
from wearon_generator.refusals import Refusal
from wearon_service_kit.redis_clients import connect_async

NO_MONEY = Refusal.NO_MONEY


@asynccontextmanager
async def _replicas(url: str) -> AsyncIterator[tuple[Redis, ProviderBreaker, ProviderBreaker]]:
    redis = connect_async(url, name="test")
    one, other = (
        ProviderBreaker(redis, name, "scope", Metrics(CollectorRegistry()), Activity(), probe_seconds=330)
        for name in ("one", "other")
    )
    try:
        yield redis, one, other
    finally:
        await redis.aclose()


async def _pause_and_let_it_pass(redis: Redis, breaker: ProviderBreaker) -> None:
    """Afterwards one job may probe."""
    for _ in range(TRIPS_AFTER):
        await breaker.refused(NO_MONEY)
    await redis.delete(breaker.pause_key)


async def _until_reason(breaker: ProviderBreaker, reason: Refusal | None) -> None:
    async with asyncio.timeout(20):
        while breaker.reason != reason:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)


async def _admitted(breaker: ProviderBreaker) -> bool:
    """Whether a job may start now rather than after the next look at Redis."""
    waiting = asyncio.create_task(breaker.wait_until_closed())
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    waiting.cancel()
    return bool(done)


def test_breaker_opens_for_all_replicas_after_failures_in_a_row(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (_, one, other):
            for _ in range(TRIPS_AFTER - 1):
                await one.refused(NO_MONEY)
            assert await _admitted(other)
            await other.refused(NO_MONEY)
            assert not await _admitted(one)
            assert not await _admitted(other)
            assert one.reason == other.reason == NO_MONEY

    asyncio.run(run())


def test_an_answer_in_between_starts_the_count_again(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (_, one, other):
            await one.refused(NO_MONEY)
            await one.refused(NO_MONEY)
            await other.works(0)
            await one.refused(NO_MONEY)
            assert await _admitted(one)

    asyncio.run(run())


def test_after_the_pause_one_job_probes_alone(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, other):
            await _pause_and_let_it_pass(redis, one)
            assert await _admitted(one)
            assert not await _admitted(other)
            assert not await _admitted(one)
            await one.works(0)
            assert await _admitted(other)
            assert other.reason is None

    asyncio.run(run())


def test_a_probe_that_fails_pauses_again(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, other):
            await _pause_and_let_it_pass(redis, one)
            assert await _admitted(other)
            await other.refused(NO_MONEY)
            assert not await _admitted(one)
            assert await redis.ttl(one.pause_key) > PAUSE_SECONDS - 10

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


def test_only_the_first_refusals_in_a_row_cost_a_job(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, other):
            fails = [await replica.refused(NO_MONEY) for replica in (one, other) * TRIPS_AFTER]
            assert fails == [True] * TRIPS_AFTER + [False] * TRIPS_AFTER
            await redis.delete(one.pause_key)
            assert await _admitted(one)  # the probe
            assert not await one.refused(NO_MONEY)

    asyncio.run(run())


def test_call_that_began_before_the_last_refusal_does_not_close_the_breaker(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (_, one, other):
            await one.refused(NO_MONEY)
            await one.refused(NO_MONEY)
            await other.works(60)
            await one.refused(NO_MONEY)
            assert not await _admitted(other)

    asyncio.run(run())


def test_refusals_after_it_opened_do_not_prolong_the_pause(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, _):
            for _ in range(TRIPS_AFTER):
                await one.refused(NO_MONEY)
            await redis.expire(one.pause_key, 5)
            await one.refused(NO_MONEY)
            assert await redis.ttl(one.pause_key) <= 5

    asyncio.run(run())


def test_job_admitted_before_the_breaker_opened_is_stopped_but_not_the_probe(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, _):
            assert not one.stops("early")
            await _pause_and_let_it_pass(redis, one)
            assert one.stops("early")
            assert await _admitted(one)
            one.given_to("prober")
            one.reason = NO_MONEY  # as the watch over Redis shows it while the probe is under way
            assert one.stops("early")
            assert not one.stops("prober")

    asyncio.run(run())


def test_replica_with_another_model_does_not_wait_for_the_old_ones_breaker(redis_url: str) -> None:
    async def run() -> None:
        async with _replicas(redis_url) as (redis, one, _):
            for _ in range(TRIPS_AFTER):
                await one.refused(NO_MONEY)
            assert await _admitted(
                ProviderBreaker(
                    redis, "new", "other scope", Metrics(CollectorRegistry()), Activity(), probe_seconds=330
                )
            )

    asyncio.run(run())


def test_replica_sees_the_breaker_close_after_a_state_that_cannot_be_read(redis_url: str) -> None:
    async def run() -> None:
        activity = Activity()
        async with _replicas(redis_url) as (redis, other, _):
            watching = ProviderBreaker(
                redis, "watching", "scope", Metrics(CollectorRegistry()), activity, probe_seconds=330
            )
            with activity.job():
                watching.start()
                for _ in range(TRIPS_AFTER):
                    await other.refused(NO_MONEY)
                await _until_reason(watching, NO_MONEY)
                await redis.hset(f"{KEY_PREFIX}scope:state", "failures", "many")
                with structlog.testing.capture_logs() as lines:
                    async with asyncio.timeout(20):
                        while not lines:  # noqa: ASYNC110 - nothing tells of it
                            await asyncio.sleep(0.05)
                assert lines[0]["event"] == "provider_breaker_crashed"
                await redis.delete(f"{KEY_PREFIX}scope:state")
                await _until_reason(watching, None)
                await watching.stop()

    asyncio.run(run())
