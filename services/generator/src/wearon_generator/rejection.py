"""What is no valid task, or belongs to no session of its own: set aside, its session failed and refunded."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol, assert_never

import structlog
from pydantic import ValidationError

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.tasks import MAX_TASK_BYTES, DeadLetterReason, GenerationTask, RejectedTask
from wearon_generator.endings import Done, Ending, Outcome, Retry, RetryReason
from wearon_generator.foreign_messages import ForeignMessage
from wearon_generator.keep_trying import KeepTrying
from wearon_generator.ledger import Ledger, Session
from wearon_generator.metrics import Metrics
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_service_kit.logs import job_context

log = structlog.get_logger()


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
        self, ledger: Ledger, dead_letters: LetterBox, metrics: Metrics, keep_trying: KeepTrying
    ) -> None:
        self._ledger = ledger.with_retry(keep_trying)
        self._dead_letters = dead_letters
        self._metrics = metrics

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
        """Keep what another program pushed on Celery's queue as a dead letter; it fails no session."""
        log.error("message_unreadable", fields=message.fields, task=message.task)
        size = len(message.element)
        detail = f"no message of ours in Celery's queue, wrong: {message.fields}"
        if size > MAX_TASK_BYTES:
            detail += f"; the first {MAX_TASK_BYTES} of {size} bytes are kept"
        await self._dead_letters.add(message.element[:MAX_TASK_BYTES], message.reason, detail, None)

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
