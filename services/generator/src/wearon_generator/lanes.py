"""The generator's side of the lanes: which tasks are started, how many to hand ahead, which got lost.

And what the elected replica does for all: rules and cancellations are in the database, the lanes in Redis.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wearon_contracts.queues import (
    LANE_IN_WORK_PREFIX,
    LANE_NEXT,
    LANE_PARKED,
    LANE_RULES,
    LANE_TURNS,
    TASKS_HANDED,
    TASKS_KEPT,
    UNACKED_INDEX,
    lane_of,
)
from wearon_contracts.tasks import GenerationTask
from wearon_generator.activity import Activity
from wearon_generator.endings import Outcome
from wearon_generator.ledger import Ledger
from wearon_generator.metrics import Metrics
from wearon_generator.timing import Clock
from wearon_service_kit.background import Background
from wearon_service_kit.lanes import ANNOUNCE, DEALT, LEAVE, RETURN_LOST

log = structlog.get_logger()

ANNOUNCE_SECONDS: Final = 2.0  # between two reports of how many tasks may be handed ahead
AHEAD_SECONDS: Final = 3.0
"""Tasks for so many seconds are handed ahead, so that a slot never waits for Redis or the ledger."""
MOST_PREPARING_SECONDS: Final = 20.0
"""Slower downloads than this get no more tasks ahead; the downloader gives up on most of them."""
LEAST_AHEAD: Final = 2  # tasks, however low the limit
_CANCELLED_AT_ONCE: Final = 1000  # cancelled sessions that one query returns
_OLDEST_LOOKED_AT: Final = 1000  # tasks handed ahead are a few dozen, so this is all of them


def tasks_ahead(per_minute: int, preparing_seconds: float) -> int:
    """How many tasks to hand ahead at `per_minute` starts, when pictures take so long to prepare."""
    seconds = AHEAD_SECONDS + 1.25 * min(preparing_seconds, MOST_PREPARING_SECONDS)
    return max(LEAST_AHEAD, math.ceil(per_minute / 60 * seconds))


class Lanes:
    """Reports to Redis without holding up a job: what a report misses, the sweep makes good."""

    def __init__(
        self, redis: Redis, per_minute: int, activity: Activity, preparing_seconds: Callable[[], float]
    ) -> None:
        """`preparing_seconds`: how long the last pictures took to prepare."""
        self._redis = redis
        self._activity = activity
        self._per_minute = per_minute
        self._preparing_seconds = preparing_seconds
        self._reports: set[asyncio.Task[None]] = set()
        self._background = Background("lanes")

    def start(self) -> None:
        """Say now, and then periodically, how many tasks to hand ahead."""
        self._background.start(self._run())

    async def stop(self) -> None:
        """Announce no more; wait for the reports that are on their way."""
        await self._background.stop()
        if self._reports:
            await asyncio.wait(self._reports)

    def started(self, task: GenerationTask) -> None:
        """Its attempt has begun: the next task of some lane may come."""
        self._report(task, ended=False)

    def ended(self, task: GenerationTask) -> None:
        """It is settled or set aside; whether it was started before does not matter."""
        self._report(task, ended=True)

    def _report(self, task: GenerationTask, *, ended: bool) -> None:
        lane = lane_of(task.channel, task.owner_id)
        dealt: Any = self._redis.eval(DEALT, 0, str(task.session_id), lane, str(int(ended)))
        report = asyncio.create_task(_quietly(dealt), name="lane-report")
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)

    async def _run(self) -> None:
        while True:
            lanes_are_empty = False
            try:
                lanes_are_empty = await self._announce()
            except Exception:
                # Without this task no lane's tasks would be handed on while nothing is started.
                log.exception("lanes_crashed")
            if lanes_are_empty:
                await self._activity.pause(ANNOUNCE_SECONDS)
            else:
                await asyncio.sleep(ANNOUNCE_SECONDS)

    async def _announce(self) -> bool:
        """Say how many tasks to hand ahead; whether no task waits in any lane."""
        ahead = tasks_ahead(self._per_minute, self._preparing_seconds())
        announce = self._redis.eval(ANNOUNCE, 0, str(ahead), str(self._per_minute))
        return bool(await _quietly(announce) == 0)


async def _quietly(command: Awaitable[Any]) -> Any:
    """What the command answers; None if it could not be sent."""
    try:
        return await command
    except (RedisError, OSError) as error:
        log.debug("lanes_not_told", reason=type(error).__name__)
        return None


class HandedTasks:
    """The tasks that were handed to Celery and are not known to be started."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def any(self) -> bool:
        """Whether there are any, or messages that a worker has taken and not acknowledged."""
        return bool(await self._redis.exists(TASKS_HANDED, UNACKED_INDEX))

    async def older_than(self, seconds: float) -> dict[str, str]:
        """Session ids handed so long ago, with the score by which Redis tells a later handing apart."""
        now, _ = await self._redis.time()
        found: Any = await self._redis.zrange(
            TASKS_HANDED,
            0,
            (now - seconds) * 1000,
            byscore=True,
            offset=0,
            num=_OLDEST_LOOKED_AT,
            withscores=True,
            score_cast_func=bytes.decode,
        )
        return {session_id.decode(): score for session_id, score in found}

    async def forget(self, session_ids: set[str]) -> None:
        """Keep these no more: the ledger looks after them."""
        if session_ids:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.zrem(TASKS_HANDED, *session_ids)
                pipe.hdel(TASKS_KEPT, *session_ids)
                await pipe.execute()

    async def put_back(self, session_id: str, score: str) -> bool:
        """Make its message the next one that Celery takes, unless it was dealt with or handed meanwhile."""
        returned: Any = await self._redis.eval(RETURN_LOST, 0, session_id, score)
        return bool(returned == 1)


async def set_rules(redis: Redis, rules: Mapping[bytes, Mapping[str, int]]) -> None:
    """Have these rules hold for these lanes; an empty one is forgotten, and what was counted for it."""
    async with redis.pipeline(transaction=True) as pipe:
        for lane, rule in rules.items():
            if rule:
                pipe.hset(LANE_RULES, lane, _stored(rule))
            else:
                pipe.hdel(LANE_RULES, lane)
                pipe.hdel(LANE_NEXT, lane)
                pipe.delete(LANE_IN_WORK_PREFIX.encode() + lane)
        await pipe.execute()


def _stored(rule: Mapping[str, int]) -> bytes:
    return json.dumps(rule, sort_keys=True).encode()


class LaneUpkeep:
    """Brings what the database says of lanes to Redis: their rules, and which tasks wait there in vain.

    While tasks wait it asks at every sweep, otherwise every `interval` seconds, which is for how long a Redis
    that has lost its data may be without the rules.
    """

    def __init__(
        self, redis: Redis, ledger: Ledger, metrics: Metrics, clock: Clock, *, interval: float
    ) -> None:
        self._redis = redis
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._interval = interval
        self._look_at = 0.0
        self._since: str | None = None

    async def look(self) -> None:
        """Look once; raises `SupabaseUnavailable` or `RedisError`."""
        if self._clock() < self._look_at and not await self._redis.exists(LANE_TURNS, LANE_PARKED):
            return
        found = await self._ledger.lanes(self._since, _CANCELLED_AT_ONCE)
        await self._copy_rules(found["rules"])
        for session in found["cancelled"]:
            await self._take_out(**session)
        self._since = found["next"]
        self._look_at = self._clock() + self._interval

    async def _copy_rules(self, rules: dict[str, dict[str, int]]) -> None:
        wanted = {lane.encode(): rule for lane, rule in rules.items()}
        standing: Any = await self._redis.hgetall(LANE_RULES)  # perhaps not written by us: compared, not read
        changed = {lane: rule for lane, rule in wanted.items() if standing.get(lane) != _stored(rule)}
        changed |= {lane: {} for lane in standing.keys() - wanted.keys()}
        if changed:
            await set_rules(self._redis, changed)
            log.info("lane_rules_copied", lanes=len(changed))

    async def _take_out(self, channel: str, session_id: str, owner_id: str) -> None:
        answer: Any = self._redis.eval(LEAVE, 0, session_id, lane_of(channel, owner_id))
        if await answer == 1:
            self._metrics.jobs.labels(channel=channel, outcome=Outcome.CANCELLED.value).inc()
            log.info("cancelled_task_left_lane", session_id=session_id, channel=channel)
