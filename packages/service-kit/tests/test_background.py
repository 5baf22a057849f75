from __future__ import annotations

import asyncio

from wearon_service_kit.background import Background


def test_work_that_swallows_a_cancellation_ends_all_the_same() -> None:
    async def work() -> None:
        while True:
            await asyncio.wait_for(asyncio.sleep(0), timeout=1)

    async def run() -> None:
        for ticks in range(12):  # at some of them Python 3.11 swallows the cancellation
            background = Background("test")
            background.start(work())
            for _ in range(ticks):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await background.stop()

    asyncio.run(run())


def test_one_that_was_never_started_or_has_ended_is_stopped_at_once() -> None:
    async def nothing() -> None:
        return

    async def run() -> None:
        await Background("test").stop()
        ended = Background("test")
        ended.start(nothing())
        await asyncio.sleep(0)
        await ended.stop()
        await ended.stop()

    asyncio.run(run())
