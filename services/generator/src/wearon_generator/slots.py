"""The global limit of provider calls: evenly paced slots, shared fairly by all replicas through Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wearon_generator.timing import Clock
from wearon_service_kit.background import Background, end

log = structlog.get_logger()

SLOT_KEY: Final = "wearon:generator:next_slot"
_RETRY_SECONDS: Final = 1.0  # between two tries while Redis is unavailable

_MOST_AHEAD: Final = 64
"""Slots that may be reserved ahead, one by each replica. What lies further off was left by another clock."""

# GCRA without burst: the key holds the time (µs, Redis's clock) of the next free slot.
# KEYS[1] the key, ARGV[1] µs between slots, ARGV[2] slots ahead at most; returns µs to wait for the slot that
# is now taken. Redis's clock may step back, and nobody would get a slot until it has come so far again.
_RESERVE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local free = tonumber(redis.call('GET', KEYS[1]) or '0')
if free < now or free > now + ARGV[1] * ARGV[2] then free = now end
local next = free + ARGV[1]
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000) + 1000)
return free - now
"""


class Priority(Enum):
    """Who gets the next slot first, in this order."""

    RETRY_CALL = "a further call of a claimed job, whose deadline runs"
    RETURNED_JOB = "a job that has waited in the queue before"
    NEW_JOB = "a job that waits for the first time"


_JOBS: Final = (Priority.RETURNED_JOB, Priority.NEW_JOB)


class SlotSource(Protocol):
    """Where slots come from."""

    async def reserve(self) -> float:
        """Take the next free slot; returns the seconds until it comes."""


class RedisSlots:
    """Slots that all replicas take from one counter."""

    def __init__(self, redis: Redis, per_minute: int) -> None:
        self._redis = redis
        self._interval_us = round(60_000_000 / per_minute)
        self._script = redis.register_script(_RESERVE)

    async def reserve(self) -> float:
        """Take the next free slot; returns the seconds until it comes."""
        wait_us: int = await self._script(keys=[SLOT_KEY], args=[self._interval_us, _MOST_AHEAD])
        return wait_us / 1_000_000


@dataclass(frozen=True, slots=True)
class _Place:
    holder: str
    slot: asyncio.Future[None]


class SlotLine:
    """The jobs of this process that wait for a slot.

    One slot at a time is reserved and given to the head of the line when it comes, in the order of
    `Priority`. So nothing piles up in the future, replicas take turns, and a killed replica wastes one slot.

    The admission holds back jobs, never the further call of a claimed one.
    """

    def __init__(
        self,
        source: SlotSource,
        clock: Clock,
        *,
        admission: Callable[[], Coroutine[Any, Any, None]],
        unused: Callable[[], Awaitable[None]],
        given: Callable[[str], None] = lambda holder: None,
    ) -> None:
        """`admission` is awaited for each job that starts; while it does not return, none does.

        Each time it was passed, either `given` is called with the holder who starts, or `unused` is awaited
        if nobody was left who would.
        """
        self._source = source
        self._clock = clock
        self._admit = admission
        self._unused = unused
        self._given = given
        self._lines: dict[Priority, deque[_Place]] = {priority: deque() for priority in Priority}
        self._admission: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._comes_at: float | None = None
        self._passed_on = asyncio.Event()
        self._background = Background("slot-line")

    def start(self) -> None:
        """Begin to hand out slots."""
        self._background.start(self._serve())

    async def stop(self) -> None:
        """Hand out no more slots."""
        await self._background.stop()
        if self._admission is not None:
            await end(self._admission)

    async def take(self, priority: Priority, holder: str = "") -> None:
        """Wait for a slot, for the job that `holder` holds."""
        place = _Place(holder, asyncio.get_running_loop().create_future())
        self._lines[priority].append(place)
        self._arrived.set()
        try:
            await place.slot
        except asyncio.CancelledError:
            place.slot.cancel()
            raise

    def pass_on(self) -> None:
        """Give a slot that just came to whoever is next, since the job that took it makes no call after all.

        Lost if nobody may take it now: it is for a call made at once.
        """
        may_start = self._admission is not None and self._admission.done()
        if self._first(Priority.RETRY_CALL) is not None or (may_start and self._first(*_JOBS) is not None):
            self._passed_on.set()

    def _first(self, *priorities: Priority) -> _Place | None:
        for priority in priorities:
            line = self._lines[priority]
            while line and line[0].slot.done():
                line.popleft()
            if line:
                return line[0]
        return None

    async def _serve(self) -> None:
        while True:
            try:
                await self._serve_one()
            except Exception:
                # Without this task no job of the process would ever start.
                log.exception("slot_line_crashed")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _serve_one(self) -> None:
        await self._somebody_may_go()
        if self._first(*Priority) is not None:
            await self._wait_for_slot()
        claimed = self._first(Priority.RETRY_CALL)
        if claimed is not None:
            # An admission that is there already stays for the next one.
            claimed.slot.set_result(None)
            return
        if self._admission is None or not self._admission.done():
            return
        admission, self._admission = self._admission, None
        admission.result()
        head = self._first(*_JOBS)
        if head is None:
            await self._unused()
        else:
            self._given(head.holder)
            head.slot.set_result(None)

    async def _somebody_may_go(self) -> None:
        """Wait until a claimed job needs a further call, or a job is admitted."""
        while True:
            self._arrived.clear()
            if self._first(Priority.RETRY_CALL) is not None:
                return
            if self._admission is None and self._first(*_JOBS) is not None:
                # A task, so that further calls need not wait for it, and its answer is not lost.
                self._admission = asyncio.create_task(self._admit(), name="slot-admission")
            if self._admission is not None and self._admission.done():
                return
            arrival = asyncio.create_task(self._arrived.wait())
            try:
                waits: set[asyncio.Task[Any]] = {arrival}
                if self._admission is not None:
                    waits.add(self._admission)
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                arrival.cancel()

    async def _wait_for_slot(self) -> None:
        """Return when the slot that is reserved comes, or before with one that was passed on."""
        if self._comes_at is None or self._comes_at < self._clock():
            self._comes_at = await self._reserve()
        try:
            async with asyncio.timeout(max(0.0, self._comes_at - self._clock())):
                await self._passed_on.wait()
            self._passed_on.clear()
        except TimeoutError:
            self._comes_at = None

    async def _reserve(self) -> float:
        """When the next free slot comes, by our clock."""
        while True:
            asked_at = self._clock()
            try:
                return asked_at + await self._source.reserve()
            except RedisError as error:
                log.warning("slots_unavailable", reason=type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
