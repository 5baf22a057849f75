"""What a generator tells Redis again and again goes on after something unforeseen."""

from __future__ import annotations

import asyncio
from typing import Any

from wearon_generator.activity import Activity
from wearon_generator.lanes import Lanes
from wearon_generator.presence import Presence
from wearon_service_kit.redis_clients import connect_async


class _FailsAt:
    """Fails at call `number`, and notes that there was a later one."""

    def __init__(self, number: int) -> None:
        self.later = asyncio.Event()
        self._number = number
        self._calls = 0

    def __call__(self) -> None:
        self._calls += 1
        if self._calls == self._number:
            raise ValueError("arranged")
        if self._calls > self._number:
            self.later.set()


def test_heartbeats_go_on_after_one_that_cannot_be_composed(redis_url: str) -> None:
    async def run() -> None:
        fails, activity = _FailsAt(2), Activity()

        def describe() -> dict[str, Any]:
            fails()
            return {}

        async with connect_async(redis_url, name="test") as redis:
            presence = Presence(redis, "one", activity, describe, asyncio.get_running_loop().time)
            with activity.job():
                await presence.start()
                async with asyncio.timeout(20):
                    await fails.later.wait()
                await presence.stop()

    asyncio.run(run())


def test_announcements_to_lanes_go_on_after_one_that_cannot_be_composed(redis_url: str) -> None:
    async def run() -> None:
        fails, activity = _FailsAt(1), Activity()

        def preparing_seconds() -> float:
            fails()
            return 0.1

        async with connect_async(redis_url, name="test") as redis:
            lanes = Lanes(redis, 300, activity, preparing_seconds)
            with activity.job():
                lanes.start()
                async with asyncio.timeout(20):
                    await fails.later.wait()
                await lanes.stop()

    asyncio.run(run())
