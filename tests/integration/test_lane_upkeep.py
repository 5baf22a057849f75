"""What the elected generator brings from the database to the lanes: rules, and what was cancelled there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import uuid4

import pytest
from integration.database import LedgerDatabase, Session
from integration.sweeping import run_connected
from prometheus_client import CollectorRegistry
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from wearon_contracts.place import PLACE_SCRIPT, read_place
from wearon_contracts.queues import (
    CELERY_QUEUE,
    LANE_IN_WORK_PREFIX,
    LANE_NEXT,
    LANE_RULES,
    TASKS_AHEAD,
    TASKS_KEPT,
    lane_of,
)
from wearon_generator.lanes import LaneUpkeep
from wearon_generator.ledger import Ledger
from wearon_generator.metrics import Metrics
from wearon_local.redis_server import RedisServer
from wearon_service_kit.lanes import lane_script

INTERVAL: Final = 60.0
ENQUEUE: Final = lane_script("enqueue(ARGV[1], ARGV[2], ARGV[3], ARGV[4])")


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        client.flushall()
        client.set(TASKS_AHEAD, 1)
        yield client


class Caretaker:
    """The part of a generator that looks after lanes, with the real ledger and the real Redis."""

    def __init__(self, database: LedgerDatabase, redis_url: str) -> None:
        self._database = database
        self._redis_url = redis_url
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry)
        self.now = 0.0  # seconds by its clock

    def look(self, *at: float, after_each: Callable[[], object] = lambda: None) -> None:
        """A replica that was just elected looks at each of these times, or once."""

        async def work(ledger: Ledger, redis: AsyncRedis) -> None:
            upkeep = LaneUpkeep(redis, ledger, self._metrics, lambda: self.now, interval=INTERVAL)
            for self.now in at or (0.0,):
                await upkeep.look()
                after_each()

        run_connected(work, self._database.rest_url, self._database.service_headers, self._redis_url)

    @property
    def cancelled(self) -> float:
        labels = {"channel": "b2c", "outcome": "cancelled"}
        return self._registry.get_sample_value("wearon_generator_jobs_total", labels) or 0.0


@pytest.fixture
def caretaker(ledger: LedgerDatabase, redis_server: RedisServer) -> Caretaker:
    return Caretaker(ledger, redis_server.url)


def lane(session: Session) -> str:
    return lane_of(session.channel, session.owner)


def wait_in_lane(redis: Redis, *sessions: Session) -> None:
    for number, session in enumerate(sessions):
        redis.eval(ENQUEUE, 0, lane(session), str(session.id), number, f"task of {session.id}")


def jobs_before(redis: Redis, session: Session) -> int | None:
    answer: Any = redis.eval(PLACE_SCRIPT, 0, str(session.id), lane(session))
    place = read_place(answer)
    return None if place is None else place.before


def start_all(redis: Redis) -> list[str]:
    feed = lane_script("return feed(100, true)")
    assert redis.eval(feed, 0) is not None
    found: Any = redis.lrange(CELERY_QUEUE, 0, -1)
    return list(found)


# ------------------------------------------------------------------------------------------ cancellations


def test_cancelled_task_leaves_its_lane_and_counts_no_more(
    ledger: LedgerDatabase, redis: Redis, caretaker: Caretaker
) -> None:
    user = ledger.user()
    first, cancelled, last, other = ledger.b2c(user), ledger.b2c(user), ledger.b2c(user), ledger.b2c()
    wait_in_lane(redis, first, cancelled, last, other)
    assert jobs_before(redis, last) == 3
    assert ledger.cancel(cancelled, token=ledger.user_token(user))["verdict"] == "cancelled"

    caretaker.look()

    assert jobs_before(redis, cancelled) is None
    assert jobs_before(redis, last) == 2
    assert not redis.hexists(TASKS_KEPT, str(cancelled.id))
    started = start_all(redis)
    assert sorted(started) == sorted(f"task of {session.id}" for session in (first, last, other))
    assert caretaker.cancelled == 1


def test_task_that_comes_after_its_cancellation_was_looked_for_leaves_too(
    ledger: LedgerDatabase, redis: Redis, caretaker: Caretaker
) -> None:
    session, other = ledger.b2c(), ledger.b2c()
    wait_in_lane(redis, other)
    ledger.cancel(session)
    places: list[int | None] = []

    def come_to_lane() -> None:
        places.append(jobs_before(redis, session))
        if len(places) == 1:
            wait_in_lane(redis, session)
            places.append(jobs_before(redis, session))

    caretaker.look(0.0, 10.0, after_each=come_to_lane)
    assert places == [None, 1, None]
    assert jobs_before(redis, other) == 0


def test_every_one_of_very_many_cancellations_is_found(
    ledger: LedgerDatabase, redis: Redis, caretaker: Caretaker
) -> None:
    """More than are asked for at once, all before those of sessions that wait."""
    ledger.run(
        "insert into generation_ledger"
        " (channel, session_id, owner_id, state, outcome, settled_by, settled_at, error_code)"
        " select 'b2c', gen_random_uuid(), gen_random_uuid(), 'settled', 'failed', 'cancellation',"
        " now() - make_interval(secs => 7200 - n), 'cancelled' from generate_series(1, 2500) n"
    )
    session, other = ledger.b2c(), ledger.b2c()
    wait_in_lane(redis, session, other)
    ledger.cancel(session)
    places: list[int | None] = []
    caretaker.look(0.0, 10.0, 20.0, after_each=lambda: places.append(jobs_before(redis, session)))
    assert places == [0, 0, None]


def test_task_that_is_with_celery_already_stays(
    ledger: LedgerDatabase, redis: Redis, caretaker: Caretaker
) -> None:
    """The generator that takes it is turned away by the ledger."""
    session, other = ledger.b2c(), ledger.b2c()
    wait_in_lane(redis, session, other)
    redis.eval(lane_script("return feed(1)"), 0)
    ledger.cancel(session)
    caretaker.look()
    assert redis.llen(CELERY_QUEUE) == 1
    assert redis.hexists(TASKS_KEPT, str(session.id))
    assert caretaker.cancelled == 0


# ------------------------------------------------------------------------------------------ rules


def set_in_database(ledger: LedgerDatabase, lane: str, **limits: int) -> None:
    columns = ", ".join(limits)
    values = ", ".join(str(value) for value in limits.values())
    ledger.run(f"insert into generation_lane_rules (lane, {columns}) values ('{lane}', {values})")


def rules_in_redis(redis: Redis) -> dict[str, Any]:
    stored: Any = redis.hgetall(LANE_RULES)
    return {lane: json.loads(rule) for lane, rule in stored.items()}


def test_rules_are_back_after_redis_has_lost_its_data(
    ledger: LedgerDatabase, redis: Redis, caretaker: Caretaker
) -> None:
    first, second = f"store:{uuid4()}", f"user:{uuid4()}"
    set_in_database(ledger, first, share=20, per_minute=30)
    set_in_database(ledger, second, in_work=1)
    wanted = {first: {"share": 20, "per_minute": 30}, second: {"in_work": 1}}
    caretaker.look()
    assert rules_in_redis(redis) == wanted
    redis.flushall()
    caretaker.look()
    assert rules_in_redis(redis) == wanted


def test_rule_that_the_database_does_not_know_is_forgotten_with_its_counts(
    ledger: LedgerDatabase, redis: Redis, caretaker: Caretaker
) -> None:
    kept, gone = f"store:{uuid4()}", f"store:{uuid4()}"
    set_in_database(ledger, kept, share=2)
    redis.hset(LANE_RULES, mapping={kept: "no JSON", gone: '{"in_work": 1}', b"\xff": "{}"})
    redis.hset(LANE_NEXT, gone, 1)
    redis.zadd(LANE_IN_WORK_PREFIX + gone, {str(uuid4()): 1})
    caretaker.look()
    assert rules_in_redis(redis) == {kept: {"share": 2}}
    assert not redis.exists(LANE_NEXT, LANE_IN_WORK_PREFIX + gone)


def test_rules_are_looked_for_once_a_minute_while_no_task_waits(
    ledger: LedgerDatabase, redis: Redis, caretaker: Caretaker
) -> None:
    lane, seen = f"store:{uuid4()}", list[dict[str, Any]]()

    def change_rule() -> None:
        seen.append(rules_in_redis(redis))
        if len(seen) == 1:
            set_in_database(ledger, lane, share=2)

    caretaker.look(0.0, INTERVAL - 1, INTERVAL, after_each=change_rule)
    assert seen == [{}, {}, {lane: {"share": 2}}]
