"""Stops all replicas from burning the backlog while the provider refuses every job for a reason of ours."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wearon_generator.activity import Activity
from wearon_generator.metrics import Metrics
from wearon_generator.refusals import Refusal
from wearon_service_kit.background import Background

log = structlog.get_logger()

KEY_PREFIX: Final = "wearon:generator:provider:"

TRIPS_AFTER: Final = 3
"""Such refusals in a row, over all replicas, that open the breaker; so many jobs fail at most."""
PAUSE_SECONDS: Final = 30
"""Until a job probes whether the cause is gone: all go on within a minute, the probe's own time included."""
_FORGET_SECONDS: Final = 24 * 3600  # after the last refusal; by then a row of refusals says nothing
_LOOK_SECONDS: Final = 1.0  # between two looks at what other replicas found

# KEYS state, pause, probe; ARGV trips_after, probe seconds, replica.
# Returns 'closed' (go on), 'probe' (go on, alone) or the reason to wait.
_ADMIT: Final = """
local failures, reason = unpack(redis.call('HMGET', KEYS[1], 'failures', 'reason'))
if tonumber(failures or '0') < tonumber(ARGV[1]) then return 'closed' end
if redis.call('EXISTS', KEYS[2]) == 1 then return reason end
if redis.call('SET', KEYS[3], ARGV[3], 'NX', 'EX', ARGV[2]) then return 'probe' end
return reason
"""

# KEYS state, pause, probe; ARGV trips_after, pause seconds, forget seconds, reason.
# Returns the refusals in a row.
_REFUSED: Final = """
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'reason', ARGV[4], 'refused_at', now[1] + now[2] / 1000000)
redis.call('EXPIRE', KEYS[1], ARGV[3])
if failures >= tonumber(ARGV[1]) then
  redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[2])
  redis.call('DEL', KEYS[3])
end
return failures
"""

# KEYS state, pause, probe; ARGV seconds since the call began. Returns 1 if the breaker is closed now.
# A call that began before the last refusal says nothing about the time since.
_WORKS: Final = """
local refused_at = tonumber(redis.call('HGET', KEYS[1], 'refused_at') or '0')
local now = redis.call('TIME')
if now[1] + now[2] / 1000000 - tonumber(ARGV[1]) < refused_at then return 0 end
redis.call('DEL', unpack(KEYS))
return 1
"""


class ProviderBreaker:
    """After `TRIPS_AFTER` refusals in a row nobody starts a job for `PAUSE_SECONDS`; then one job probes.

    `scope` stands for what the refusals depend on (key, model, address): replicas that are configured alike
    share a breaker, and one that is started with another model does not wait for the old one's.
    """

    def __init__(
        self,
        redis: Redis,
        replica: str,
        scope: str,
        metrics: Metrics,
        activity: Activity,
        *,
        probe_seconds: int,
    ) -> None:
        """`probe_seconds`: after so long a probe that has said nothing is forgotten."""
        self._redis = redis
        self._replica = replica
        self._probe_seconds = probe_seconds
        self._metrics = metrics
        self._activity = activity
        self.pause_key = f"{KEY_PREFIX}{scope}:pause"
        self._probe_key = f"{KEY_PREFIX}{scope}:probe"
        self._keys = [f"{KEY_PREFIX}{scope}:state", self.pause_key, self._probe_key]
        self._admit = redis.register_script(_ADMIT)
        self._refused = redis.register_script(_REFUSED)
        self._works = redis.register_script(_WORKS)
        self._probing = False
        self._prober: str | None = None
        self._background = Background("provider-breaker")
        self.reason: str | None = None
        """Why this replica last saw the breaker open; None if it was closed."""

    def start(self) -> None:
        """Begin to look how things stand, so that a replica without jobs shows it as well."""
        self._background.start(self._watch())

    async def stop(self) -> None:
        """Look no more."""
        await self._background.stop()

    async def wait_until_closed(self) -> None:
        """Return when a job may start; while Redis is unavailable, jobs may start."""
        while True:
            try:
                state = await self._admit(
                    keys=self._keys, args=[TRIPS_AFTER, self._probe_seconds, self._replica]
                )
            except RedisError:
                return
            if state in (b"closed", b"probe"):
                self._show(None)
                if state == b"probe":
                    self._probing, self._prober = True, None
                    log.info("provider_probe", replica=self._replica)
                return
            self._show(state.decode())
            await asyncio.sleep(_LOOK_SECONDS)

    def given_to(self, holder: str) -> None:
        """`holder` starts: if a probe is to be made, this one makes it."""
        if self._probing and self._prober is None:
            self._prober = holder

    def stops(self, holder: str) -> bool:
        """Whether the job of `holder`, admitted before the breaker opened, should call no more."""
        return self.reason is not None and self._prober != holder

    async def refused(self, refusal: Refusal) -> bool:
        """The provider refused a job as it would every other; whether that job should fail.

        It should not where the breaker is open: it can wait with the others then.
        """
        self._end_probe()
        args = [TRIPS_AFTER, PAUSE_SECONDS, _FORGET_SECONDS, refusal.value]
        try:
            in_a_row = await self._refused(keys=self._keys, args=args)
        except RedisError as error:
            log.warning("provider_breaker_unavailable", reason=type(error).__name__)
            return True
        if in_a_row >= TRIPS_AFTER:
            self._show(refusal.value)
            log.error("provider_pause", reason=refusal.value, in_a_row=in_a_row, seconds=PAUSE_SECONDS)
        return bool(in_a_row <= TRIPS_AFTER)

    async def works(self, call_seconds: float) -> None:
        """The provider took a job, in a call that began `call_seconds` ago: all is well again."""
        self._end_probe()
        try:
            closed = await self._works(keys=self._keys, args=[call_seconds])
        except RedisError as error:
            log.warning("provider_breaker_unavailable", reason=type(error).__name__)
            return
        if closed:
            self._show(None)

    async def inconclusive(self, holder: str | None = None) -> None:
        """The job of `holder` ended, or nobody used a slot: if that was the probe, and it has said nothing,
        another may be made."""
        if not self._probing or self._prober != holder:
            return
        self._end_probe()
        try:
            await self._redis.delete(self._probe_key)
        except RedisError as error:
            log.warning("provider_breaker_unavailable", reason=type(error).__name__)

    def _end_probe(self) -> None:
        self._probing, self._prober = False, None

    async def _watch(self) -> None:
        state_key, *waits_for = self._keys
        while True:
            try:
                failures, reason = await self._redis.hmget(state_key, ["failures", "reason"])
                is_open = int(failures or 0) >= TRIPS_AFTER and await self._redis.exists(*waits_for)
                self._show(reason.decode() if is_open and isinstance(reason, bytes) else None)
            except RedisError:
                pass  # what was seen last holds
            except Exception:
                # Without this task a breaker seen open would stay so, also when it is closed again.
                log.exception("provider_breaker_crashed")
            if self.reason is None:
                await self._activity.pause(_LOOK_SECONDS)
            else:
                await asyncio.sleep(_LOOK_SECONDS)

    def _show(self, reason: str | None) -> None:
        self.reason = reason
        self._metrics.show_provider_pause(reason)
