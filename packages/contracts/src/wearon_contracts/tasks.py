"""What travels through Redis: the task the producer pushes, and what becomes of one that is not valid."""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from wearon_contracts.errors import ErrorCode
from wearon_contracts.fields import Text, Traceparent, UrlString, UtcTimestamp, UuidString

TASK_VERSION: Final = 1
MAX_TASK_BYTES: Final = 64 * 1024
"""A larger element is invalid."""
MAX_READABLE_BYTES: Final = 1024 * 1024
"""An invalid element up to this size is still read for the session it belongs to."""
MAX_IMAGES: Final = 16


def _version_or_default(value: object) -> object:
    # Literal[1] alone would take True for 1; in JSON, 1.0 is 1.
    if value is None:
        return TASK_VERSION
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise ValueError("must be an integer")
    return value


class Channel(StrEnum):
    """Who sells the try-on: the app itself, or a store; decides table, credits and storage path."""

    B2C = "b2c"
    B2B = "b2b"


_OWNER_KEYS: Final[dict[Channel, str]] = {Channel.B2C: "user_id", Channel.B2B: "store_id"}


def _owner_rule(channel: Channel, key: str) -> JsonDict:
    return {
        "if": {"properties": {"channel": {"const": channel.value}}, "required": ["channel"]},
        "then": {"properties": {key: {"type": "string"}}, "required": [key]},
    }


class GenerationTask(BaseModel):
    """One try-on to make, version 1: an element of `TASK_LIST` as the producer pushes it.

    Unknown keys are ignored; optional keys may be absent or null. One credit has been deducted already.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        strict=True,
        json_schema_extra={"allOf": [_owner_rule(channel, key) for channel, key in _OWNER_KEYS.items()]},
    )

    task_id: UuidString = Field(description="Unique per enqueue.")
    channel: Annotated[Channel, Field(strict=False)] = Field(description="Decides table, credits and path.")
    user_id: UuidString | None = Field(default=None, description="Required for b2c.")
    store_id: UuidString | None = Field(default=None, description="Required for b2b.")
    session_id: UuidString = Field(description="Primary key of the session row, which exists already.")
    image_urls: list[UrlString] = Field(
        min_length=1,
        max_length=MAX_IMAGES,
        description="First the person, then the garment, then accessories.",
    )
    prompt: Text = Field(description="May be empty: then the service's own default prompt is used.")
    request_id: Text = Field(description="Correlation id, in every log line; b2b credit rows carry it.")
    version: Annotated[
        Literal[1],
        BeforeValidator(_version_or_default, json_schema_input_type=Annotated[Literal[1] | None, Field()]),
    ] = Field(default=TASK_VERSION, description="Null is 1; another version is not guessed at.")
    created_at: UtcTimestamp = Field(description="When the producer made the task, UTC.")
    traceparent: Traceparent = Field(
        default=None,
        description="The trace it belongs to, as W3C Trace Context writes it; ignored if it is not one.",
    )

    @model_validator(mode="after")
    def _owner_is_named(self) -> Self:
        _ = self.owner_id
        return self

    @property
    def owner_id(self) -> UUID:
        """The user of a b2c task, the store of a b2b task."""
        owner = self.user_id if self.channel is Channel.B2C else self.store_id
        if owner is None:
            raise ValueError(f"{_OWNER_KEYS[self.channel]} is required for channel {self.channel.value}")
        return owner

    def to_message(self) -> dict[str, Any]:
        """The task as the JSON object that `PROCESS_GENERATION_TASK` takes: absent keys stay absent."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_message_json(self) -> str:
        """The text of `to_message`."""
        return self.model_dump_json(exclude_none=True)

    @property
    def celery_task_id(self) -> str:
        """The id under which the task is published, the same however often that happens."""
        return str(self.task_id)


class RejectedTask(BaseModel):
    """Tells the generator to fail and refund the session of an element that was not a valid task."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    channel: Channel
    session_id: UuidString
    request_id: str = Field(default="", description="Correlation id, empty if it could not be read.")
    code: ErrorCode = ErrorCode.INVALID_TASK


class DeadLetterReason(StrEnum):
    """Why an element was set aside."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    INVALID_TASK = "invalid_task"
    UNKNOWN_VERSION = "unknown_version"
    TOO_LARGE = "too_large"
    OWNER_MISMATCH = "owner_mismatch"
    SESSION_NOT_FOUND = "session_not_found"


def raw_and_encoding(element: bytes) -> tuple[str, Literal["utf-8", "base64"]]:
    """How the bytes of an element stand in a dead letter: its `raw` and its `encoding`."""
    try:
        return element.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(element).decode("ascii"), "base64"


class DeadLetter(BaseModel):
    """An element of `DEAD_LETTER_LIST`: the raw bytes of what could not be worked on, and why."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    reason: DeadLetterReason
    detail: str = Field(description="Which fields are wrong and how, without their values.")
    raw: str = Field(description="The element as it was; base64 of its bytes if they are not UTF-8.")
    encoding: Literal["utf-8", "base64"] = "utf-8"
    set_aside_at: UtcTimestamp
    set_aside_by: str = Field(description="The consumer or generator that set it aside.")
    channel: Channel | None = None
    session_id: UuidString | None = None
    request_id: str | None = None
