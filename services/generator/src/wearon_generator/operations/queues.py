"""Queues and workers: how much waits, who lives, and the two switches that stop the starting of jobs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TypedDict

from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    DEAD_LETTER_LIST,
    INFLIGHT_PREFIX,
    INTAKE_STOPPED,
    INVALID_IN_A_ROW,
    SWEEPER_KEY,
    TASK_LIST,
    UNACKED_HASH,
    consumer_heartbeat,
)
from wearon_generator.operations.connections import Connections, number_at
from wearon_generator.operations.values import Row, json_object, text
from wearon_generator.presence import PAUSED_KEY, REPLICA_PREFIX


class Consumer(TypedDict):
    """A consumer that lives, or has left elements behind."""

    id: str
    alive: bool
    in_flight: int


class Intake(TypedDict):
    """Whether the consumers take elements, and if not, why; how near they are to stopping."""

    intake_stopped: Row | None
    invalid_in_a_row: int


class Status(Intake):
    """Depths and ages of all queues, who lives, whether jobs are paused, what the ledger counts."""

    queues: dict[str, int]
    taken_by_workers: int
    oldest_task_seconds: float | None
    consumers: list[Consumer]
    generators: list[Row]
    """As each tells of itself, with `id`."""
    sweeper: str | None
    paused: Row | None
    """Since when and why."""
    ledger: dict[str, float]
    """See the function generation_backlog."""


class Paused(TypedDict):
    """The pause that now holds."""

    paused: Row


class Resumed(TypedDict):
    """No pause holds any more; whether one did."""

    paused: None
    was_paused: bool


class IntakeResumed(TypedDict):
    """The consumers take elements; whether they did not."""

    intake_stopped: None
    was_stopped: bool


async def status(at: Connections) -> Status:
    """Everything that `Status` has."""
    oldest = await at.queues.oldest()
    names = (TASK_LIST, CELERY_RETRY_QUEUE, CELERY_QUEUE, DEAD_LETTER_LIST)
    paused = await at.redis.get(PAUSED_KEY)
    sweeper = await at.redis.get(SWEEPER_KEY)
    return {
        "queues": {name: await at.redis.llen(name) for name in names},
        "taken_by_workers": await at.redis.hlen(UNACKED_HASH),
        "oldest_task_seconds": (
            None if oldest is None else round((datetime.now(UTC) - oldest).total_seconds(), 1)
        ),
        "consumers": await _consumers(at),
        "generators": await _generators(at),
        "sweeper": None if sweeper is None else text(sweeper),
        "paused": None if paused is None else json_object(paused, otherwise="reason"),
        **await intake(at),
        "ledger": await at.ledger.backlog(),
    }


async def _consumers(at: Connections) -> list[Consumer]:
    found: dict[str, Consumer] = {}
    async for name in at.redis.scan_iter(f"{INFLIGHT_PREFIX}*"):
        consumer = text(name).removeprefix(INFLIGHT_PREFIX)
        alive = bool(await at.redis.exists(consumer_heartbeat(consumer)))
        found[consumer] = {"id": consumer, "alive": alive, "in_flight": await at.redis.llen(name)}
    prefix = consumer_heartbeat("")
    async for name in at.redis.scan_iter(f"{prefix}*"):
        consumer = text(name).removeprefix(prefix)
        found.setdefault(consumer, {"id": consumer, "alive": True, "in_flight": 0})
    return [found[consumer] for consumer in sorted(found)]


async def _generators(at: Connections) -> list[Row]:
    found: dict[str, Row] = {}
    async for name in at.redis.scan_iter(f"{REPLICA_PREFIX}*"):
        if text(name) == PAUSED_KEY:
            continue
        value = await at.redis.get(name)
        if value is not None:
            replica = text(name).removeprefix(REPLICA_PREFIX)
            found[replica] = {"id": replica, **json_object(value, otherwise="unreadable")}
    return [found[replica] for replica in sorted(found)]


async def pause(at: Connections, reason: str) -> Paused:
    """Let no generator start a job until `resume`; those in work go on, and the rest keeps waiting."""
    paused: Row = {"since": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason}
    await at.redis.set(PAUSED_KEY, json.dumps(paused))
    return {"paused": paused}


async def resume(at: Connections) -> Resumed:
    """Let generators start jobs again."""
    return {"paused": None, "was_paused": bool(await at.redis.delete(PAUSED_KEY))}


async def intake(at: Connections) -> Intake:
    """Everything that `Intake` has."""
    stopped = await at.redis.get(INTAKE_STOPPED)
    return {
        "intake_stopped": None if stopped is None else json_object(stopped, otherwise="reason"),
        "invalid_in_a_row": await number_at(at, INVALID_IN_A_ROW, otherwise=0),
    }


async def resume_intake(at: Connections) -> IntakeResumed:
    """Let the consumers take elements again, and count invalid ones from zero."""
    async with at.redis.pipeline(transaction=True) as pipe:
        pipe.delete(INTAKE_STOPPED)
        pipe.delete(INVALID_IN_A_ROW)
        was_stopped, _ = await pipe.execute()
    return {"intake_stopped": None, "was_stopped": bool(was_stopped)}
