"""What a sweep costs while much waits, and how often it publishes what nobody has room for."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx
import pytest
from integration.database import LedgerDatabase
from postgrest import AsyncPostgrestClient
from prometheus_client import CollectorRegistry
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from wearon_contracts.queues import CELERY_RETRY_QUEUE, TASK_LIST
from wearon_contracts.results import result_path
from wearon_contracts.tasks import Channel
from wearon_generator.celery_app import CeleryBroker, create_celery_app
from wearon_generator.lanes import HandedTasks
from wearon_generator.ledger import Ledger, SupabaseDatabase
from wearon_generator.metrics import Metrics
from wearon_generator.queue_scan import QueueScan
from wearon_generator.recovery import ScanBudget, cleanup_stuck_sessions, find_orphans
from wearon_generator.timing import Timing, utc_now
from wearon_local.processes import Nursery, free_port
from wearon_local.redis_server import RedisServer
from wearon_service_kit.redis_clients import connect_async

T = TypeVar("T")
STUCK_AFTER: Final = 300
EIGHT_HOURS_OF_GRACES: Final = 8 * 60


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    nursery = Nursery()
    try:
        server = RedisServer(nursery, free_port())
        server.start()
        yield server
    finally:
        nursery.close()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        client.flushall()
        client.config_resetstat()
        yield client


class Store:
    """Where results are; only deleting is of interest here."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def remove(self, paths: list[str]) -> None:
        self.removed += paths


class Generator:
    """The part of one that sweeps, with the real ledger and the real Redis."""

    def __init__(self, database: LedgerDatabase, redis_url: str) -> None:
        self._database = database
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
        async def connected() -> T:
            redis = connect_async(self._redis_url, name="test")
            try:
                async with httpx.AsyncClient(timeout=30) as http:
                    client: Any = AsyncPostgrestClient(
                        self._database.rest_url, headers=self._database.service_headers, http_client=http
                    )
                    ledger = Ledger(SupabaseDatabase(client), Timing())
                    return await work(ledger, redis)
            finally:
                await redis.aclose()

        return asyncio.run(connected())


@pytest.fixture
def generator(ledger: LedgerDatabase, redis_server: RedisServer) -> Generator:
    return Generator(ledger, redis_server.url)


def let_wait(ledger: LedgerDatabase, redis: Redis, count: int) -> None:
    """So many sessions, the oldest an hour old, with a task each that was made 0.4 s after its row."""
    ledger.run(
        "insert into generation_sessions (user_id, model_image_url, prompt_system, created_at)"
        " select gen_random_uuid(), '', '', now() - make_interval(secs => 3600 - 3000.0 * n / %s)"
        " from generate_series(1, %s) n",
        count,
        count,
    )
    ledger.run("analyze generation_sessions")
    query = (
        "select id, to_char((created_at + interval '0.4 seconds') at time zone 'UTC',"
        ' \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\') as made from generation_sessions order by created_at'
    )
    rows = ledger.rows(query)
    for start in range(0, len(rows), 5000):
        redis.lpush(
            TASK_LIST,
            *(
                json.dumps({"session_id": str(row["id"]), "created_at": row["made"], "prompt": "x" * 400})
                for row in rows[start : start + 5000]
            ),
        )


def elements_read(redis: Redis) -> int:
    """How often a part of a list was read since the test began."""
    return int(redis.info("commandstats").get("cmdstat_lrange", {}).get("calls", 0))


def test_a_sweep_reads_no_queue_while_all_that_is_old_waits(
    ledger: LedgerDatabase, redis: Redis, generator: Generator
) -> None:
    """The row of the oldest waiting task is older than the task: it must not be taken for lost."""
    let_wait(ledger, redis, 5000)

    generator.sweep(3)

    assert elements_read(redis) == 0


def test_an_orphan_older_than_all_that_waits_is_found_among_it(
    ledger: LedgerDatabase, redis: Redis, generator: Generator
) -> None:
    let_wait(ledger, redis, 2000)
    orphan, young = ledger.b2c(age=3700), ledger.b2c(age=3630)

    assert generator.orphans() == {orphan.id}
    redis.delete(TASK_LIST)
    ledger.run("delete from generation_sessions where prompt_user is null and id <> %s and id <> %s",
               orphan.id, young.id)  # fmt: skip
    assert generator.orphans() == {orphan.id, young.id}


@pytest.mark.parametrize(
    "graces", [30, pytest.param(EIGHT_HOURS_OF_GRACES, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
)
def test_copies_of_recovered_jobs_stay_fewer_than_sessions_while_nobody_has_room(
    ledger: LedgerDatabase, redis: Redis, generator: Generator, graces: int
) -> None:
    """A generator died; the grace of a minute ends again and again, here at once."""
    held = [ledger.b2c() for _ in range(20)]
    for session in held:
        ledger.hold(session, str(session.id))
    expire = "update generation_ledger set lease_expires_at = now() - interval '5 seconds'"

    generator.sweep(graces, before_each=lambda: ledger.run(expire))

    assert redis.llen(CELERY_RETRY_QUEUE) == len(held)


def test_a_recovered_job_whose_copy_was_taken_is_published_again(
    ledger: LedgerDatabase, redis: Redis, generator: Generator
) -> None:
    session = ledger.b2c()
    ledger.hold(session, "killed")
    ledger.expire(session)
    generator.sweep()
    assert redis.llen(CELERY_RETRY_QUEUE) == 1
    redis.rpop(CELERY_RETRY_QUEUE)  # by a worker that died before it held the session
    ledger.expire(session)

    generator.sweep()

    assert redis.llen(CELERY_RETRY_QUEUE) == 1


@pytest.mark.parametrize("make", ["b2c", "b2b"])
def test_a_sweep_deletes_what_was_stored_for_a_deleted_session(
    ledger: LedgerDatabase, redis: Redis, generator: Generator, make: str
) -> None:
    session, kept = getattr(ledger, make)(), getattr(ledger, make)()
    ledger.complete(kept, "b", ledger.begin(kept, "b"))
    attempt = ledger.begin(session, "a")
    ledger.run(f"delete from {'generation_sessions' if make == 'b2c' else 'store_generation_sessions'}")
    assert ledger.complete(session, "a", attempt)["verdict"] == "settled"

    generator.sweep(2)

    assert generator.store.removed == [result_path(Channel(make), session.owner, session.id)]


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_a_sweep_costs_the_same_whether_nothing_waits_or_a_million_tasks_do(
    ledger: LedgerDatabase, redis: Redis, generator: Generator, figure: Callable[[str], None]
) -> None:
    took = {}
    for waiting in (0, 100_000, 1_000_000):
        ledger.reset()
        redis.flushall()
        let_wait(ledger, redis, waiting)
        generator.sweep()
        begun, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        generator.sweep(20)
        used = resource.getrusage(resource.RUSAGE_SELF)
        took[waiting] = (used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime) / 20
        figure(
            f"sweep with {waiting:,} waiting: {1000 * took[waiting]:.1f} ms of a core,"
            f" {1000 * (time.monotonic() - begun) / 20:.1f} ms"
        )

    assert took[1_000_000] < 2 * took[0] + 0.01
