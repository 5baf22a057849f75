"""Looks after sessions whose worker died or whose task was lost, at start and ever after.

Safe with any number of replicas: what a live replica holds, and what waits in any queue, is never touched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.tasks import Channel
from wearon_generator.ledger import Ledger, Session
from wearon_generator.metrics import Metrics
from wearon_generator.queue_scan import QueueScan
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Clock, Now, Timing, utc_now
from wearon_service_kit.background import Background

log = structlog.get_logger()

BATCH: Final = 100


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
    """How many jobs and unheld messages went back to the queue, and how many sessions were failed."""

    recovered: int
    redelivered: int
    reaped: int


async def recover_jobs(
    ledger: Ledger, broker: Broker, metrics: Metrics, is_held_here: Callable[[Session], bool]
) -> int:
    """Put jobs whose leases ran out back on the queue; each lease is extended before its job is published.

    A session that this process holds itself stays with it: its next renewal makes up for the lost ones.
    """
    rows = await ledger.recover(BATCH)
    recovered = 0
    for row in rows:
        task = row["task"]
        if is_held_here(Session(Channel(row["channel"]), UUID(row["session_id"]))):
            log.warning("own_lease_expired", session_id=row["session_id"], channel=row["channel"])
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


async def find_orphans(
    ledger: Ledger, queues: QueueScan, stuck_after: int, now: Now = utc_now
) -> list[Session]:
    """Sessions that nothing in Redis and nobody in the ledger will ever run, at most `BATCH`."""
    oldest = await queues.oldest()
    before = min(oldest or now(), now())
    candidates = await ledger.orphans(before, stuck_after, BATCH)
    # Twice, so that a task which a consumer's recovery moves back during the first look is met in the second.
    for _ in range(2):
        if not candidates:
            break
        waiting = await queues.sessions_among({str(session.session_id) for session in candidates})
        candidates = [session for session in candidates if str(session.session_id) not in waiting]
    return candidates


async def reap_orphans(
    ledger: Ledger, queues: QueueScan, stuck_after: int, metrics: Metrics, now: Now
) -> int:
    """Fail and refund what `find_orphans` finds."""
    orphans = await find_orphans(ledger, queues, stuck_after, now)
    if not orphans:
        return 0
    code = ErrorCode.STUCK
    results = await ledger.reap(orphans, stuck_after, code, sentence(code))
    reaped = [row for row in results if row["verdict"] == "failed"]
    for row in reaped:
        refund = (row.get("refund") or {}).get("state")
        metrics.reaped.inc()
        metrics.count_failure(code, refund, bool(row.get("flagged")))
        log.warning(
            "session_reaped",
            session_id=row["session_id"],
            channel=row["channel"],
            code=code.value,
            refund=refund,
        )
    return len(reaped)


async def cleanup_stuck_sessions(
    ledger: Ledger,
    queues: QueueScan,
    *,
    broker: Broker,
    is_held_here: Callable[[Session], bool],
    stuck_after: int,
    timing: Timing,
    now: Now,
    metrics: Metrics,
) -> Swept:
    """One sweep: recover what a dead worker held or was about to hold, then reap what was lost.

    Raises `SupabaseUnavailable`, `RedisError` or kombu's `OperationalError`; the next sweep goes on where
    this one stopped.
    """
    recovered = await recover_jobs(ledger, broker, metrics, is_held_here)
    redelivered = await clear_up_after_dead_workers(ledger, queues, broker, metrics, timing, now=now)
    reaped = await reap_orphans(ledger, queues, stuck_after, metrics, now)
    return Swept(recovered, redelivered, reaped)


class Sweeper:
    """Looks after Supabase every sweep interval, and sweeps unless it was unavailable within the last lease.

    While it was, nobody could renew, so everybody is left one lease to do so. The look tells when that ended:
    a sweep that failed a while ago says nothing of the time since. So does a renewal of our own that failed.
    """

    def __init__(
        self,
        timing: Timing,
        clock: Clock,
        *,
        look: Callable[[], Awaitable[None]],
        sweep: Callable[[], Awaitable[object]],
    ) -> None:
        """`look`: asks Supabase for something cheap; `sweep`: does one sweep."""
        self._timing = timing
        self._clock = clock
        self._look = look
        self._sweep = sweep
        self._resume_at = 0.0
        self._background = Background("sweeper")

    def start(self) -> None:
        """Sweep now, and then periodically."""
        self._background.start(self._run())

    async def stop(self) -> None:
        """Sweep no more."""
        await self._background.stop()

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
            if self._clock() >= self._resume_at:
                await self._sweep()
        except SupabaseUnavailable as error:
            self.supabase_was_unavailable()
            log.warning("sweep_failed", reason=str(error))
        except (RedisError, OperationalError, OSError) as error:
            log.warning("sweep_failed", reason=type(error).__name__)
        except Exception:
            log.exception("sweep_crashed")
