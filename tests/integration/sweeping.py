"""The part of a generator that sweeps, on a real ledger and a real Redis, and tasks for it that wait."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx
import psycopg
from postgrest import AsyncPostgrestClient
from prometheus_client import CollectorRegistry
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from wearon_contracts.queues import TASK_LIST
from wearon_generator.celery_app import CeleryBroker, create_celery_app
from wearon_generator.lanes import HandedTasks
from wearon_generator.ledger import Ledger, SupabaseDatabase
from wearon_generator.metrics import Metrics
from wearon_generator.queue_scan import QueueScan
from wearon_generator.recovery import ScanBudget, cleanup_stuck_sessions, find_orphans
from wearon_generator.timing import Timing, utc_now
from wearon_service_kit.redis_clients import connect_async

T = TypeVar("T")
STUCK_AFTER: Final = 300
_AT_A_TIME: Final = 50_000


class Store:
    """Where results are; only deleting is of interest here."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def remove(self, paths: list[str]) -> None:
        self.removed += paths


class Generator:
    """The part of one that sweeps; `store` notes what it deletes."""

    def __init__(self, rest_url: str, headers: dict[str, str], redis_url: str) -> None:
        """`rest_url`: PostgREST's, asked with `headers` as the service role."""
        self._rest_url = rest_url
        self._headers = headers
        self._redis_url = redis_url
        self._broker = CeleryBroker(create_celery_app(redis_url, concurrency=1, visibility_timeout=60))
        self._budget = ScanBudget(time.monotonic)
        self._metrics = Metrics(CollectorRegistry())
        self.store = Store()

    def sweep(self, times: int = 1, *, before_each: Callable[[], object] = lambda: None) -> None:
        async def work(ledger: Ledger, redis: AsyncRedis) -> None:
            for _ in range(times):
                before_each()
                await cleanup_stuck_sessions(
                    ledger,
                    QueueScan(redis),
                    self.store,  # type: ignore[arg-type]
                    HandedTasks(redis),
                    broker=self._broker,
                    is_held_here=lambda _: False,
                    stuck_after=STUCK_AFTER,
                    budget=self._budget,
                    timing=Timing(),
                    now=utc_now,
                    metrics=self._metrics,
                )

        self._run(work)

    def orphans(self) -> set[UUID]:
        async def look(ledger: Ledger, redis: AsyncRedis) -> set[UUID]:
            found = await find_orphans(ledger, QueueScan(redis), STUCK_AFTER, ScanBudget(time.monotonic))
            return {session.session_id for session in found}

        return self._run(look)

    def _run(self, work: Callable[[Ledger, AsyncRedis], Awaitable[T]]) -> T:
        return run_connected(work, self._rest_url, self._headers, self._redis_url)


def run_connected(
    work: Callable[[Ledger, AsyncRedis], Awaitable[T]], rest_url: str, headers: dict[str, str], redis_url: str
) -> T:
    """Run `work` with a generator's clients; `rest_url`: PostgREST's, asked with `headers`."""

    async def connected() -> T:
        redis = connect_async(redis_url, name="test")
        try:
            async with httpx.AsyncClient(timeout=30) as http:
                client: Any = AsyncPostgrestClient(rest_url, headers=headers, http_client=http)
                return await work(Ledger(SupabaseDatabase(client), Timing()), redis)
        finally:
            await redis.aclose()

    return asyncio.run(connected())


def let_wait(database_url: str, redis: Redis, count: int) -> None:
    """So many sessions, the oldest an hour old, with a task each that was made 0.4 s after its row."""
    made = """
        with made as (
          insert into generation_sessions (user_id, model_image_url, prompt_system, created_at)
          select gen_random_uuid(), '', '', now() - make_interval(secs => 3600 - 3000.0 * n / %s)
            from generate_series(%s::int, %s::int) n
          returning id, created_at
        )
        select id, to_char((created_at + interval '0.4 seconds') at time zone 'UTC',
                           'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
          from made order by created_at
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        for first in range(1, count + 1, _AT_A_TIME):
            last = min(count, first + _AT_A_TIME - 1)
            rows = connection.execute(made, (count, first, last)).fetchall()
            for start in range(0, len(rows), 5000):
                redis.lpush(
                    TASK_LIST,
                    *(
                        json.dumps({"session_id": str(session), "created_at": created, "prompt": "x" * 400})
                        for session, created in rows[start : start + 5000]
                    ),
                )
        connection.execute("analyze generation_sessions")
