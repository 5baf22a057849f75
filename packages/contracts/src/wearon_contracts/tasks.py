"""What travels through Redis: the task the producer pushes, and what becomes of one that is not valid."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from wearon_contracts.errors import ErrorCode

TASK_VERSION: Final = 1
MAX_TASK_BYTES: Final = 64 * 1024
"""A larger element is invalid."""
MAX_READABLE_BYTES: Final = 1024 * 1024
"""An invalid element up to this size is still read for the session it belongs to."""
MAX_IMAGES: Final = 16
MAX_URL_LENGTH: Final = 8192

_UUID_PATTERN: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_CREATED_AT_PATTERN: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z$"


def _uuid_string(value: object) -> object:
    if isinstance(value, UUID):
        return value
    if not isinstance(value, str) or re.fullmatch(_UUID_PATTERN[1:-1], value) is None:
        raise ValueError("must be a UUID string of the form 8-4-4-4-12")
    return UUID(value)


def _utc_timestamp(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or re.fullmatch(_CREATED_AT_PATTERN[1:-1], value) is None:
        raise ValueError("must be an ISO 8601 string ending in Z")
    return datetime.fromisoformat(value)


def _timestamp_with_z(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _storable(value: object) -> object:
    # PostgreSQL's text and jsonb cannot hold U+0000.
    if isinstance(value, str) and "\x00" in value:
        raise ValueError("must not contain the NUL character")
    return value


def _absolute_url(value: object) -> object:
    if isinstance(value, str):
        try:
            parts = urlsplit(value)
        except ValueError as error:
            raise ValueError("must be an absolute URL") from error
        if not parts.scheme or not parts.netloc or any(c.isspace() or c == "\x00" for c in value):
            raise ValueError("must be an absolute URL")
    return value


def _version_or_default(value: object) -> object:
    # Literal[1] alone would take True and 1.0 for 1.
    if value is None:
        return TASK_VERSION
    if type(value) is not int:
        raise ValueError("must be an integer")
    return value


UuidString = Annotated[
    UUID, BeforeValidator(_uuid_string, json_schema_input_type=Annotated[str, Field(pattern=_UUID_PATTERN)])
]
Text = Annotated[str, BeforeValidator(_storable, json_schema_input_type=str)]
UrlString = Annotated[
    str,
    Field(min_length=1, max_length=MAX_URL_LENGTH),
    BeforeValidator(
        _absolute_url,
        json_schema_input_type=Annotated[
            str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#]+", max_length=MAX_URL_LENGTH)
        ],
    ),
]
UtcTimestamp = Annotated[
    datetime,
    BeforeValidator(
        _utc_timestamp, json_schema_input_type=Annotated[str, Field(pattern=_CREATED_AT_PATTERN)]
    ),
    PlainSerializer(_timestamp_with_z, return_type=str, when_used="json"),
]


class Channel(StrEnum):
    """Who sells the try-on: the app itself, or a store; decides table, credits and storage path."""

    B2C = "b2c"
    B2B = "b2b"


class GenerationTask(BaseModel):
    """One try-on to make, version 1: an element of `TASK_LIST` as the producer pushes it.

    Unknown keys are ignored; optional keys may be absent or null. One credit has been deducted already.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

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

    @model_validator(mode="after")
    def _owner_is_named(self) -> Self:
        if self.owner_id is None:
            key = "user_id" if self.channel is Channel.B2C else "store_id"
            raise ValueError(f"{key} is required for channel {self.channel.value}")
        return self

    @property
    def owner_id(self) -> UUID | None:
        """The user of a b2c task, the store of a b2b task."""
        return self.user_id if self.channel is Channel.B2C else self.store_id

    def to_message(self) -> dict[str, Any]:
        """The task as the JSON object that `PROCESS_GENERATION_TASK` takes: absent keys stay absent."""
        return self.model_dump(mode="json", exclude_none=True)

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
