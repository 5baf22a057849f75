"""Which of the replicas sweeps: the one whose name stands at a key in Redis that expires."""

from __future__ import annotations

import time
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from wearon_contracts.queues import SWEEPER_KEY
from wearon_generator.timing import Clock

log = structlog.get_logger()

# KEYS the key; ARGV the replica, milliseconds. Returns 1 if the key is this replica's now, for so long.
_STAND: Final = """
local sweeper = redis.call('GET', KEYS[1])
if sweeper and sweeper ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS the key; ARGV the replica. Deletes the key if it is this replica's.
_RESIGN: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class Election:
    """Makes one replica at a time the sweeper. More than one would do no harm but cost as much again.

    Methods raise `RedisError` when Redis is unavailable.
    """

    def __init__(self, redis: Redis, replica: str, seconds: float, clock: Clock = time.monotonic) -> None:
        """`seconds`: for which a replica is elected."""
        self._redis = redis
        self._replica = replica
        self._seconds = seconds
        self._clock = clock
        self._elected = False
        self._renew_at = 0.0

    @property
    def elected(self) -> bool:
        """What the last `won` came to; asks nobody. A second replica may think the same for a moment."""
        return self._elected

    async def won(self) -> bool:
        """Whether this replica is the sweeper from now on; asked before each sweep.

        Redis is asked when half of the time has gone by, or while this replica is not elected.
        """
        if self._elected and self._clock() < self._renew_at:
            return True
        self._renew_at = self._clock() + self._seconds / 2
        arguments: list[Any] = [self._replica, round(self._seconds * 1000)]
        elected = bool(await self._redis.eval(_STAND, 1, SWEEPER_KEY, *arguments))
        if elected and not self._elected:
            log.info("sweeper_elected")
        self._elected = elected
        return elected

    async def resign(self) -> None:
        """Let another replica be elected at once; nothing happens if this one was not."""
        if self._elected:
            self._elected = False
            await self._redis.eval(_RESIGN, 1, SWEEPER_KEY, self._replica)
