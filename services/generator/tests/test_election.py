from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from redis.asyncio import Redis

from wearon_contracts.queues import SWEEPER_KEY
from wearon_generator.election import Election
from wearon_service_kit.redis_clients import connect_async

SECONDS = 30.0


class _Time:
    """A clock that tests set forward."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _run(
    redis_url: str,
    story: Callable[[Redis, Election, Election], Awaitable[None]],
    clock: Callable[[], float] = monotonic,
) -> None:
    async def run() -> None:
        client = connect_async(redis_url, name="test")
        one, other = (Election(client, name, SECONDS, clock) for name in ("one", "other"))
        try:
            await story(client, one, other)
        finally:
            await client.aclose()

    asyncio.run(run())


def test_one_replica_is_elected_and_stays_so(redis_url: str) -> None:
    time = _Time()

    async def story(redis: Redis, one: Election, other: Election) -> None:
        assert [await one.won(), await other.won()] == [True, False]
        await redis.pexpire(SWEEPER_KEY, 1000)
        assert await one.won()
        assert await redis.pttl(SWEEPER_KEY) <= 1000, "Redis is not asked before half of the time is over"
        time.now += SECONDS / 2
        assert await one.won()
        assert await redis.pttl(SWEEPER_KEY) > (SECONDS - 1) * 1000
        assert not await other.won()

    _run(redis_url, story, time)


def test_a_killed_sweeper_is_replaced_when_its_time_is_over(redis_url: str) -> None:
    time = _Time()

    async def story(redis: Redis, one: Election, other: Election) -> None:
        assert await one.won()
        await redis.delete(SWEEPER_KEY)  # as its expiry does
        assert await other.won()
        # The killed one was only slow: it learns that it is the sweeper no more, and takes nothing away.
        time.now += SECONDS
        assert not await one.won()
        await one.resign()
        assert await other.won()

    _run(redis_url, story, time)


def test_a_sweeper_that_resigns_is_replaced_at_once(redis_url: str) -> None:
    async def story(_: Redis, one: Election, other: Election) -> None:
        assert await one.won()
        await other.resign()
        assert not await other.won()
        await one.resign()
        assert await other.won()

    _run(redis_url, story)
