"""What becomes of the elements of a batch: Celery messages for the tasks, dead letters for the others."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final

from wearon_consumer.celery_messages import CeleryMessages
from wearon_consumer.elements import Refusal, read_element
from wearon_contracts.queues import PROCESS_GENERATION_TASK, REJECT_GENERATION_TASK
from wearon_contracts.tasks import DeadLetter, DeadLetterReason, GenerationTask


@dataclass(slots=True)
class Batch:
    """Elements in flight, and all that is to be pushed in their place.

    `outcomes` has one entry per element, in their order; `messages` and `letters` are what to push.
    """

    ticket: str
    outcomes: list[GenerationTask | Refusal] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)


class Sorter:
    """Makes batches out of elements."""

    def __init__(self, celery: CeleryMessages, consumer_id: str, clock: Callable[[], datetime]) -> None:
        self._celery = celery
        self._consumer_id: Final = consumer_id
        self._clock = clock

    def sort(self, ticket: str, elements: Iterable[bytes]) -> Batch:
        """The batch of `elements`. None of them can keep the others from being handed on."""
        batch = Batch(ticket)
        for raw in elements:
            try:
                outcome = read_element(raw)
                message = self._message(raw, outcome)
            except Exception as error:
                # Not known to happen. If it does, the element is set aside like any other invalid one.
                detail = f"reading it raised {type(error).__name__}"
                outcome, message = Refusal(DeadLetterReason.INVALID_TASK, detail), None
            batch.outcomes.append(outcome)
            if message is not None:
                batch.messages.append(message)
            if isinstance(outcome, Refusal):
                batch.letters.append(self._letter(raw, outcome))
        return batch

    def _message(self, raw: bytes, outcome: GenerationTask | Refusal) -> str | None:
        """What the generator is told, if anything. The id is the same however often it is told."""
        if isinstance(outcome, GenerationTask):
            return self._celery.message(PROCESS_GENERATION_TASK, outcome.celery_task_id, outcome.to_message())
        rejection = outcome.owner.rejection()
        if rejection is None:
            return None
        task_id = str(uuid.UUID(bytes=sha256(raw).digest()[:16], version=5))
        return self._celery.message(REJECT_GENERATION_TASK, task_id, rejection.model_dump(mode="json"))

    def _letter(self, raw: bytes, refusal: Refusal) -> str:
        try:
            text, is_text = raw.decode("utf-8"), True
        except UnicodeDecodeError:
            text, is_text = base64.b64encode(raw).decode("ascii"), False
        return DeadLetter(
            reason=refusal.reason,
            detail=refusal.detail,
            raw=text,
            encoding="utf-8" if is_text else "base64",
            set_aside_at=self._clock(),
            set_aside_by=self._consumer_id,
            channel=refusal.owner.channel,
            session_id=refusal.owner.session_id,
            request_id=refusal.owner.request_id,
        ).model_dump_json(exclude_none=True)
