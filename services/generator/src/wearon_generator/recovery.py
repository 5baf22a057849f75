"""Looks after sessions whose worker died or whose task was lost, at start and ever after.

Safe with any number of replicas: what a live replica holds, and what waits in any queue, is never touched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.results import result_path
from wearon_contracts.tasks import Channel
from wearon_generator.lanes import HandedTasks
from wearon_generator.ledger import Ledger, Session
from wearon_generator.metrics import Metrics
from wearon_generator.queue_scan import QueueScan
from wearon_generator.smaller_batches import in_smaller_batches
from wearon_generator.storage import ResultStore
from wearon_generator.supabase_client import QUERY_CANCELED, StatementTimeout, SupabaseUnavailable
from wearon_generator.timing import Clock, Now, Timing, utc_now
from wearon_service_kit.background import Background

log = structlog.get_logger()

BATCH: Final = 100  # sessions in one call, which must end within the statement timeout of 8 s
ROW_BEFORE_TASK: Final = 0.2
"""A session's row is older than its task, which the application pushes last. A row that is older than the
oldest waiting task by less than this part of STUCK_AFTER_SECONDS (a minute of its default) may well be the
session of that task. A b2c row is refunded without proof of payment: the application must take the credit
before the row can be seen, or delete the row when the payment fails."""
PAUSE_PER_ELEMENT: Final = 0.0012
"""Seconds until all queues may be read again, for each element that was read. Reading one twice takes 24 µs,
so a fiftieth of a core is spent at most: 8,000 waiting are read at every sweep, a million every 20 min."""


class Broker(Protocol):
    """Where tasks wait for a worker. Each method blocks, and raises kombu's `OperationalError`."""

    def publish_again(self, task: dict[str, Any]) -> None:
        """Put a task that the ledger kept back on the queue, ahead of new ones."""
        ...

    def deliver_again(self, delivery_tag: str) -> None:
        """Put a message that a worker took and did not acknowledge back on its queue."""
        ...


@dataclass(frozen=True, slots=True)
class Swept:
    """How many jobs and unheld messages went back to the queue, how many sessions were failed, and how many
    objects that nobody may see were deleted."""

    recovered: int
    redelivered: int
    put_back: int
    reaped: int
    deleted: int


class Queues(Protocol):
    """Knows which recovered jobs still wait to be taken."""

    async def waiting_again(self, wanted: set[str]) -> set[str]:
        """Which of these session ids have a task in the queue of those that have waited before."""
        ...


class ScanBudget:
    """Keeps full reads of the queues to a share of a core, however much waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_at = 0.0

    def allows(self) -> bool:
        """Whether all queues may be read now."""
        return self._clock() >= self._next_at

    def spend(self, elements: int) -> None:
        """Take note that queues of so many elements were read."""
        self._next_at = self._clock() + elements * PAUSE_PER_ELEMENT


async def recover_jobs(
    ledger: Ledger,
    queues: Queues,
    broker: Broker,
    metrics: Metrics,
    is_held_here: Callable[[Session], bool],
) -> int:
    """Put jobs whose leases ran out back on the queue; each lease is extended before its job is published.

    A session that this process holds itself stays with it: its next renewal makes up for the lost ones. One
    whose copy still waits, because nobody had room for it, is not published a second time, so there are never
    more copies than sessions. Returns how many were published.
    """
    rows = await ledger.recover(BATCH)
    waiting = await queues.waiting_again({row["session_id"] for row in rows}) if rows else set()
    recovered = 0
    for row in rows:
        task = row["task"]
        if is_held_here(Session(Channel(row["channel"]), UUID(row["session_id"]))):
            log.warning("own_lease_expired", session_id=row["session_id"], channel=row["channel"])
            continue
        if row["session_id"] in waiting:
            continue
        await asyncio.to_thread(broker.publish_again, task)
        recovered += 1
        metrics.recovered.inc()
        log.warning(
            "job_recovered",
            request_id=task.get("request_id"),
            session_id=row["session_id"],
            channel=row["channel"],
            attempts_so_far=row["attempt"],
        )
    return recovered


async def clear_up_after_dead_workers(
    ledger: Ledger, queues: QueueScan, broker: Broker, metrics: Metrics, timing: Timing, *, now: Now
) -> int:
    """Look after messages that were taken at least a lease ago and never acknowledged.

    Where nobody has come to hold the session, the worker must be dead: the ledger cannot tell of it and the
    broker would wait for its visibility timeout, so the message is put back. Should the worker live after
    all, the second delivery is one of those that the ledger turns away. Where the session is settled, the
    message is forgotten. Returns how many were put back.
    """
    taken = await queues.taken_before(now() - timedelta(seconds=timing.lease))
    settled = await ledger.settled_among(taken.values()) if taken else {}
    await queues.forget_taken(tag for tag, session_id in taken.items() if settled.get(session_id))
    unheld = {tag: session_id for tag, session_id in taken.items() if session_id not in settled}
    for tag, session_id in unheld.items():
        await asyncio.to_thread(broker.deliver_again, tag)
        metrics.redelivered.inc()
        log.warning("message_redelivered", session_id=session_id)
    return len(unheld)


async def put_back_lost_tasks(
    ledger: Ledger, queues: QueueScan, handed: HandedTasks, metrics: Metrics, timing: Timing
) -> int:
    """Put back tasks whose message a dying worker took out of Celery's queue and never held.

    Celery notes down what it takes only after it has taken it, so such a message is nowhere any more; the
    lanes still keep it. Nothing is put back that the ledger knows, or that a queue or a worker has.
    """
    before = await handed.older_than(timing.lease)
    known = await ledger.settled_among(before) if before else {}
    await handed.forget(set(known))
    lost = set(before) - set(known)
    # Twice, so that a message which moves between two places during the first look is met in the second.
    for _ in range(2):
        lost -= await queues.sessions_in_celery(lost)
    count = 0
    for session_id in lost:
        if await handed.put_back(session_id, before[session_id]):
            count += 1
            metrics.put_back.inc()
            log.warning("lost_task_put_back", session_id=session_id)
    return count


async def find_orphans(
    ledger: Ledger, queues: QueueScan, stuck_after: int, budget: ScanBudget, now: Now = utc_now
) -> list[Session]:
    """Sessions that nothing in Redis and nobody in the ledger will ever run, at most `BATCH`.

    Candidates are older than whatever waits, so that usually there are none and no queue is read. Where there
    are, they are told by reading all queues, as often as `budget` allows. While no session is old enough,
    Redis is asked nothing at all.
    """
    if not await ledger.orphans(now(), stuck_after, 1):
        return []
    oldest = await queues.oldest()
    before = (
        now() if oldest is None else min(now(), oldest - timedelta(seconds=ROW_BEFORE_TASK * stuck_after))
    )
    candidates = await ledger.orphans(before, stuck_after, BATCH)
    if not candidates or not budget.allows():
        return []
    budget.spend(await queues.length())
    # Twice, so that a task which a consumer's recovery moves back during the first look is met in the second.
    for _ in range(2):
        if candidates:
            waiting = await queues.sessions_among({str(session.session_id) for session in candidates})
            candidates = [session for session in candidates if str(session.session_id) not in waiting]
    return candidates


async def fail_orphans(
    ledger: Ledger, orphans: list[Session], stuck_after: int, code: ErrorCode
) -> list[dict[str, Any]]:
    """Fail and refund these, in ever smaller batches where one takes longer than a statement may.

    One that takes too long alone is set aside for a person, so that it holds up no other. Returns what
    `Ledger.reap` answers for each.
    """
    answers: list[dict[str, Any]] = []

    async def reap(some: list[Session]) -> None:
        answers.extend(await ledger.reap(some, stuck_after, code, sentence(code)))

    async def set_aside(orphan: Session) -> None:
        answers.append(await ledger.set_aside(orphan, stuck_after, QUERY_CANCELED))

    def took_too_long(error: Exception) -> bool:
        return isinstance(error, StatementTimeout)

    await in_smaller_batches(orphans, reap, is_spoilt=took_too_long, alone=set_aside)
    return answers


async def reap_orphans(
    ledger: Ledger,
    queues: QueueScan,
    stuck_after: int,
    *,
    budget: ScanBudget,
    metrics: Metrics,
    now: Now,
) -> int:
    """Fail and refund what `find_orphans` finds."""
    orphans = await find_orphans(ledger, queues, stuck_after, budget, now)
    if not orphans:
        return 0
    code = ErrorCode.STUCK
    reaped = 0
    for row in await fail_orphans(ledger, orphans, stuck_after, code):
        if row["verdict"] == "set_aside":
            metrics.flagged.inc()
            log.error("session_set_aside", session_id=row["session_id"], error=row["error"])
        if row["verdict"] != "failed":
            continue
        reaped += 1
        metrics.reaped.inc()
        refund = (row.get("refund") or {}).get("state")
        metrics.count_failure(code, refund, bool(row.get("flagged")))
        log.warning(
            "session_reaped",
            session_id=row["session_id"],
            channel=row["channel"],
            code=code.value,
            refund=refund,
        )
    return reaped


async def delete_unwanted_objects(ledger: Ledger, store: ResultStore) -> int:
    """Delete what was stored for sessions that ended without a result, and take note; returns how many."""
    objects = await ledger.unwanted_objects(BATCH)
    if not objects:
        return 0
    paths = [
        result_path(Channel(entry["channel"]), UUID(entry["owner_id"]), UUID(entry["session_id"]))
        for entry in objects
    ]
    await store.remove(paths)
    await ledger.objects_deleted(objects)
    for entry in objects:
        log.info("unwanted_object_deleted", session_id=entry["session_id"], channel=entry["channel"])
    return len(objects)


async def cleanup_stuck_sessions(
    ledger: Ledger,
    queues: QueueScan,
    store: ResultStore,
    handed: HandedTasks,
    *,
    broker: Broker,
    is_held_here: Callable[[Session], bool],
    stuck_after: int,
    budget: ScanBudget,
    timing: Timing,
    now: Now,
    metrics: Metrics,
) -> Swept:
    """One sweep: recover what a dead worker held or was about to hold, then end what was lost.

    Raises `SupabaseUnavailable`, `RedisError` or kombu's `OperationalError`; the next sweep goes on where
    this one stopped.
    """
    recovered = await recover_jobs(ledger, queues, broker, metrics, is_held_here)
    redelivered = put_back = 0
    if await handed.any():
        redelivered = await clear_up_after_dead_workers(ledger, queues, broker, metrics, timing, now=now)
        put_back = await put_back_lost_tasks(ledger, queues, handed, metrics, timing)
    reaped = await reap_orphans(ledger, queues, stuck_after, budget=budget, metrics=metrics, now=now)
    deleted = await delete_unwanted_objects(ledger, store)
    return Swept(recovered, redelivered, put_back, reaped, deleted)


class Elects(Protocol):
    """Tells which replica sweeps; see `Election`."""

    async def won(self) -> bool:
        """Whether this one does."""

    async def resign(self) -> None:
        """Leave it to another."""


class Sweeper:
    """Looks after Supabase every sweep interval, and sweeps if this replica is elected to.

    Nobody sweeps who found Supabase unavailable within the last lease. While it was, nobody could renew, so
    everybody is left one lease to do so. The look tells when that ended: a sweep that failed a while ago says
    nothing of the time since. So does a renewal of our own that failed.
    """

    def __init__(
        self,
        timing: Timing,
        clock: Clock,
        *,
        look: Callable[[], Awaitable[None]],
        sweep: Callable[[], Awaitable[object]],
        election: Elects,
    ) -> None:
        """`look`: asks Supabase for something cheap; `sweep`: does one sweep."""
        self._timing = timing
        self._clock = clock
        self._look = look
        self._sweep = sweep
        self._election = election
        self._resume_at = 0.0
        self._background = Background("sweeper")

    def start(self) -> None:
        """Sweep now, and then periodically."""
        self._background.start(self._run())

    async def stop(self) -> None:
        """Sweep no more, and let another replica do it at once."""
        await self._background.stop()
        await self._resign()

    def supabase_was_unavailable(self) -> None:
        """Take note that it was unavailable just now."""
        self._resume_at = self._clock() + self._timing.lease

    async def _run(self) -> None:
        while True:
            await self._once()
            # Replicas that start together should not sweep together.
            await asyncio.sleep(self._timing.sweep_interval * random.uniform(0.9, 1.1))  # noqa: S311

    async def _once(self) -> None:
        try:
            await self._look()
            if self._clock() >= self._resume_at and await self._election.won():
                await self._sweep()
            return
        except SupabaseUnavailable as error:
            self.supabase_was_unavailable()
            log.warning("sweep_failed", reason=str(error))
        except (RedisError, OperationalError, OSError) as error:
            log.warning("sweep_failed", reason=type(error).__name__)
        except Exception:
            log.exception("sweep_crashed")
        await self._resign()

    async def _resign(self) -> None:
        # What cannot be said now is said by the key's expiry.
        with suppress(RedisError, OSError):
            await self._election.resign()
