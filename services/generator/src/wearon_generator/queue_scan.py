"""Finds tasks in Redis: the producer's list, the consumers', the lanes, the broker's queues, the workers'."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from redis.asyncio import Redis

from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    INFLIGHT_PREFIX,
    TASK_LIST,
    TASKS_KEPT,
    TASKS_WAITING_PREFIX,
    UNACKED_HASH,
    UNACKED_INDEX,
)
from wearon_contracts.tasks import Channel

_CHUNK: Final = 500  # elements read at a time, about 0.5 MB


def task_in(element: bytes | str) -> dict[str, Any]:
    """The task inside a list element (JSON) or a Celery message (base64 inside JSON); empty if unreadable."""
    try:
        message = json.loads(element)
        if isinstance(message, list):  # an entry of the unacked hash: [message, exchange, routing key]
            message = message[0]
        if isinstance(message.get("body"), str):
            message = json.loads(base64.b64decode(message["body"]))[0][0]
        return message if isinstance(message, dict) else {}
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return {}


EARLIEST: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""No task is older than this program. What claims to be would keep the sweep from all sessions after it."""


def created_at(task: dict[str, Any]) -> datetime | None:
    """When the task was made; None if it does not say so readably, or cannot have been made then."""
    try:
        moment = datetime.fromisoformat(task["created_at"])
    except (KeyError, TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None and moment >= EARLIEST else None


def _session_in(element: bytes | str) -> str | None:
    """The session id in an element; None for whatever else stands there, which the database would refuse."""
    try:
        return str(UUID(task_in(element)["session_id"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


class QueueScan:
    """Reads the lists and the hash; takes out nothing but what is settled."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def oldest(self) -> datetime | None:
        """When the oldest task that waits in a lane or a list was made; None if none waits.

        Lists are first in, first out, so the element at the right end of each is looked at. What workers have
        taken does not count: a killed one leaves its messages there for as long as the broker waits for them,
        and there are never more of those than jobs in flight.
        """
        moments: list[datetime | None] = []
        for channel in Channel:
            first: Any = await self._redis.zrangebyscore(
                TASKS_WAITING_PREFIX + channel, EARLIEST.timestamp(), "+inf", start=0, num=1, withscores=True
            )
            moments += [datetime.fromtimestamp(score, UTC) for _, score in first]
        for name in await self._lists():
            element = await self._redis.lindex(name, -1)
            if element is not None:
                moments.append(created_at(task_in(element)))
        return min((moment for moment in moments if moment is not None), default=None)

    async def length(self) -> int:
        """How many tasks there are, wherever they wait or whoever has taken them."""
        lists = await self._lists()
        return sum([await self._redis.llen(name) for name in lists]) + await self._redis.hlen(UNACKED_HASH)

    async def sessions_among(self, wanted: set[str]) -> set[str]:
        """Which of the session ids `wanted` have a task somewhere in Redis.

        A task moves from the producer's list to the consumer's, to its lane, to the broker's, the workers':
        read in that order, one that moves meanwhile is met at least once. What waits in lanes is looked up by
        its id; the lists hold little beside it.
        """
        found = await self._kept_among(wanted)
        for name in await self._lists_before_the_lanes():
            found |= await self._sessions_in(name, wanted - found)
        found |= await self._kept_among(wanted - found)
        return found | await self.sessions_in_celery(wanted - found)

    async def sessions_in_celery(self, wanted: set[str]) -> set[str]:
        """Which of the session ids `wanted` have a message in Celery's queues or with a worker."""
        found: set[str] = set()
        for name in (CELERY_QUEUE, CELERY_RETRY_QUEUE):
            found |= await self._sessions_in(name, wanted - found)
        if wanted - found:
            async for _, element in self._redis.hscan_iter(UNACKED_HASH, count=_CHUNK):
                found |= wanted & {str(task_in(element).get("session_id", "")).lower()}
        return found

    async def _kept_among(self, wanted: set[str]) -> set[str]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for session_id in (names := sorted(wanted)):
                pipe.hexists(TASKS_KEPT, session_id)
            return {name for name, kept in zip(names, await pipe.execute(), strict=True) if kept}

    async def waiting_again(self, wanted: set[str]) -> set[str]:
        """Which of the session ids `wanted` have a task in the queue of those that have waited before."""
        return await self._sessions_in(CELERY_RETRY_QUEUE, wanted)

    async def _sessions_in(self, name: str, wanted: set[str]) -> set[str]:
        found: set[str] = set()
        if wanted:
            async for element in self._elements(name):
                found |= wanted & {str(task_in(element).get("session_id", "")).lower()}
        return found

    async def taken_before(self, moment: datetime) -> dict[str, str]:
        """Session ids of the messages that workers took before `moment` and have not acknowledged, by tag.

        What names no session is left to the broker, which delivers it again after its visibility timeout.
        """
        tags: list[Any] = await self._redis.zrangebyscore(UNACKED_INDEX, 0, moment.timestamp())
        found = {}
        for start in range(0, len(tags), _CHUNK):
            chunk = tags[start : start + _CHUNK]
            for tag, element in zip(chunk, await self._redis.hmget(UNACKED_HASH, chunk), strict=True):
                session_id = _session_in(element) if element is not None else None
                if session_id is not None:
                    found[tag.decode()] = session_id
        return found

    async def forget_taken(self, tags: Iterable[str]) -> None:
        """Acknowledge messages in the place of workers that cannot; for one that lives, nothing changes."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for tag in tags:
                pipe.hdel(UNACKED_HASH, tag)
                pipe.zrem(UNACKED_INDEX, tag)
            await pipe.execute()

    async def _lists(self) -> list[str]:
        return [*await self._lists_before_the_lanes(), CELERY_QUEUE, CELERY_RETRY_QUEUE]

    async def _lists_before_the_lanes(self) -> list[str]:
        inflight = [
            name.decode() async for name in self._redis.scan_iter(f"{INFLIGHT_PREFIX}*", count=_CHUNK)
        ]
        return [TASK_LIST, *inflight]

    async def _elements(self, name: str) -> AsyncIterator[bytes | str]:
        # From the left, where elements are added: what is added meanwhile shifts the rest to the right, so
        # an element may be met twice, but none is passed over.
        start = 0
        while chunk := await self._redis.lrange(name, start, start + _CHUNK - 1):
            for element in chunk:
                yield element
            start += len(chunk)
