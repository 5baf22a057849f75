from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

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


def test_work_that_an_error_ends_is_logged_while_the_process_runs() -> None:
    async def fail() -> None:
        raise ValueError("an odd value")

    async def go_on() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        failing, stopped = Background("failing"), Background("stopped")
        failing.start(fail())
        stopped.start(go_on())
        await asyncio.sleep(0)
        await stopped.stop()
        await failing.stop()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    (line,) = lines
    assert (line["event"], line["task"]) == ("background_task_ended", "failing")
    assert str(line["exc_info"]) == "an odd value"
