from __future__ import annotations

import asyncio
from contextlib import suppress

from wearon_service_kit.background import Background


def test_work_that_swallows_cancellations_ends_all_the_same() -> None:
    async def work() -> None:
        for _ in range(3):  # as Python 3.11's wait_for does when it is cancelled while it finishes
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def run() -> None:
        background = Background("test")
        background.start(work())
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
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
