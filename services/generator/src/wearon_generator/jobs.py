"""One job, from a task in hand to a settled session."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from uuid import uuid4

import structlog
from pydantic import ValidationError

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.results import result_path
from wearon_contracts.tasks import DeadLetterReason, GenerationTask, RejectedTask
from wearon_generator.breaker import ProviderBreaker
from wearon_generator.dead_letters import DeadLetters
from wearon_generator.end_users import end_user
from wearon_generator.image_processor import ImageProcessor, InputImageError
from wearon_generator.leases import Lease, LeaseKeeper
from wearon_generator.ledger import Claim, Held, Ledger, Result, Session, Verdict
from wearon_generator.metrics import Metrics
from wearon_generator.prompts import image_label
from wearon_generator.provider import Generated, Provider, ProviderError, edit_with_retries
from wearon_generator.slots import Priority, SlotLine
from wearon_generator.storage import ResultRefused, ResultStore
from wearon_generator.supabase_client import SupabaseUnavailable, keep_asking
from wearon_service_kit.logs import job_context

log = structlog.get_logger()
T = TypeVar("T")

DEADLINE_SECONDS: Final = 300.0
"""For one attempt, from its claim to the provider's answer."""
PATIENCE_BEFORE_HOLD: Final = 60.0
SLOT_GOES_STALE: Final = 2.0
"""A call made later than this after its slot takes a new one."""
RATE_LIMIT_PAUSE: Final = 10
LONGEST_RATE_LIMIT_PAUSE: Final = 300
STOP_PATIENCE: Final = 30.0
"""For how long a stopping process still tries to reach an absent Supabase."""
VISIBILITY_TIMEOUT: Final = 3600
"""Seconds after which the broker hands out an unacknowledged message again."""
LONGEST_WAIT: Final = VISIBILITY_TIMEOUT - 2 * DEADLINE_SECONDS - 300.0
"""A job that waits longer for its slot is given back, so that the broker never delivers it twice for that."""


@dataclass(frozen=True, slots=True)
class Done:
    """The message is dealt with; `outcome` says how, for the metrics."""

    outcome: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The task is to be published again, `after_seconds` from now; `why` is for the metrics."""

    why: str
    after_seconds: int = 0


Ending = Done | Retry


class _Interrupted(Exception):
    """The wait ended without what was waited for: `lost`, `stopping` or `too_long`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Fenced(Exception):
    """Another replica has taken the session over: nothing more may be done for it here."""


class _Failed(Exception):
    """The attempt ends without a picture, for a reason the shopper is told."""

    def __init__(self, code: ErrorCode, message: str, detail: str) -> None:
        super().__init__(code.value)
        self.code = code
        self.message = message
        self.detail = detail


class _ProviderPaused(Exception):
    """The provider refuses every job for a reason of ours: this one waits with the others."""


class _RateLimited(Exception):
    def __init__(self, retry_after: float | None) -> None:
        super().__init__("rate limited")
        self.retry_after = retry_after


def rate_limit_delay(asked: float | None) -> int:
    """Seconds until a rate-limited job is tried again, when the provider `asked` for so many."""
    if asked is None or math.isnan(asked):
        asked = RATE_LIMIT_PAUSE
    return round(max(1, min(asked, LONGEST_RATE_LIMIT_PAUSE)))


class Stopping:
    """Whether, and since when, the process is asked to stop."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._since: float | None = None

    def begin(self) -> None:
        """Take note that the process is asked to stop."""
        self._since = time.monotonic()
        self.event.set()

    @property
    def patience_is_over(self) -> bool:
        """Whether the process should wait for nothing any more."""
        return self._since is not None and time.monotonic() > self._since + STOP_PATIENCE


class JobRunner:
    """Runs jobs; the ledger decides, this class carries out."""

    def __init__(
        self,
        *,
        replica: str,
        ledger: Ledger,
        store: ResultStore,
        images: ImageProcessor,
        provider: Provider,
        max_calls: int,
        hash_key: bytes,
        line: SlotLine,
        leases: LeaseKeeper,
        breaker: ProviderBreaker,
        dead_letters: DeadLetters,
        stopping: Stopping,
        metrics: Metrics,
    ) -> None:
        self._replica = replica
        self._ledger = ledger
        self._store = store
        self._images = images
        self._provider = provider
        self._max_calls = max_calls
        self._hash_key = hash_key
        self._line = line
        self._leases = leases
        self._breaker = breaker
        self._dead_letters = dead_letters
        self._stopping = stopping
        self._metrics = metrics

    # ------------------------------------------------------------------ what Celery delivers

    async def process(self, task: GenerationTask, *, returned: bool) -> Ending:
        """Do everything for one delivery of `task`; `returned`: it has waited in the queue before."""
        with job_context(
            request_id=task.request_id, session_id=str(task.session_id), channel=task.channel.value
        ):
            ending = await self._process(task, returned)
            label = ending.outcome if isinstance(ending, Done) else ending.why
            self._metrics.jobs.labels(channel=task.channel.value, outcome=label).inc()
            return ending

    async def reject(self, rejected: RejectedTask) -> Ending:
        """Fail and refund the session of an element that was no valid task."""
        session = Session(rejected.channel, rejected.session_id)
        with job_context(
            request_id=rejected.request_id, session_id=str(session.session_id), channel=session.channel.value
        ):
            return await self._reject(session, rejected.code)

    async def _reject(self, session: Session, code: ErrorCode) -> Ending:
        try:
            verdict = await self._ask(
                lambda: self._ledger.reject(session, code, sentence(code)),
                what="reject",
                until=time.monotonic() + PATIENCE_BEFORE_HOLD,
                worth_it=lambda: not self._stopping.event.is_set(),
            )
        except SupabaseUnavailable:
            return Retry("supabase_unavailable")
        if verdict.name == "failed":
            self._note_failure(code, verdict, detail="the task was not valid")
        else:
            log.info("rejection_not_needed", verdict=verdict.name)
        return Done("rejected")

    async def refuse(self, message: object, fields: str) -> Ending:
        """Set aside what is no valid task, and fail its session if it names one; `fields` are wrong."""
        session = None
        reason = DeadLetterReason.NOT_AN_OBJECT
        if isinstance(message, dict):
            reason = DeadLetterReason.INVALID_TASK
            with suppress(ValidationError):
                session = RejectedTask.model_validate({**message, "code": ErrorCode.INVALID_TASK.value})
        log.error("task_unreadable", fields=fields)
        await self._dead_letters.add(message, reason, f"wrong: {fields}", session)
        return Done("dead_lettered") if session is None else await self.reject(session)

    async def _set_aside(self, task: GenerationTask, reason: DeadLetterReason, detail: str) -> Ending:
        session = RejectedTask(channel=task.channel, session_id=task.session_id, request_id=task.request_id)
        await self._dead_letters.add(task.to_message(), reason, detail, session)
        log.warning("task_dead_lettered", reason=reason.value)
        return Done("dead_lettered")

    async def _process(self, task: GenerationTask, returned: bool) -> Ending:
        session = Session(task.channel, task.session_id)
        held = Held(session, f"{self._replica}/{uuid4().hex}")
        try:
            verdict = await self._ask(
                lambda: self._ledger.hold(task, held.holder),
                what="hold",
                until=time.monotonic() + PATIENCE_BEFORE_HOLD,
                worth_it=lambda: not self._stopping.event.is_set(),
            )
        except SupabaseUnavailable as error:
            log.warning("job_given_back", reason="supabase_unavailable", detail=str(error))
            return Retry("supabase_unavailable")
        match verdict.name:
            case "held":
                log.info("job_held", attempts_so_far=verdict.attempt)
                held = replace(held, end_user=end_user(self._hash_key, task, verdict.shopper_email))
            case "session_not_found":
                detail = "no session row with this id and channel"
                return await self._set_aside(task, DeadLetterReason.SESSION_NOT_FOUND, detail)
            case "owner_mismatch":
                detail = "the session belongs to another owner"
                await self._set_aside(task, DeadLetterReason.OWNER_MISMATCH, detail)
                return await self._reject(session, ErrorCode.INVALID_TASK)
            case other:
                log.info("job_turned_away", verdict=other)
                return Done(other)
        waited_before = returned or verdict.attempt > 0
        with self._leases.keep(held.holder) as lease:
            try:
                return await self._hold_to_end(task, held, lease, verdict.due_in, waited_before)
            finally:
                await self._breaker.inconclusive(held.holder)

    # ------------------------------------------------------------------ waiting

    async def _hold_to_end(
        self, task: GenerationTask, held: Held, lease: Lease, due_in: float | None, waited_before: bool
    ) -> Ending:
        waiting_since = time.monotonic()
        self._metrics.waiting.inc()
        try:
            verdict, slot_at = await self._claim(held, lease, due_in, waited_before)
        except _Interrupted as interruption:
            return await self._give_up(held, interruption.reason)
        except SupabaseUnavailable:
            return await self._give_up(held, "lost" if lease.lost.is_set() else "supabase_unavailable")
        finally:
            self._metrics.waiting.dec()
            self._metrics.steps.labels(step="wait").observe(time.monotonic() - waiting_since)
        if verdict.name not in ("claimed", "poison"):
            log.info("job_turned_away", verdict=verdict.name)
            return Done(verdict.name)
        claim = Claim(held, verdict.attempt)
        self._metrics.working.inc()
        try:
            with job_context(attempt=claim.attempt):
                log.info("session_processing", waited_seconds=round(time.monotonic() - waiting_since, 2))
                return await self._work(task, claim, lease, slot_at, poison=verdict.name == "poison")
        finally:
            self._metrics.working.dec()

    async def _claim(
        self, held: Held, lease: Lease, due_in: float | None, waited_before: bool
    ) -> tuple[Verdict, float]:
        """Wait until the job is due and has its slot, then claim; returns when the slot came, too."""
        give_up_at = time.monotonic() + LONGEST_WAIT
        while True:
            if due_in is not None:
                await self._unless_interrupted(asyncio.sleep(due_in), lease, give_up_at)
            place = self._line.take(Priority.RETURNED_JOB if waited_before else Priority.NEW_JOB, held.holder)
            await self._unless_interrupted(place, lease, give_up_at)
            slot_at = time.monotonic()
            verdict = await self._ask(
                lambda: self._ledger.claim(held, DEADLINE_SECONDS),
                what="claim",
                until=slot_at + DEADLINE_SECONDS,
                worth_it=lambda: not lease.lost.is_set() and not self._stopping.patience_is_over,
            )
            if verdict.name != "not_due":
                return verdict, slot_at
            due_in = verdict.due_in

    async def _unless_interrupted(self, wanted: Awaitable[None], lease: Lease, give_up_at: float) -> None:
        waits = {
            "wanted": asyncio.ensure_future(wanted),
            "lost": asyncio.ensure_future(lease.lost.wait()),
            "stopping": asyncio.ensure_future(self._stopping.event.wait()),
        }
        try:
            left = max(0.0, give_up_at - time.monotonic())
            await asyncio.wait(waits.values(), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for reason in ("lost", "stopping"):
                if waits[reason].done():
                    raise _Interrupted(reason)
            if not waits["wanted"].done():
                raise _Interrupted("too_long")
            waits["wanted"].result()
        finally:
            for wait in waits.values():
                wait.cancel()

    async def _give_up(self, held: Held, reason: str) -> Ending:
        if reason == "lost":
            self._metrics.leases_lost.inc()
            log.warning("lease_lost", while_doing="waiting")
            return Done("lost")
        log.info("job_given_back", reason=reason)
        # If the release does not arrive, the lease runs out and the task is recovered from the ledger.
        with suppress(SupabaseUnavailable):
            await self._ask(
                lambda: self._ledger.release(held),
                what="release",
                until=time.monotonic() + 5.0,
                worth_it=lambda: not self._stopping.patience_is_over,
            )
        return Retry(reason)

    # ------------------------------------------------------------------ working

    async def _work(
        self, task: GenerationTask, claim: Claim, lease: Lease, slot_at: float, *, poison: bool
    ) -> Ending:
        started = time.monotonic()
        try:
            generated = await self._make(task, claim, lease, slot_at, poison)
            return await self._deliver(task, claim, lease, generated, started)
        except _Failed as failure:
            return await self._fail(claim, lease, failure)
        except _RateLimited as limited:
            return await self._requeue(claim, lease, limited)
        except _ProviderPaused:
            return await self._wait_for_provider(claim, lease)
        except (_Fenced, SupabaseUnavailable) as reason:
            return self._left_to_others(lease, reason)
        except Exception:
            log.exception("job_crashed")
            code = ErrorCode.INTERNAL_ERROR
            return await self._fail(claim, lease, _Failed(code, sentence(code), "unexpected error"))

    def _left_to_others(self, lease: Lease, reason: Exception) -> Ending:
        if lease.lost.is_set() or isinstance(reason, _Fenced):
            self._metrics.leases_lost.inc()
            log.warning("lease_lost", while_doing="working")
            return Done("lost")
        # Only a stopping process gives up on Supabase; the ledger brings the session back.
        log.warning("job_abandoned", reason=str(reason))
        return Done("abandoned")

    async def _make(
        self, task: GenerationTask, claim: Claim, lease: Lease, slot_at: float, poison: bool
    ) -> Generated | None:
        """The picture, or None if an earlier attempt has stored it already; all within the deadline."""
        answer: Generated | ProviderError
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                if claim.attempt > 1 and await self._stored_before(task, lease):
                    log.info("result_found")
                    return None
                if poison:
                    code = ErrorCode.ATTEMPTS_EXHAUSTED
                    raise _Failed(code, sentence(code), f"attempt {claim.attempt}")
                images = await self._prepare(task)
                asked_at = time.monotonic()
                answer = await self._generate(task, claim.held, images, lease, slot_at)
        except TimeoutError as error:
            code = ErrorCode.DEADLINE_EXCEEDED
            raise _Failed(code, sentence(code), f"no answer in {DEADLINE_SECONDS:.0f} s") from error
        # From here on money is spent, and the deadline no longer applies.
        await self._record_usage(claim, lease, answer)
        if isinstance(answer, ProviderError):
            raise await self._meaning_of(answer, asked_at) from answer
        await self._breaker.works(time.monotonic() - asked_at)
        return answer

    async def _stored_before(self, task: GenerationTask, lease: Lease) -> bool:
        return await self._ask(
            lambda: self._store.exists(result_path(task.channel, task.owner_id, task.session_id)),
            what="look_for_result",
            until=None,
            worth_it=lambda: self._may_go_on(lease),
        )

    async def _prepare(self, task: GenerationTask) -> list[bytes]:
        with self._metrics.steps.labels(step="images").time():
            try:
                images = await self._images.download_and_resize(task.image_urls)
            except InputImageError as error:
                raise _Failed(error.code, error.sentence, error.detail) from error
        log.info("images_ready", images=len(images), bytes=sum(map(len, images)))
        return images

    async def _generate(
        self, task: GenerationTask, held: Held, images: list[bytes], lease: Lease, slot_at: float
    ) -> Generated | ProviderError:
        last_slot: float | None = slot_at

        async def take_slot() -> None:
            nonlocal last_slot
            if last_slot is None or time.monotonic() - last_slot > SLOT_GOES_STALE:
                await self._line.take(Priority.RETRY_CALL)
            last_slot = None
            if lease.lost.is_set():
                raise _Fenced
            if self._breaker.stops(held.holder):
                raise _ProviderPaused

        with self._metrics.steps.labels(step="provider").time():
            try:
                return await edit_with_retries(
                    self._provider,
                    images,
                    task.prompt,
                    held.end_user,
                    max_calls=self._max_calls,
                    take_slot=take_slot,
                    metrics=self._metrics,
                )
            except ProviderError as error:
                return error

    async def _record_usage(self, claim: Claim, lease: Lease, answer: Generated | ProviderError) -> None:
        usage, cost, model = answer.usage, answer.cost, answer.model
        if usage is None:
            return
        if cost is not None:
            self._metrics.cost_usd.inc(float(cost))
        call_id = uuid4()
        await self._ask(
            lambda: self._ledger.record_usage(claim, call_id, model, usage, cost),
            what="record_usage",
            until=None,
            worth_it=lambda: self._may_go_on(lease),
        )
        log.info(
            "provider_answered",
            model=model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=None if cost is None else float(cost),
        )

    async def _meaning_of(self, error: ProviderError, asked_at: float) -> Exception:
        """What a refusal of the provider means for the job, and for the jobs after it."""
        if error.consequence.same_for_every_job:
            log.error("provider_refuses_every_job", reason=error.refusal.value, detail=error.detail)
            if not await self._breaker.refused(error.refusal):
                return _ProviderPaused()
        elif error.consequence.account_works:
            await self._breaker.works(time.monotonic() - asked_at)
        if error.code is ErrorCode.RATE_LIMITED:
            return _RateLimited(error.retry_after)
        which = "pictures" if error.picture is None else image_label(error.picture)
        return _Failed(error.code, sentence(error.code, which), error.detail)

    # ------------------------------------------------------------------ settling

    async def _deliver(
        self, task: GenerationTask, claim: Claim, lease: Lease, generated: Generated | None, started: float
    ) -> Ending:
        path = result_path(task.channel, task.owner_id, task.session_id)
        go_on = lambda: self._may_go_on(lease)  # noqa: E731
        with self._metrics.steps.labels(step="store").time():
            if generated is not None:
                verdict = await self._ask(
                    lambda: self._ledger.check(claim), what="check", until=None, worth_it=go_on
                )
                if verdict.name != "current":
                    raise _Fenced
                data = generated.data
                try:
                    await self._ask(
                        lambda: self._store.upload(path, data), what="upload", until=None, worth_it=go_on
                    )
                except ResultRefused as error:
                    log.error("result_refused", reason=str(error), bytes=len(data))
                    code = ErrorCode.RESULT_NOT_STORED
                    raise _Failed(code, sentence(code), str(error)) from error
                log.info("result_stored", bytes=len(data))
            url = await self._ask(lambda: self._store.sign(path), what="sign", until=None, worth_it=go_on)
        usage = generated.usage if generated else None
        result = Result(
            object_path=path,
            url=url,
            processing_time_ms=round((time.monotonic() - started) * 1000),
            usage=usage,
            cost_usd=generated.cost if generated else None,
        )
        verdict = await self._ask(
            lambda: self._ledger.complete(claim, result), what="complete", until=None, worth_it=go_on
        )
        if verdict.name != "completed":
            raise _Fenced
        self._metrics.steps.labels(step="work").observe(time.monotonic() - started)
        log.info("session_completed", processing_time_ms=result.processing_time_ms)
        return Done("completed")

    async def _fail(self, claim: Claim, lease: Lease, failure: _Failed) -> Ending:
        try:
            verdict = await self._ask(
                lambda: self._ledger.fail(claim, failure.code, failure.message),
                what="fail",
                until=None,
                worth_it=lambda: self._may_go_on(lease),
            )
        except SupabaseUnavailable as error:
            return self._left_to_others(lease, error)
        if verdict.name != "failed":
            return self._left_to_others(lease, _Fenced())
        self._note_failure(failure.code, verdict, failure.detail)
        return Done("failed")

    async def _requeue(self, claim: Claim, lease: Lease, limited: _RateLimited) -> Ending:
        delay = rate_limit_delay(limited.retry_after)
        code = ErrorCode.RATE_LIMITED
        try:
            verdict = await self._ask(
                lambda: self._ledger.requeue(claim, delay, code),
                what="requeue",
                until=None,
                worth_it=lambda: self._may_go_on(lease),
            )
        except SupabaseUnavailable as error:
            return self._left_to_others(lease, error)
        if verdict.name == "requeued":
            log.warning("session_requeued", reason=code.value, retry_in_seconds=delay)
            return Retry("rate_limited", after_seconds=delay)
        if verdict.name == "exhausted":
            return await self._fail(claim, lease, _Failed(code, sentence(code), "rate limited again"))
        return self._left_to_others(lease, _Fenced())

    async def _wait_for_provider(self, claim: Claim, lease: Lease) -> Ending:
        try:
            verdict = await self._ask(
                lambda: self._ledger.postpone(claim),
                what="postpone",
                until=None,
                worth_it=lambda: self._may_go_on(lease),
            )
        except SupabaseUnavailable as error:
            return self._left_to_others(lease, error)
        if verdict.name != "postponed":
            return self._left_to_others(lease, _Fenced())
        log.info("session_postponed", reason=self._breaker.reason)
        return Retry("provider_pause")

    def _note_failure(self, code: ErrorCode, verdict: Verdict, detail: str) -> None:
        self._metrics.failures.labels(code=code.value).inc()
        self._metrics.refunds.labels(state=verdict.refund or "none").inc()
        if verdict.flagged:
            self._metrics.flagged.inc()
            log.error("session_flagged", code=code.value, refund=verdict.refund)
        log.warning("session_failed", code=code.value, refund=verdict.refund, detail=detail)

    def _may_go_on(self, lease: Lease) -> bool:
        return not lease.lost.is_set() and not self._stopping.patience_is_over

    async def _ask(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        what: str,
        until: float | None,
        worth_it: Callable[[], bool],
    ) -> T:
        return await keep_asking(
            call, what=what, until=until, worth_it=worth_it, on_failure=self._metrics.supabase_unavailable.inc
        )
