"""What a replica tells of itself through Redis, and what the operator tells all replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wearon_service_kit.background import Background

log = structlog.get_logger()

REPLICA_PREFIX: Final = "wearon:generators:"
"""Prefix of the expiring keys by which a generator is known to live; their value tells what it does."""
PAUSED_KEY: Final = "wearon:generators:paused"
"""While it exists, no generator starts a job; its value says since when and why."""

_TELL_SECONDS: Final = 2.0
_FORGET_SECONDS: Final = 10


class Presence:
    """Tells every two seconds that this replica lives, and listens whether jobs may be started."""

    def __init__(self, redis: Redis, replica: str, describe: Callable[[], dict[str, Any]]) -> None:
        """`describe`: what the operator may want to know of this replica, as JSON."""
        self._redis = redis
        self._key = REPLICA_PREFIX + replica
        self._describe = describe
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._background = Background("presence")

    @property
    def paused(self) -> bool:
        """Whether the operator has paused the starting of jobs."""
        return not self._may_start.is_set()

    async def wait_until_resumed(self) -> None:
        """Return when jobs may be started; what Redis said last holds while it is away."""
        await self._may_start.wait()

    async def start(self) -> None:
        """Tell and listen once, then periodically."""
        await self._tell()
        self._background.start(self._run())

    async def stop(self) -> None:
        """Tell no more, and be gone at once."""
        await self._background.stop()
        with contextlib.suppress(RedisError):
            await self._redis.delete(self._key)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            await self._tell()

    async def _tell(self) -> None:
        told = json.dumps({"since": self._since, **self._describe()})
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(self._key, told, ex=_FORGET_SECONDS)
                pipe.exists(PAUSED_KEY)
                _, is_paused = await pipe.execute()
        except RedisError as error:
            log.debug("presence_not_told", reason=type(error).__name__)
            return
        if bool(is_paused) != self.paused:
            log.warning("jobs_paused" if is_paused else "jobs_resumed")
        if is_paused:
            self._may_start.clear()
        else:
            self._may_start.set()
