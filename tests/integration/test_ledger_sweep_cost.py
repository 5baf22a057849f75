"""What a sweep costs while much waits, and how often it publishes what nobody has room for."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from integration.database import LedgerDatabase
from integration.sweeping import Generator, let_wait
from redis import Redis

from wearon_contracts.queues import CELERY_RETRY_QUEUE, TASK_LIST
from wearon_contracts.results import result_path
from wearon_contracts.tasks import Channel
from wearon_local.redis_server import RedisServer

EIGHT_HOURS_OF_GRACES: Final = 8 * 60


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        client.flushall()
        client.config_resetstat()
        yield client


@pytest.fixture
def generator(ledger: LedgerDatabase, redis_server: RedisServer) -> Generator:
    return Generator(ledger.rest_url, ledger.service_headers, redis_server.url)


def elements_read(redis: Redis) -> int:
    """How often a part of a list was read since the test began."""
    return int(redis.info("commandstats").get("cmdstat_lrange", {}).get("calls", 0))


def test_a_sweep_reads_no_queue_while_all_that_is_old_waits(
    ledger: LedgerDatabase, redis: Redis, generator: Generator
) -> None:
    """The row of the oldest waiting task is older than the task: it must not be taken for lost."""
    let_wait(ledger.server.url, redis, 5000)

    generator.sweep(3)

    assert elements_read(redis) == 0


def test_an_orphan_older_than_all_that_waits_is_found_among_it(
    ledger: LedgerDatabase, redis: Redis, generator: Generator
) -> None:
    let_wait(ledger.server.url, redis, 2000)
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
        let_wait(ledger.server.url, redis, waiting)
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
