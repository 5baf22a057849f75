"""The messages as JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from wearon_contracts.outcomes import CancelAnswer, GenerationOutcome
from wearon_contracts.sessions import SessionUpdate
from wearon_contracts.sizing import (
    CheckPhotoRequest,
    CheckPhotoResponse,
    EstimateBodyRequest,
    EstimateBodyResponse,
    EstimateWithoutPhotoRequest,
    SizingError,
)
from wearon_contracts.tasks import DeadLetter, GenerationTask, RejectedTask
from wearon_contracts.webhooks import WebhookEvent

JsonSchema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A message and who else is bound by its shape.

    `read`: something deployed apart from this version writes it, so it must stay as welcome as it was.
    `written`: something deployed apart from this version reads it, so it must stay as it was promised.
    """

    name: str
    model: type[BaseModel]
    read: bool = False
    written: bool = False


MESSAGES: Final = (
    Message("generation-task", GenerationTask, read=True),
    # A consumer and a generator of two different releases run side by side during an upgrade.
    Message("rejected-task", RejectedTask, read=True, written=True),
    Message("dead-letter", DeadLetter, written=True),
    Message("session-update", SessionUpdate, written=True),
    Message("generation-outcome", GenerationOutcome, written=True),
    Message("cancel-answer", CancelAnswer, written=True),
    Message("estimate-body-request", EstimateBodyRequest, read=True),
    Message("estimate-without-photo-request", EstimateWithoutPhotoRequest, read=True),
    Message("estimate-body-response", EstimateBodyResponse, written=True),
    Message("estimate-body-error", SizingError, written=True),
    Message("check-photo-request", CheckPhotoRequest, read=True),
    Message("check-photo-response", CheckPhotoResponse, written=True),
    Message("webhook-event", WebhookEvent, written=True),
)


class _WithoutFieldTitles(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # "Image Urls" for image_urls says nothing


def json_schema(message: Message) -> JsonSchema:
    """The JSON Schema (2020-12) of `message`, in the form a reader takes."""
    body = message.model.model_json_schema(schema_generator=_WithoutFieldTitles)
    return {"$schema": GenerateJsonSchema.schema_dialect, **body}
