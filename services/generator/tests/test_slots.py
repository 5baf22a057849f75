from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from services.generator.tests import virtual_time

from wearon_generator.slots import SLOT_KEY, Priority, RedisSlots, SlotLine
from wearon_local.redis_server import RedisServer
from wearon_service_kit.redis_clients import connect_async


async def _open() -> None:
    return


class Paced:
    """Slots that come when the test says so."""

    def __init__(self) -> None:
        self.slots: asyncio.Queue[None] = asyncio.Queue()
        self.reserved = 0

    async def reserve(self) -> float:
        self.reserved += 1
        await self.slots.get()
        return 0.0


async def _in_line(source: Paced, admission: Callable[[], Coroutine[Any, Any, None]] = _open) -> SlotLine:
    line = SlotLine(source, time.monotonic, admission=admission, unused=_open)
    line.start()
    return line


def test_slots_are_evenly_spaced_over_all_replicas(redis_url: str) -> None:
    async def run() -> list[float]:
        clients = [connect_async(redis_url, name="test") for _ in range(3)]
        lines = [
            SlotLine(RedisSlots(client, per_minute=1200), time.monotonic, admission=_open, unused=_open)
            for client in clients
        ]
        came: list[float] = []

        async def one(line: SlotLine) -> None:
            await line.take(Priority.NEW_JOB)
            came.append(time.monotonic())

        for line in lines:
            line.start()
        await asyncio.gather(*(one(line) for line in lines for _ in range(10)))
        for line, client in zip(lines, clients, strict=True):
            await line.stop()
            await client.aclose()
        return sorted(came)

    came = asyncio.run(run())
    # 30 slots of 50 ms: the last comes 1.45 s after the first, never sooner.
    assert 1.44 <= came[-1] - came[0] < 2.5


def test_replicas_share_the_slots_fairly(redis_url: str) -> None:
    async def run() -> list[int]:
        clients = [connect_async(redis_url, name="test") for _ in range(2)]
        lines = [
            SlotLine(RedisSlots(client, per_minute=1200), time.monotonic, admission=_open, unused=_open)
            for client in clients
        ]
        order: list[int] = []

        async def one(number: int) -> None:
            await lines[number].take(Priority.NEW_JOB)
            order.append(number)

        for line in lines:
            line.start()
        # One replica has many more jobs in line than the other.
        await asyncio.gather(*(one(0) for _ in range(30)), *(one(1) for _ in range(10)))
        for line, client in zip(lines, clients, strict=True):
            await line.stop()
            await client.aclose()
        return order

    order = asyncio.run(run())
    assert 8 <= order[:20].count(1) <= 12


def test_slots_go_to_further_calls_then_returned_jobs_then_new_ones() -> None:
    async def run() -> list[str]:
        source = Paced()
        line = await _in_line(source)
        order: list[str] = []

        async def one(name: str, priority: Priority) -> None:
            await line.take(priority)
            order.append(name)

        takers = [
            asyncio.create_task(one(name, priority))
            for name, priority in (
                ("new 1", Priority.NEW_JOB),
                ("new 2", Priority.NEW_JOB),
                ("returned", Priority.RETURNED_JOB),
                ("call", Priority.RETRY_CALL),
            )
        ]
        for _ in takers:
            source.slots.put_nowait(None)
        await asyncio.gather(*takers)
        await line.stop()
        return order

    assert virtual_time.run(run()) == ["call", "returned", "new 1", "new 2"]


def test_a_process_reserves_one_slot_at_a_time() -> None:
    async def run() -> int:
        source = Paced()
        line = await _in_line(source)
        takers = [asyncio.create_task(line.take(Priority.NEW_JOB)) for _ in range(20)]
        source.slots.put_nowait(None)
        await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(20):
            await asyncio.sleep(0)
        reserved = source.reserved
        for taker in takers:
            taker.cancel()
        await line.stop()
        return reserved

    assert virtual_time.run(run()) == 2  # the one that was given, and the next


def test_cancelled_job_does_not_get_a_slot() -> None:
    async def run() -> str:
        source = Paced()
        line = await _in_line(source)
        gone = asyncio.create_task(line.take(Priority.NEW_JOB))
        stays = asyncio.create_task(line.take(Priority.NEW_JOB))
        await asyncio.sleep(0)
        gone.cancel()
        source.slots.put_nowait(None)
        await stays
        await line.stop()
        return "stays" if gone.cancelled() else "gone"

    assert virtual_time.run(run()) == "stays"


def test_no_slot_is_reserved_while_no_job_is_admitted() -> None:
    async def run() -> tuple[int, int]:
        source, opened = Paced(), asyncio.Event()

        async def wait() -> None:
            await opened.wait()

        line = await _in_line(source, wait)
        taker = asyncio.create_task(line.take(Priority.NEW_JOB))
        for _ in range(20):
            await asyncio.sleep(0)
        shut = source.reserved
        opened.set()
        source.slots.put_nowait(None)
        await taker
        await line.stop()
        return shut, source.reserved

    shut, opened = virtual_time.run(run())
    assert (shut, opened >= 1) == (0, True)


def test_slots_come_again_once_redis_is_back(redis_server: RedisServer, redis_url: str) -> None:
    async def run() -> None:
        client = connect_async(redis_url, name="test")
        line = SlotLine(RedisSlots(client, per_minute=6000), time.monotonic, admission=_open, unused=_open)
        line.start()
        await line.take(Priority.NEW_JOB)
        await asyncio.to_thread(redis_server.kill)
        taker = asyncio.create_task(line.take(Priority.NEW_JOB))
        await asyncio.to_thread(redis_server.start)
        async with asyncio.timeout(10):
            await taker
        await line.stop()
        await client.aclose()

    asyncio.run(run())


def test_further_calls_pass_jobs_that_are_not_admitted() -> None:
    async def run() -> None:
        source, opened = Paced(), asyncio.Event()

        async def wait() -> None:
            await opened.wait()

        line = await _in_line(source, wait)
        jobs = [
            asyncio.create_task(line.take(priority)) for priority in (Priority.RETURNED_JOB, Priority.NEW_JOB)
        ]
        await asyncio.sleep(0.01)
        for _ in range(5):
            source.slots.put_nowait(None)
        async with asyncio.timeout(2):
            await line.take(Priority.RETRY_CALL)
            await line.take(Priority.RETRY_CALL)
        await asyncio.sleep(0.01)
        assert [job.done() for job in jobs] == [False, False]
        opened.set()
        async with asyncio.timeout(2):
            await asyncio.gather(*jobs)
        await line.stop()

    virtual_time.run(run())


def test_slot_of_a_cancelled_call_does_not_go_to_a_job_that_is_not_admitted() -> None:
    async def run() -> None:
        source = Paced()
        line = await _in_line(source, lambda: asyncio.sleep(3600))
        job, claimed = (
            asyncio.create_task(line.take(Priority.NEW_JOB)),
            asyncio.create_task(line.take(Priority.RETRY_CALL)),
        )
        await asyncio.sleep(0.01)
        claimed.cancel()
        source.slots.put_nowait(None)
        await asyncio.sleep(0.05)
        assert not job.done()
        job.cancel()
        await line.stop()

    virtual_time.run(run())


def test_slot_without_waiting_job_is_reported_unused() -> None:
    async def run() -> None:
        told: list[str] = []

        async def unused() -> None:
            told.append("unused")

        source, opened = Paced(), asyncio.Event()

        async def wait() -> None:
            await opened.wait()

        line = SlotLine(source, time.monotonic, admission=wait, unused=unused, given=told.append)
        line.start()
        gone = asyncio.create_task(line.take(Priority.NEW_JOB, "gone"))
        await asyncio.sleep(0.01)
        gone.cancel()
        opened.set()
        await asyncio.sleep(0.01)
        assert told == ["unused"]
        source.slots.put_nowait(None)
        await line.take(Priority.RETURNED_JOB, "somebody")
        assert told == ["unused", "somebody"]
        await line.stop()

    virtual_time.run(run())


def test_slot_far_in_the_future_is_taken_for_one_of_another_clock(redis_url: str) -> None:
    """Redis's clock stepped back by an hour: nobody would get a slot for an hour."""

    async def run() -> None:
        client = connect_async(redis_url, name="test")
        line = SlotLine(RedisSlots(client, per_minute=600), time.monotonic, admission=_open, unused=_open)
        await client.set(SLOT_KEY, round((time.time() + 3600) * 1_000_000))
        line.start()
        async with asyncio.timeout(5):
            await line.take(Priority.NEW_JOB)
            await line.take(Priority.NEW_JOB)
        await line.stop()
        await client.aclose()

    asyncio.run(run())


def test_slots_that_replicas_reserved_in_turn_are_kept(redis_url: str) -> None:
    async def run() -> list[float]:
        client = connect_async(redis_url, name="test")
        slots = RedisSlots(client, per_minute=600)
        waits = [await slots.reserve() for _ in range(60)]
        await client.aclose()
        return waits

    assert asyncio.run(run())[-1] > 4
