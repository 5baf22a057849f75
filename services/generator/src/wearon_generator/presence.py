"""Heartbeat of a generator in Redis, and the operator's pause switch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wearon_generator.activity import IDLE_SECONDS, Activity
from wearon_generator.timing import Clock
from wearon_service_kit.background import Background

log = structlog.get_logger()

REPLICA_PREFIX: Final = "wearon:generators:"
"""Prefix of the expiring keys by which a generator is known to live; their value tells what it does."""
PAUSED_KEY: Final = "wearon:generators:paused"
"""While it exists, no generator starts a job; its value says since when and why."""

_HEARTBEAT_INTERVAL: Final = 2.0  # seconds; also how long a pause takes to reach every generator
_HEARTBEAT_TTL: Final = 10  # seconds; five heartbeats may be lost before a generator counts as gone
_IDLE_TTL: Final = math.ceil(2.5 * IDLE_SECONDS)  # one of a generator without jobs may be lost


class Attendance(Protocol):
    """A replica that says it is here, and knows whether it may start jobs."""

    @property
    def paused(self) -> bool:
        """Whether the operator has paused the starting of jobs."""
        ...

    async def start(self) -> None:
        """Say so from now on."""

    async def stop(self) -> None:
        """Say so no more, and be gone at once."""

    async def wait_until_resumed(self) -> None:
        """Return when jobs may be started."""


class Presence:
    """Sends this replica's heartbeat, and looks at the same time whether jobs may be started."""

    def __init__(
        self,
        redis: Redis,
        replica: str,
        activity: Activity,
        describe: Callable[[], dict[str, Any]],
        clock: Clock,
    ) -> None:
        """`describe`: what the operator may want to know of this replica, as JSON."""
        self._redis = redis
        self._activity = activity
        self._key = REPLICA_PREFIX + replica
        self._describe = describe
        self._clock = clock
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._looked_at = -math.inf
        self._background = Background("presence")

    @property
    def paused(self) -> bool:
        """Whether the operator has paused the starting of jobs."""
        return not self._may_start.is_set()

    async def wait_until_resumed(self) -> None:
        """Return when jobs may be started; what Redis said last holds while it is unavailable."""
        if self._clock() > self._looked_at + 2 * _HEARTBEAT_INTERVAL:
            await self._beat()
        await self._may_start.wait()

    async def start(self) -> None:
        """Send the first heartbeat, then one after another."""
        await self._beat()
        self._background.start(self._run())

    async def stop(self) -> None:
        """Send no more, and be gone at once."""
        await self._background.stop()
        with contextlib.suppress(RedisError):
            await self._redis.delete(self._key)

    async def _run(self) -> None:
        while True:
            await self._activity.pause(_HEARTBEAT_INTERVAL)
            try:
                await self._beat()
            except Exception:
                # Without this task the replica would count as gone, and hear of no pause.
                log.exception("presence_crashed")

    async def _beat(self) -> None:
        told = json.dumps({"since": self._since, **self._describe()})
        self._looked_at = self._clock()  # unavailable or not: no job waits for it a second time
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(self._key, told, ex=_IDLE_TTL if self._activity.idle else _HEARTBEAT_TTL)
                pipe.exists(PAUSED_KEY)
                _, is_paused = await pipe.execute()
        except RedisError as error:
            log.debug("heartbeat_failed", reason=type(error).__name__)
            return
        if bool(is_paused) != self.paused:
            log.warning("jobs_paused" if is_paused else "jobs_resumed")
        if is_paused:
            self._may_start.clear()
        else:
            self._may_start.set()
