"""What an operator sees of the lanes and changes in them."""

from __future__ import annotations

import json
from typing import Any, Final

from redis.asyncio import Redis

from wearon_contracts.queues import (
    LANE_PARKED,
    LANE_PREFIX,
    LANE_RULES,
    LANE_TURNS,
    STORE_SHARE,
    TASKS_AHEAD,
    TASKS_HANDED,
)
from wearon_service_kit.lanes import DEFAULT_AHEAD, DRAIN

_PAGE: Final = 1000


class LaneOperations:
    """Reads all lanes page by page, so that Redis is never held up for long."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def longest(self, limit: int) -> dict[str, Any]:
        """The lanes with the most tasks, at most `limit`, with their rules; and how many there are."""
        waiting: dict[str, int] = {}
        for key in (LANE_TURNS, LANE_PARKED):
            cursor = 0
            while True:
                page: Any
                cursor, page = await self._redis.zscan(key, cursor, count=_PAGE)
                names = [name.decode() for name, _ in page]
                async with self._redis.pipeline(transaction=False) as pipe:
                    for name in names:
                        pipe.llen(LANE_PREFIX + name)
                    waiting |= dict(zip(names, await pipe.execute(), strict=True))
                if cursor == 0:
                    break
        waiting = {lane: count for lane, count in waiting.items() if count}
        first = sorted(waiting.items(), key=lambda item: (-item[1], item[0]))[:limit]
        rules = await self._redis.hmget(LANE_RULES, [lane for lane, _ in first]) if first else []
        return {
            "lanes": [
                {"lane": lane, "waiting": count, **(json.loads(rule) if rule else {})}
                for (lane, count), rule in zip(first, rules, strict=True)
            ],
            "lanes_in_all": len(waiting),
            "tasks_in_all": sum(waiting.values()),
            "handed_to_celery": await self._redis.zcard(TASKS_HANDED),
            "wanted_ahead": int(await self._redis.get(TASKS_AHEAD) or DEFAULT_AHEAD),
            "store_share": int(await self._redis.get(STORE_SHARE) or 10),
        }

    async def set_rule(self, lane: str, rule: dict[str, int]) -> dict[str, Any]:
        """Set what holds for one lane, or forget it if `rule` is empty."""
        if rule:
            await self._redis.hset(LANE_RULES, lane, json.dumps(rule))
        else:
            await self._redis.hdel(LANE_RULES, lane)
        return {"lane": lane, **rule}

    async def drain(self) -> dict[str, Any]:
        """Hand all tasks to Celery in their turns, whether they can be started soon or not."""
        handed = 0
        while count := int(await self._redis.eval(DRAIN, 0)):
            handed += count
        return {"handed": handed}
