"""Stops all replicas from burning the backlog while the provider's quota is exhausted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wearon_generator.metrics import Metrics
from wearon_service_kit.background import Background

log = structlog.get_logger()

FAILURES_KEY: Final = "wearon:generator:quota:failures"
PAUSE_KEY: Final = "wearon:generator:quota:pause"
PROBE_KEY: Final = "wearon:generator:quota:probe"

TRIPS_AFTER: Final = 3
"""Answers in a row, over all replicas, that say the quota is exhausted."""
PAUSE_SECONDS: Final = 60
PROBE_SECONDS: Final = 330
"""A probe that has said nothing for longer than a job may take is forgotten."""
_FORGET_SECONDS: Final = 24 * 3600
_LOOK_SECONDS: Final = 1.0

# KEYS failures, pause, probe; ARGV trips_after, probe seconds, replica.
# Returns 'closed' (go on), 'probe' (go on, alone) or 'open' (wait).
_ADMIT: Final = """
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then return 'closed' end
if redis.call('EXISTS', KEYS[2]) == 1 then return 'open' end
if redis.call('SET', KEYS[3], ARGV[3], 'NX', 'EX', ARGV[2]) then return 'probe' end
return 'open'
"""

# KEYS failures, pause, probe; ARGV trips_after, pause seconds, forget seconds. Returns the failures in a row.
_FAILED: Final = """
local failures = redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if failures >= tonumber(ARGV[1]) then
  redis.call('SET', KEYS[2], '1', 'EX', ARGV[2])
  redis.call('DEL', KEYS[3])
end
return failures
"""


class QuotaBreaker:
    """After `TRIPS_AFTER` quota failures in a row nobody starts a job for a minute; then one job probes."""

    def __init__(self, redis: Redis, replica: str, metrics: Metrics) -> None:
        self._redis = redis
        self._replica = replica
        self._metrics = metrics
        self._keys = [FAILURES_KEY, PAUSE_KEY, PROBE_KEY]
        self._admit = redis.register_script(_ADMIT)
        self._failed = redis.register_script(_FAILED)
        self._probing = False
        self._prober: str | None = None
        self._background = Background("quota-breaker")
        self.open = False
        """Whether this replica last saw the breaker open."""

    def start(self) -> None:
        """Begin to look how things stand, so that a replica without jobs shows it as well."""
        self._background.start(self._watch())

    async def stop(self) -> None:
        """Look no more."""
        await self._background.stop()

    async def wait_until_closed(self) -> None:
        """Return when a job may start; while Redis is away, jobs may start."""
        while True:
            try:
                state = await self._admit(keys=self._keys, args=[TRIPS_AFTER, PROBE_SECONDS, self._replica])
            except RedisError:
                return
            self._show(state == b"open")
            if not self.open:
                if state == b"probe":
                    self._probing, self._prober = True, None
                    log.info("quota_probe", replica=self._replica)
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def given_to(self, holder: str) -> None:
        """`holder` starts: if a probe is to be made, this one makes it."""
        if self._probing and self._prober is None:
            self._prober = holder

    async def exhausted(self) -> None:
        """The provider said that the quota is used up."""
        self._probing = False
        try:
            failures = await self._failed(keys=self._keys, args=[TRIPS_AFTER, PAUSE_SECONDS, _FORGET_SECONDS])
        except RedisError as error:
            log.warning("quota_breaker_unavailable", reason=type(error).__name__)
            return
        if failures >= TRIPS_AFTER:
            self._show(True)
            log.error("quota_pause", failures_in_a_row=failures, seconds=PAUSE_SECONDS)

    async def answered(self) -> None:
        """The provider gave another answer than that: all is well again."""
        self._probing = False
        try:
            await self._redis.delete(*self._keys)
        except RedisError as error:
            log.warning("quota_breaker_unavailable", reason=type(error).__name__)
            return
        self._show(False)

    async def inconclusive(self, holder: str | None = None) -> None:
        """The job of `holder` ended, or nobody used a slot: if that was the probe, and it has said nothing,
        another may be made."""
        if not self._probing or self._prober != holder:
            return
        self._probing = False
        try:
            await self._redis.delete(PROBE_KEY)
        except RedisError as error:
            log.warning("quota_breaker_unavailable", reason=type(error).__name__)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(RedisError):
                failures, *waits_for = await self._redis.mget(self._keys)
                self._show(int(failures or 0) >= TRIPS_AFTER and any(waits_for))
            await asyncio.sleep(_LOOK_SECONDS)

    def _show(self, is_open: bool) -> None:
        self.open = is_open
        self._metrics.quota_pause.set(1 if is_open else 0)
