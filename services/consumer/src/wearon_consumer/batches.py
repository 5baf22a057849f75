"""Turns the elements of a batch into Celery messages (valid tasks) and dead letters (invalid elements)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final

from wearon_consumer.celery_messages import CeleryMessages
from wearon_consumer.elements import Refusal, kept_bytes, read_element
from wearon_consumer.inflight import LaneTask, Load
from wearon_contracts.queues import PROCESS_GENERATION_TASK, REJECT_GENERATION_TASK, TASK_LIST, lane_of
from wearon_contracts.tasks import DeadLetter, DeadLetterReason, GenerationTask, raw_and_encoding
from wearon_service_kit.tracing import NO_TRACER, Attributes, Span, Tracer

_FORWARD: Final = f"forward {TASK_LIST}"
_FORWARD_ATTRIBUTES: Final[Attributes] = {
    "messaging.system": "redis",
    "messaging.operation.type": "receive",
    "messaging.destination.name": TASK_LIST,
}


@dataclass(slots=True)
class Batch:
    """The outcome of each element, in their order, and what Redis is to push in their place.

    `spans`: one for each task where spans are made; whoever hands the batch on ends them.
    """

    outcomes: list[GenerationTask | Refusal]
    load: Load
    spans: list[Span] = field(default_factory=list)

    def end_spans(self, failure: str | None = None) -> None:
        """The batch was handed on, or not, for a reason of this kind."""
        for span in self.spans:
            if failure is not None:
                span.fail(failure)
            span.end()


class BatchBuilder:
    """Builds batches from elements."""

    def __init__(
        self,
        celery: CeleryMessages,
        consumer_id: str,
        clock: Callable[[], datetime],
        max_invalid_in_a_row: int,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._celery = celery
        self._max_invalid_in_a_row = max_invalid_in_a_row
        self._consumer_id: Final = consumer_id
        self._clock = clock
        self._tracer = tracer

    def build(self, ticket: str, elements: Iterable[bytes], invalid_in_a_row: int = 0) -> Batch:
        """Build the batch of `elements`. An element that cannot be read never blocks the others.

        `invalid_in_a_row`: invalid elements met right before these. The batch ends with the element that
        makes them `max_invalid_in_a_row`; the others stay in flight.
        """
        any_valid = False
        outcomes: list[GenerationTask | Refusal] = []
        direct: list[str] = []
        waiting: list[LaneTask] = []
        letters: list[str] = []
        spans: list[Span] = []
        for raw in elements:
            task = rejection = None
            try:
                outcome = read_element(raw)
                if isinstance(outcome, GenerationTask):
                    task = self._task(outcome, spans)
                else:
                    rejection = self._rejection(raw, outcome)
            except Exception as error:
                # Not known to happen. If it does, the element is set aside like any other invalid one.
                detail = f"reading it raised {type(error).__name__}"
                outcome = Refusal(DeadLetterReason.INVALID_TASK, detail)
            outcomes.append(outcome)
            if task is not None:
                waiting.append(task)
            if rejection is not None:
                direct.append(rejection)
            if isinstance(outcome, Refusal):
                letters.append(self._letter(raw, outcome))
                invalid_in_a_row += 1
                if invalid_in_a_row >= self._max_invalid_in_a_row:
                    break
            else:
                any_valid, invalid_in_a_row = True, 0
        trailing_invalid = invalid_in_a_row if any_valid else len(letters)
        load = Load(ticket, len(outcomes), direct, letters, waiting, any_valid, trailing_invalid)
        return Batch(outcomes, load, spans)

    def _task(self, task: GenerationTask, spans: list[Span]) -> LaneTask:
        argument = task
        if self._tracer is not NO_TRACER:
            span = self._span(task)
            spans.append(span)
            argument = task.model_copy(update={"traceparent": span.traceparent})
        message = self._celery.message(
            PROCESS_GENERATION_TASK, task.celery_task_id, argument.to_message_json()
        )
        lane = lane_of(task.channel, task.owner_id)
        return LaneTask(lane, str(task.session_id), task.created_at.timestamp(), message)

    def _span(self, task: GenerationTask) -> Span:
        about = {
            **_FORWARD_ATTRIBUTES,
            "messaging.message.id": task.celery_task_id,
            "request_id": task.request_id,
            "session_id": str(task.session_id),
            "channel": task.channel.value,
        }
        return self._tracer.start(_FORWARD, "consumer", about, parent=task.traceparent)

    def _rejection(self, raw: bytes, refusal: Refusal) -> str | None:
        """The message that fails the session, if one is known; a repeated one has the same task id."""
        rejection = refusal.ids.rejection()
        if rejection is None:
            return None
        task_id = str(uuid.UUID(bytes=sha256(raw).digest()[:16], version=5))
        return self._celery.message(REJECT_GENERATION_TASK, task_id, rejection.model_dump_json())

    def _letter(self, raw: bytes, refusal: Refusal) -> str:
        text, encoding = raw_and_encoding(kept_bytes(raw))
        return DeadLetter(
            reason=refusal.reason,
            detail=refusal.detail,
            raw=text,
            encoding=encoding,
            set_aside_at=self._clock(),
            set_aside_by=self._consumer_id,
            channel=refusal.ids.channel,
            session_id=refusal.ids.session_id,
            request_id=refusal.ids.request_id,
        ).model_dump_json(exclude_none=True)
