"""What is no valid task, or belongs to no session of its own: set aside, its session failed and refunded."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol, assert_never

import structlog
from pydantic import ValidationError
from redis.exceptions import RedisError

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.tasks import MAX_TASK_BYTES, DeadLetterReason, GenerationTask, RejectedTask
from wearon_generator.endings import Done, Ending, Outcome, Retry, RetryReason
from wearon_generator.foreign_messages import ForeignMessage
from wearon_generator.keep_trying import KeepTrying, Stopping
from wearon_generator.ledger import Ledger, Session
from wearon_generator.metrics import Metrics
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_service_kit.logs import job_context
from wearon_service_kit.pauses import growing_pause

log = structlog.get_logger()

_FIRST_PAUSE: Final = 0.2  # seconds
_LONGEST_PAUSE: Final = 5.0  # seconds


class LetterBox(Protocol):
    """Where dead letters go."""

    async def add(
        self, message: object, reason: DeadLetterReason, detail: str, session: RejectedTask | None
    ) -> None:
        """Keep `message`, which is the bytes of an element or what was read from JSON, for a person."""
        ...


class Rejections:
    """Turns such messages away."""

    def __init__(
        self,
        ledger: Ledger,
        dead_letters: LetterBox,
        metrics: Metrics,
        keep_trying: KeepTrying,
        stopping: Stopping,
    ) -> None:
        self._ledger = ledger.with_retry(keep_trying)
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._stopping = stopping

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
        return Done(Outcome.DEAD_LETTERED) if session is None else await self.reject_element(session)

    async def set_aside_foreign(self, message: ForeignMessage) -> None:
        """Keep what another program pushed on Celery's queue as a dead letter; it fails no session.

        It is on no list any more, so this is tried until Redis takes it. Raises `RedisError` when a stopping
        process's patience is over.
        """
        log.error("message_unreadable", fields=message.fields, task=message.task)
        size = len(message.element)
        detail = f"no message of ours in Celery's queue, wrong: {message.fields}"
        if size > MAX_TASK_BYTES:
            detail += f"; the first {MAX_TASK_BYTES} of {size} bytes are kept"
        failures = 0
        while True:
            try:
                await self._dead_letters.add(message.element[:MAX_TASK_BYTES], message.reason, detail, None)
            except RedisError as error:
                if self._stopping.patience_is_over:
                    raise
                failures += 1
                pause = growing_pause(failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
                log.warning(
                    "dead_letter_not_kept", reason=type(error).__name__, retry_in_seconds=round(pause, 2)
                )
            else:
                self._metrics.count_delivery(None, Done(Outcome.DEAD_LETTERED))
                return
            await asyncio.sleep(pause)

    async def set_aside(self, task: GenerationTask, reason: DeadLetterReason, detail: str) -> Ending:
        """Keep a valid task that has no session of its own as a dead letter."""
        session = RejectedTask(channel=task.channel, session_id=task.session_id, request_id=task.request_id)
        await self._dead_letters.add(task.to_message(), reason, detail, session)
        log.warning("task_dead_lettered", reason=reason.value)
        return Done(Outcome.DEAD_LETTERED)

    async def reject_element(self, rejected: RejectedTask) -> Ending:
        """Fail and refund the session of an element that was no valid task."""
        session = Session(rejected.channel, rejected.session_id)
        with job_context(
            request_id=rejected.request_id,
            session_id=str(session.session_id),
            channel=session.channel.value,
        ):
            return await self.reject(session, rejected.code)

    async def reject(self, session: Session, code: ErrorCode) -> Ending:
        """Fail and refund a session that nobody works on."""
        try:
            decision = await self._ledger.reject(session, code, sentence(code))
        except SupabaseUnavailable:
            return Retry(RetryReason.SUPABASE_UNAVAILABLE)
        match decision.verdict:
            case "failed":
                refund = decision.refund
                self._metrics.count_failure(code, refund, decision.flagged)
                if decision.flagged:
                    log.error("session_flagged", code=code.value, refund=refund)
                log.warning("session_failed", code=code.value, refund=refund, detail="the task was not valid")
            case "settled" | "busy" | "session_not_found":
                log.info("rejection_not_needed", verdict=decision.verdict)
            case other:
                assert_never(other)
        return Done(Outcome.REJECTED)
