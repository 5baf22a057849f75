"""One attempt at a claimed session, until the session is settled: prepare, generate, store, complete."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, assert_never
from uuid import uuid4

import structlog

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.results import result_path
from wearon_contracts.tasks import GenerationTask
from wearon_generator.endings import Done, Ending, Outcome, Retry, RetryReason
from wearon_generator.image_processor import InputImageError
from wearon_generator.keep_trying import KeepTrying, Stopping
from wearon_generator.leases import Lease
from wearon_generator.ledger import Claim, Ledger, Result
from wearon_generator.metrics import Metrics
from wearon_generator.prompts import image_label
from wearon_generator.provider import Generated, Provider, ProviderError, edit_with_retries
from wearon_generator.refusals import Refusal
from wearon_generator.slots import Priority, SlotLine
from wearon_generator.storage import ResultRefused, ResultStore
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Clock, Timing
from wearon_service_kit.tracing import NO_TRACER, Tracer

log = structlog.get_logger()

RATE_LIMIT_PAUSE: Final = 10  # seconds, where the provider does not say how long
LONGEST_RATE_LIMIT_PAUSE: Final = 300  # seconds, whatever the provider says


class Failure(Exception):
    """The attempt ends without a picture, for a reason the shopper is told in `message`."""

    def __init__(self, code: ErrorCode, detail: str, message: str | None = None) -> None:
        super().__init__(code.value)
        self.code = code
        self.detail = detail
        self.message = sentence(code) if message is None else message


class _Fenced(Exception):
    """Another replica has taken the session over, or it is settled: nothing more may be done for it here."""


class _ProviderPaused(Exception):
    """The provider refuses every job for a reason of ours: this one waits with the others."""


class _RateLimited(Exception):
    """The provider is to be asked again later."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__("rate limited")
        self.retry_after = retry_after


def rate_limit_delay(asked: float | None) -> int:
    """Seconds until a rate-limited job is tried again, when the provider `asked` for so many."""
    if asked is None or math.isnan(asked):
        asked = RATE_LIMIT_PAUSE
    return round(max(1, min(asked, LONGEST_RATE_LIMIT_PAUSE)))


class Images(Protocol):
    """Where a task's pictures come from."""

    async def download_and_resize(self, urls: list[str]) -> list[bytes]:
        """JPEG bytes of all `urls`, in their order; raises `InputImageError` for the first that fails."""
        ...


class Breaker(Protocol):
    """What is told of the provider's answers."""

    reason: str | None
    """Why it is open, None if it is closed."""

    def stops(self, holder: str) -> bool:
        """Whether the job of `holder`, admitted before the breaker opened, should call no more."""
        ...

    async def refused(self, refusal: Refusal) -> bool:
        """The provider refused a job as it would every other; whether that job should fail."""
        ...

    async def works(self, call_seconds: float) -> None:
        """The provider took a job, in a call that began `call_seconds` ago."""
        ...

    async def inconclusive(self, holder: str | None = None) -> None:
        """The job of `holder` ended without having said either."""
        ...


class LaneReports(Protocol):
    """Where a task is reported, so that the next one of some lane is handed out; never waits."""

    def started(self, task: GenerationTask) -> None:
        """Its attempt has begun."""
        ...

    def ended(self, task: GenerationTask) -> None:
        """It is settled or set aside, started before or not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What all jobs of a process work with.

    `max_calls`: of the provider, for one attempt. `hash_key`: for what the provider is told of persons.
    """

    ledger: Ledger
    store: ResultStore
    images: Images
    provider: Provider
    max_calls: int
    hash_key: bytes
    line: SlotLine
    breaker: Breaker
    lanes: LaneReports
    stopping: Stopping
    metrics: Metrics
    timing: Timing
    clock: Clock
    tracer: Tracer = NO_TRACER

    def keep_trying(self, lease: Lease | None = None, **limits: Any) -> KeepTrying:
        """A policy for calls of Supabase; see `KeepTrying`."""
        return KeepTrying(self.stopping, self.metrics, self.clock, lease=lease, **limits)


async def prepare_pictures(workshop: Workshop, task: GenerationTask) -> list[bytes]:
    """The pictures of `task`, ready for the provider; raises `Failure` if one cannot be used."""
    with workshop.metrics.steps.labels(step="images").time(), workshop.tracer.span("prepare pictures"):
        try:
            pictures = await workshop.images.download_and_resize(task.image_urls)
        except InputImageError as error:
            raise Failure(error.code, error.detail, error.sentence) from error
    log.info("images_ready", images=len(pictures), bytes=sum(map(len, pictures)))
    return pictures


class Attempt:
    """Owns the task, the claim, the lease and at first a slot of the global limit."""

    def __init__(
        self,
        workshop: Workshop,
        task: GenerationTask,
        claim: Claim,
        lease: Lease,
        *,
        pictures: Sequence[bytes] | Failure | None,
        has_slot: bool,
        call_noted: bool,
        poison: bool,
    ) -> None:
        """`pictures`: as they were prepared before the claim, or why they cannot be; None: not tried yet.

        `has_slot`: the first call of the provider may be made at once. `call_noted`: the ledger knows that it
        begins, so that nobody can cancel the session any more. `poison`: the task was begun too
        often, and is only to be settled.
        """
        self._workshop = workshop
        self._task = task
        self._claim = claim
        self._lease = lease
        self._pictures = pictures
        self._has_slot = has_slot
        self._call_noted = call_noted
        self._poison = poison
        self._path = result_path(task.channel, task.owner_id, task.session_id)
        self._metrics = workshop.metrics
        # What is done while the session is held ends with the lease; whether the session was settled is for
        # the ledger to say, also after a settlement whose answer was lost.
        while_held = workshop.keep_trying(lease)
        self._while_held = while_held
        self._ledger = workshop.ledger.with_retry(while_held)
        self._store = workshop.store.with_retry(while_held)
        self._settling = workshop.ledger.with_retry(workshop.keep_trying())
        self._began_at = workshop.clock()

    async def run(self) -> Ending:
        """Do everything that is left to do for the session."""
        self._metrics.working.inc()
        try:
            return await self._run()
        except (_Fenced, SupabaseUnavailable) as reason:
            return await self._leave_to_others(reason)
        finally:
            self._metrics.working.dec()

    async def _run(self) -> Ending:
        try:
            generated = await self._make()
            await self._deliver(generated)
        except Failure as failure:
            return await self._fail(failure)
        except _RateLimited as limited:
            return await self._requeue(limited)
        except _ProviderPaused:
            return await self._postpone()
        except (_Fenced, SupabaseUnavailable):
            raise
        except Exception:
            log.exception("job_crashed")
            return await self._fail(Failure(ErrorCode.INTERNAL_ERROR, "unexpected error"))
        return Done(Outcome.COMPLETED)

    async def _leave_to_others(self, reason: Exception) -> Ending:
        if not self._call_noted and await self._was_cancelled():
            log.info("job_turned_away", verdict="cancelled")
            return Done(Outcome.CANCELLED)
        if self._lease.lost.is_set() or isinstance(reason, _Fenced):
            self._metrics.leases_lost.inc()
            log.warning("lease_lost", while_doing="working")
            return Done(Outcome.LOST)
        # Only a stopping process gives up on Supabase; the ledger brings the session back.
        log.warning("job_abandoned", reason=str(reason))
        return Done(Outcome.ABANDONED)

    async def _was_cancelled(self) -> bool:
        ledger = self._workshop.ledger.with_retry(
            self._workshop.keep_trying(for_seconds=self._workshop.timing.release_patience)
        )
        try:
            return (await ledger.check(self._claim)).cancelled
        except SupabaseUnavailable:
            return False

    # ------------------------------------------------------------------ prepare and generate

    async def _make(self) -> Generated | None:
        """The picture, or None if an earlier attempt has stored it already."""
        answer: Generated | ProviderError
        deadline = self._workshop.timing.deadline
        try:
            async with asyncio.timeout(deadline) as limit:
                if self._claim.attempt > 1 and await self._store.exists(self._path):
                    log.info("result_found")
                    return None
                if self._poison:
                    raise Failure(ErrorCode.ATTEMPTS_EXHAUSTED, f"attempt {self._claim.attempt}")
                pictures = await self._prepare()
                asked_at = self._workshop.clock()
                answer = await self._generate(pictures)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Failure(ErrorCode.DEADLINE_EXCEEDED, f"no answer in {deadline} s") from error
        # From here on money is spent, and the deadline no longer applies.
        await self._record_usage(answer)
        if isinstance(answer, ProviderError):
            raise await self._meaning_of(answer, asked_at) from answer
        await self._workshop.breaker.works(self._workshop.clock() - asked_at)
        return answer

    async def _prepare(self) -> Sequence[bytes]:
        if self._pictures is None:
            self._pictures = await prepare_pictures(self._workshop, self._task)
            self._has_slot = False  # it is for a call made at once
        if isinstance(self._pictures, Failure):
            raise self._pictures
        return self._pictures

    async def _generate(self, pictures: Sequence[bytes]) -> Generated | ProviderError:
        with self._metrics.steps.labels(step="provider").time():
            try:
                return await edit_with_retries(
                    self._workshop.provider,
                    pictures,
                    self._task.prompt,
                    self._claim.held.end_user,
                    max_calls=self._workshop.max_calls,
                    before_call=self._before_call,
                    metrics=self._metrics,
                )
            except ProviderError as error:
                return error

    async def _before_call(self) -> None:
        """Return when one call may be made, and the ledger knows that it begins."""
        while True:
            if not self._has_slot:
                await self._workshop.line.take(Priority.RETRY_CALL)
            self._has_slot = False
            if self._workshop.breaker.stops(self._claim.held.holder):
                raise _ProviderPaused
            if self._lease.lost.is_set():
                raise _Fenced
            if self._call_noted or await self._note_call():
                return

    async def _note_call(self) -> bool:
        """Whether the slot is still good, which is for a call at once: not if the ledger was asked again."""
        failures = self._while_held.failures
        decision = await self._ledger.begin_call(self._claim)
        match decision.verdict:
            case "begun":
                self._call_noted = True
                return self._while_held.failures == failures
            case "lost" | "settled":
                self._workshop.line.pass_on()
                raise _Fenced
            case other:
                assert_never(other)

    async def _record_usage(self, answer: Generated | ProviderError) -> None:
        usage, cost = answer.usage, answer.cost
        if usage is None:
            return
        if cost is not None:
            self._metrics.cost_usd.inc(float(cost))
        await self._ledger.record_usage(self._claim, uuid4(), answer.model, usage, cost)
        log.info(
            "provider_answered",
            model=answer.model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=None if cost is None else float(cost),
        )

    async def _meaning_of(self, error: ProviderError, asked_at: float) -> Exception:
        """What a refusal of the provider means for the job, and for the jobs after it."""
        if error.consequence.same_for_every_job:
            log.error("provider_refuses_every_job", reason=error.refusal.value, detail=error.detail)
            if not await self._workshop.breaker.refused(error.refusal):
                return _ProviderPaused()
        elif error.consequence.account_works:
            await self._workshop.breaker.works(self._workshop.clock() - asked_at)
        if error.code is ErrorCode.RATE_LIMITED:
            return _RateLimited(error.retry_after)
        which = "pictures" if error.picture is None else image_label(error.picture)
        return Failure(error.code, error.detail, sentence(error.code, which))

    # ------------------------------------------------------------------ store and complete

    async def _deliver(self, generated: Generated | None) -> None:
        with self._metrics.steps.labels(step="store").time(), self._workshop.tracer.span("store result"):
            if generated is not None:
                await self._upload(generated.data)
            url = await self._store.sign(self._path)
        result = Result(
            object_path=self._path,
            url=url,
            processing_time_ms=round((self._workshop.clock() - self._began_at) * 1000),
            usage=generated.usage if generated else None,
            cost_usd=generated.cost if generated else None,
        )
        decision = await self._settling.complete(self._claim, result)
        match decision.verdict:
            case "completed":
                seconds = self._workshop.clock() - self._began_at
                self._metrics.steps.labels(step="work").observe(seconds)
                log.info("session_completed", processing_time_ms=result.processing_time_ms)
            case "lost" | "settled":
                raise _Fenced
            case other:
                assert_never(other)

    async def _upload(self, data: bytes) -> None:
        decision = await self._ledger.check(self._claim)
        if decision.verdict != "current":
            raise _Fenced
        try:
            await self._store.upload(self._path, data)
        except ResultRefused as error:
            log.error("result_refused", reason=str(error), bytes=len(data))
            raise Failure(ErrorCode.RESULT_NOT_STORED, str(error)) from error
        log.info("result_stored", bytes=len(data))

    # ------------------------------------------------------------------ fail, requeue, postpone

    async def _fail(self, failure: Failure) -> Ending:
        decision = await self._settling.fail(self._claim, failure.code, failure.message)
        match decision.verdict:
            case "failed":
                code, refund = failure.code, decision.refund
                self._metrics.count_failure(code, refund, decision.flagged)
                if decision.flagged:
                    log.error("session_flagged", code=code.value, refund=refund)
                log.warning("session_failed", code=code.value, refund=refund, detail=failure.detail)
                return Done(Outcome.FAILED)
            case "lost" | "settled":
                raise _Fenced
            case other:
                assert_never(other)

    async def _requeue(self, limited: _RateLimited) -> Ending:
        delay, code = rate_limit_delay(limited.retry_after), ErrorCode.RATE_LIMITED
        decision = await self._settling.requeue(self._claim, delay, code)
        match decision.verdict:
            case "requeued":
                log.warning("session_requeued", reason=code.value, retry_in_seconds=delay)
                return Retry(RetryReason.RATE_LIMITED, after_seconds=delay)
            case "exhausted":
                return await self._fail(Failure(code, "rate limited again"))
            case "lost" | "settled":
                raise _Fenced
            case other:
                assert_never(other)

    async def _postpone(self) -> Ending:
        decision = await self._settling.postpone(self._claim)
        match decision.verdict:
            case "postponed":
                log.info("session_postponed", reason=self._workshop.breaker.reason)
                return Retry(RetryReason.PROVIDER_PAUSE)
            case "lost" | "settled":
                raise _Fenced
            case other:
                assert_never(other)
