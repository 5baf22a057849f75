"""The lanes in which tasks wait for their turn: the longest, and what holds for one."""

from __future__ import annotations

from typing import Any, Final, TypedDict

from wearon_contracts.place import DEFAULT_STORE_SHARE
from wearon_contracts.queues import (
    LANE_PARKED,
    LANE_PREFIX,
    LANE_RULES,
    LANE_TURNS,
    STORE_SHARE,
    TASKS_AHEAD,
    TASKS_HANDED,
)
from wearon_generator.lanes import set_rules
from wearon_generator.operations.connections import Connections, number_at
from wearon_generator.operations.values import Row, json_object
from wearon_generator.timing import utc_now
from wearon_service_kit.lanes import DEFAULT_AHEAD, DRAIN

_PAGE: Final = 1000
_RULES: Final = "generation_lane_rules"


class Rule(TypedDict, total=False):
    """What holds for one lane; what is not there is as for all."""

    share: int
    in_work: int
    per_minute: int


class _Named(TypedDict):
    lane: str


class LaneRule(_Named, Rule):
    """A lane, store:<id> or user:<id>, and its rule."""


class _Counted(TypedDict):
    waiting: int


class Lane(LaneRule, _Counted):
    """A lane, how many tasks wait in it, and its rule."""


class Lanes(TypedDict):
    """The longest lanes, and figures of all."""

    lanes: list[Lane]
    lanes_in_all: int
    tasks_in_all: int
    handed_to_celery: int
    wanted_ahead: int
    store_share: int


class Rules(TypedDict):
    """What holds for lanes for which something else holds than for all."""

    rules: list[LaneRule]


class Drained(TypedDict):
    """How many tasks were handed to Celery."""

    handed: int


async def longest(at: Connections, limit: int) -> Lanes:
    """The lanes with the most tasks, at most `limit`. Read in pages, so that Redis is never held up long."""
    waiting = {lane: count for lane, count in (await _lengths(at)).items() if count}
    first = sorted(waiting.items(), key=lambda item: (-item[1], item[0]))[:limit]
    rules = await at.redis.hmget(LANE_RULES, [lane for lane, _ in first]) if first else []
    return {
        "lanes": [
            {"lane": lane, "waiting": count, **_read_rule(stored)}
            for (lane, count), stored in zip(first, rules, strict=True)
        ],
        "lanes_in_all": len(waiting),
        "tasks_in_all": sum(waiting.values()),
        "handed_to_celery": await at.redis.zcard(TASKS_HANDED),
        "wanted_ahead": await number_at(at, TASKS_AHEAD, otherwise=DEFAULT_AHEAD),
        "store_share": await number_at(at, STORE_SHARE, otherwise=DEFAULT_STORE_SHARE),
    }


def _read_rule(stored: bytes | str | None) -> Rule:
    # One that somebody broke by hand is none; the elected generator writes it again.
    found = json_object(stored, otherwise="unreadable") if stored else {}
    limits = {name: value for name, value in found.items() if isinstance(value, int)}
    return rule(share=limits.get("share"), in_work=limits.get("in_work"), per_minute=limits.get("per_minute"))


async def _lengths(at: Connections) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for key in (LANE_TURNS, LANE_PARKED):
        cursor = 0
        while True:
            page: Any
            cursor, page = await at.redis.zscan(key, cursor, count=_PAGE)
            names = [name.decode() for name, _ in page]
            async with at.redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.llen(LANE_PREFIX + name)
                lengths |= dict(zip(names, await pipe.execute(), strict=True))
            if cursor == 0:
                break
    return lengths


def rule(*, share: int | None, in_work: int | None, per_minute: int | None) -> Rule:
    """A rule of those limits that are not None."""
    found: Rule = {}
    if share is not None:
        found["share"] = share
    if in_work is not None:
        found["in_work"] = in_work
    if per_minute is not None:
        found["per_minute"] = per_minute
    return found


async def rules(at: Connections) -> Rules:
    """All rules there are, by lane."""
    found: dict[str, Rule] = (await at.ledger.lanes(utc_now().isoformat(), 0))["rules"]
    return {"rules": [{"lane": lane, **rule} for lane, rule in sorted(found.items())]}


async def set_rule(at: Connections, lane: str, rule: Rule) -> LaneRule:
    """Set what holds for one lane, or forget it if `rule` is empty: in the database, then in Redis.

    If Redis cannot be reached, the elected generator brings it there once it can.
    """
    table = at.supabase.table(_RULES)
    limits = {limit: value for limit, value in rule.items() if isinstance(value, int)}
    if rule:
        row: Row = {"share": None, "in_work": None, "per_minute": None, **limits, "lane": lane}
        await table.upsert({**row, "changed_at": utc_now().isoformat()}).execute()
    else:
        await table.delete().eq("lane", lane).execute()
    await set_rules(at.redis, {lane.encode(): limits})
    return {"lane": lane, **rule}


async def drain(at: Connections) -> Drained:
    """Hand all tasks to Celery in their turns, whether they can be started soon or not."""
    handed = 0
    while count := int(await at.redis.eval(DRAIN, 0)):
        handed += count
    return {"handed": handed}
