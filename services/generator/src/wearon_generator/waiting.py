"""A job from a task in hand until it may be worked on: hold, prepare the pictures, wait for a slot, claim.

It may also be turned away, or give the task back to the queue; `attempt` has what follows a claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar, assert_never
from uuid import uuid4

import structlog

from wearon_contracts.errors import ErrorCode
from wearon_contracts.queues import CELERY_QUEUE
from wearon_contracts.tasks import DeadLetterReason, GenerationTask
from wearon_generator.activity import Activity
from wearon_generator.attempt import Attempt, Failure, Workshop, prepare_pictures
from wearon_generator.end_users import end_user
from wearon_generator.endings import Done, Ending, Outcome, Retry, RetryReason
from wearon_generator.leases import Lease, LeaseKeeper
from wearon_generator.ledger import Claim, ClaimVerdict, Decision, Held, HoldVerdict, Session
from wearon_generator.quarantine import Quarantine, QuarantinePlace
from wearon_generator.rejection import Rejections
from wearon_generator.slots import Priority
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_service_kit.background import end
from wearon_service_kit.logs import job_context
from wearon_service_kit.tracing import Attributes

log = structlog.get_logger()
T = TypeVar("T")


_PROCESS: Final = "process generation"
_PROCESS_ATTRIBUTES: Final[Attributes] = {
    "messaging.system": "celery",
    "messaging.operation.type": "process",
    "messaging.destination.name": CELERY_QUEUE,
}
_OTHERS_GO_ON: Final = frozenset({Outcome.HELD_ELSEWHERE, Outcome.LOST, Outcome.ABANDONED})
"""The task has not ended: another delivery of it, or the sweep, goes on."""


_NO_ATTEMPT: Final = 0
"""Of a session that was not claimed: to ask with it changes nothing."""


class _LeaseLost(Exception):
    """Another replica has taken the session over."""


class _GiveBack(Exception):
    """The task is to go back to the queue."""

    def __init__(self, reason: RetryReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def turned_away(decision: Decision[Any]) -> Done:
    """How a delivery ends whose session was found settled."""
    log.info("job_turned_away", verdict="cancelled" if decision.cancelled else "settled")
    return Done(Outcome.CANCELLED if decision.cancelled else Outcome.SETTLED)


class JobRunner:
    """Runs the jobs that Celery delivers."""

    def __init__(
        self,
        workshop: Workshop,
        leases: LeaseKeeper,
        rejections: Rejections,
        activity: Activity,
        *,
        replica: str,
    ) -> None:
        self._workshop = workshop
        self._activity = activity
        self._leases = leases
        self._quarantine = Quarantine(workshop.metrics)
        self._rejections = rejections
        self._replica = replica
        self._ledger = workshop.ledger.with_retry(
            workshop.keep_trying(for_seconds=workshop.timing.patience_before_hold, until_stop=True)
        )

    async def process(self, task: GenerationTask, *, returned: bool, earlier: str | None = None) -> Ending:
        """Do everything for one delivery of `task`; `returned`: it has waited in the queue before.

        `earlier`: the `traceparent` of the attempt before, if there was one and it was traced.
        """
        tracer = self._workshop.tracer
        with (
            self._activity.job(),
            job_context(
                request_id=task.request_id, session_id=str(task.session_id), channel=task.channel.value
            ),
            tracer.span(
                _PROCESS, "consumer", _PROCESS_ATTRIBUTES, parent=task.traceparent, earlier=earlier
            ) as span,
        ):
            ending = await self._process(task, returned)
            if isinstance(ending, Done) and ending.outcome not in _OTHERS_GO_ON:
                self._workshop.lanes.ended(task)
            span.describe({"wearon.outcome": ending.label})
            return ending

    async def _process(self, task: GenerationTask, returned: bool) -> Ending:
        held = Held(Session(task.channel, task.session_id), f"{self._replica}/{uuid4().hex}")
        try:
            # A span of its own, sent while the job goes on: should the process die, it is what is left of the
            # attempt, and what the next one is linked to.
            with self._workshop.tracer.span("hold session") as attempt:
                decision = await self._ledger.hold(task, held.holder, attempt.traceparent)
        except SupabaseUnavailable as error:
            log.warning("job_given_back", reason=RetryReason.SUPABASE_UNAVAILABLE.value, detail=str(error))
            return Retry(RetryReason.SUPABASE_UNAVAILABLE, attempt=attempt.traceparent)
        ending = await self._decided(task, held, decision, returned)
        return replace(ending, attempt=attempt.traceparent) if isinstance(ending, Retry) else ending

    async def _decided(
        self, task: GenerationTask, held: Held, decision: Decision[HoldVerdict], returned: bool
    ) -> Ending:
        match decision.verdict:
            case "held":
                log.info("job_held", attempts_so_far=decision.attempt)
                person = end_user(self._workshop.hash_key, task, decision.shopper_email)
                return await self._run_held(task, replace(held, end_user=person), decision, returned)
            case "session_not_found":
                detail = "no session row with this id and channel"
                return await self._rejections.set_aside(task, DeadLetterReason.SESSION_NOT_FOUND, detail)
            case "owner_mismatch":
                detail = "the session belongs to another owner"
                await self._rejections.set_aside(task, DeadLetterReason.OWNER_MISMATCH, detail)
                return await self._rejections.reject(held.session, ErrorCode.INVALID_TASK)
            case "settled":
                return turned_away(decision)
            case "held_elsewhere":
                log.info("job_turned_away", verdict=decision.verdict)
                return Done(Outcome.HELD_ELSEWHERE)
            case other:
                assert_never(other)

    async def _run_held(
        self, task: GenerationTask, held: Held, decision: Decision[HoldVerdict], returned: bool
    ) -> Ending:
        priority = Priority.RETURNED_JOB if returned or decision.attempt > 0 else Priority.NEW_JOB
        place = self._quarantine.place(decision)
        with self._leases.keep(held) as lease:
            try:
                return await HeldJob(self._workshop, task, lease, priority, place).run(decision.due_in)
            finally:
                place.leave()
                await self._workshop.breaker.inconclusive(held.holder)


class HeldJob:
    """A job whose session this process holds."""

    def __init__(
        self,
        workshop: Workshop,
        task: GenerationTask,
        lease: Lease,
        priority: Priority,
        place: QuarantinePlace,
    ) -> None:
        self._workshop = workshop
        self._task = task
        self._lease = lease
        self._held = lease.held
        self._priority = priority
        self._place = place
        self._metrics = workshop.metrics
        timing = workshop.timing
        self._keep_trying = workshop.keep_trying(lease, for_seconds=timing.deadline)
        self._ledger = workshop.ledger.with_retry(self._keep_trying)
        self._releasing = workshop.ledger.with_retry(
            workshop.keep_trying(for_seconds=timing.release_patience)
        )
        self._held_at = workshop.clock()
        self._give_up_at = self._held_at + timing.longest_wait

    async def run(self, due_in: float | None) -> Ending:
        """Wait (at least until the job is due, in so many seconds), claim, and work on it."""
        self._metrics.waiting.inc()
        try:
            claimed = await self._until_claimed(due_in)
        except _LeaseLost:
            return await self._lost()
        except _GiveBack as giving_back:
            return await self._give_back(giving_back.reason)
        except SupabaseUnavailable:
            if self._lease.lost.is_set():
                return await self._lost()
            return await self._give_back(RetryReason.SUPABASE_UNAVAILABLE)
        finally:
            self._metrics.waiting.dec()
            self._metrics.steps.labels(step="wait").observe(self._workshop.clock() - self._held_at)
        if isinstance(claimed, Done):
            return claimed
        self._workshop.lanes.started(self._task)
        attempt, number = claimed
        with job_context(attempt=number):
            waited = round(self._workshop.clock() - self._held_at, 2)
            log.info("session_processing", waited_seconds=waited)
            return await attempt.run()

    async def _until_claimed(self, due_in: float | None) -> tuple[Attempt, int] | Done:
        pictures: list[bytes] | Failure | None = None
        if self._place.is_suspect:
            await self._unless_interrupted(self._place.enter())
        while True:
            if due_in is not None:
                await self._unless_interrupted(asyncio.sleep(due_in))
            if pictures is None and not self._place.is_suspect:
                pictures = await self._unless_interrupted(self._prepare())
            has_slot = not isinstance(pictures, Failure)
            if has_slot:
                with self._workshop.tracer.span("wait for a slot"):
                    await self._unless_interrupted(
                        self._workshop.line.take(self._priority, self._held.holder)
                    )
            decision, was_repeated = await self._claim(call_begins=isinstance(pictures, list))
            if has_slot and not was_repeated and decision.verdict not in ("claimed", "poison"):
                self._workshop.line.pass_on()
            match decision.verdict:
                case "claimed" | "poison":
                    attempt = Attempt(
                        self._workshop,
                        self._task,
                        Claim(self._held, decision.attempt),
                        self._lease,
                        pictures=pictures,
                        has_slot=has_slot and not was_repeated,
                        call_noted=isinstance(pictures, list),
                        poison=decision.verdict == "poison",
                    )
                    return attempt, decision.attempt
                case "not_due":
                    due_in = decision.due_in
                case "settled":
                    return turned_away(decision)
                case "lost":
                    raise _LeaseLost
                case other:
                    assert_never(other)

    async def _prepare(self) -> list[bytes] | Failure:
        try:
            return await prepare_pictures(self._workshop, self._task)
        except Failure as failure:
            return failure  # the session can be failed once it is claimed

    async def _claim(self, *, call_begins: bool) -> tuple[Decision[ClaimVerdict], bool]:
        """The decision, and whether the claim had to be repeated: then the slot is for a time gone by."""
        failures = self._keep_trying.failures
        decision = await self._ledger.claim(self._held, call_begins=call_begins)
        return decision, self._keep_trying.failures > failures

    async def _unless_interrupted(self, wanted: Coroutine[Any, Any, T]) -> T:
        """What `wanted` returns, unless there is a reason not to wait for it any longer."""
        work = asyncio.create_task(wanted)
        lost = asyncio.create_task(self._lease.lost.wait())
        stopping = asyncio.create_task(self._workshop.stopping.event.wait())
        try:
            left = max(0.0, self._give_up_at - self._workshop.clock())
            await asyncio.wait({work, lost, stopping}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise _LeaseLost
            if stopping.done():
                raise _GiveBack(RetryReason.STOPPING)
            if not work.done():
                raise _GiveBack(RetryReason.TOO_LONG)
            return work.result()
        finally:
            for task in (work, lost, stopping):
                await end(task)

    async def _lost(self) -> Ending:
        # A session that was settled is held by nobody, so that a cancellation shows as a lost lease.
        with suppress(SupabaseUnavailable):
            decision = await self._releasing.check(Claim(self._held, _NO_ATTEMPT))
            if decision.verdict == "settled":
                return turned_away(decision)
        self._metrics.leases_lost.inc()
        log.warning("lease_lost", while_doing="waiting")
        return Done(Outcome.LOST)

    async def _give_back(self, reason: RetryReason) -> Ending:
        log.info("job_given_back", reason=reason.value)
        # If the release does not arrive, the lease runs out and the task is recovered from the ledger.
        with suppress(SupabaseUnavailable):
            await self._releasing.release(self._held)
        return Retry(reason)
