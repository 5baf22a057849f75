"""The global limit of provider calls: evenly paced slots, shared fairly by all replicas through Redis."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wearon_generator.background import Background

log = structlog.get_logger()

SLOT_KEY: Final = "wearon:generator:next_slot"
_RETRY_SECONDS: Final = 1.0

# GCRA without burst: the key holds the time (µs, Redis's clock) of the next free slot.
# KEYS[1] the key, ARGV[1] µs between slots; returns µs to wait for the slot that is now taken.
_RESERVE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local free = tonumber(redis.call('GET', KEYS[1]) or '0')
if free < now then free = now end
local next = free + ARGV[1]
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000) + 1000)
return free - now
"""


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
        wait_us: int = await self._script(keys=[SLOT_KEY], args=[self._interval_us])
        return wait_us / 1_000_000


class SlotLine:
    """The jobs of this process that wait for a slot.

    One slot at a time is reserved and given to the head of the line when it comes: first calls that are made
    again, then jobs that have waited before, then new ones. So nothing piles up in the future, replicas take
    turns, and a killed replica wastes one slot.
    """

    def __init__(
        self,
        source: SlotSource,
        *,
        gate: Callable[[], Awaitable[None]],
        unused: Callable[[], Awaitable[None]],
    ) -> None:
        """`gate` is awaited before each reservation; while it does not return, no job starts.

        `unused` is awaited when the gate was passed and then nobody was left who wanted the slot.
        """
        self._source = source
        self._gate = gate
        self._unused = unused
        self._lines: tuple[deque[asyncio.Future[None]], ...] = (deque(), deque(), deque())
        self._arrived = asyncio.Event()
        self._background = Background("slot-line")

    def start(self) -> None:
        """Begin to hand out slots."""
        self._background.start(self._serve())

    async def stop(self) -> None:
        """Hand out no more slots."""
        await self._background.stop()

    async def take(self, precedence: int) -> None:
        """Wait for a slot. `precedence`: 0 a call made again, 1 a job that has waited before, 2 a new job."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines[precedence].append(place)
        self._arrived.set()
        try:
            await place
        except asyncio.CancelledError:
            place.cancel()
            raise

    def _head(self) -> asyncio.Future[None] | None:
        for line in self._lines:
            while line and line[0].done():
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
        while self._head() is None:
            self._arrived.clear()
            await self._arrived.wait()
        await self._gate()
        await self._wait_for_slot()
        head = self._head()
        if head is None:
            await self._unused()
        else:
            head.set_result(None)

    async def _wait_for_slot(self) -> None:
        while True:
            asked_at = time.monotonic()
            try:
                wait = await self._source.reserve()
            except RedisError as error:
                log.warning("slots_unavailable", reason=type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await asyncio.sleep(max(0.0, asked_at + wait - time.monotonic()))
            return
