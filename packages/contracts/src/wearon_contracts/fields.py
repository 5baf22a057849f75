"""Field types that read the same in pydantic and in JSON Schema: one pattern serves both.

Patterns of ids, texts and URLs are matched by pydantic's own code and not by functions of ours: a consumer
reads thousands of tasks a second, and each call into Python costs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, PlainSerializer
from pydantic_core import CoreSchema, core_schema

MAX_URL_LENGTH: Final = 8192
"""Characters."""

# Anchored, in ASCII classes and without lookahead: \d, \s and $ mean different things to Python and to
# JavaScript, and not every validator's regular expressions know more.
_UUID: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_DATE_TIME: Final = (
    r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
)
_UTC_DATE_TIME: Final = _DATE_TIME + "Z$"
_OFFSET_DATE_TIME: Final = _DATE_TIME + r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
_STORABLE: Final = r"^[^\x00]*$"  # PostgreSQL's text and jsonb cannot hold U+0000
_URL: Final = r"^[A-Za-z][A-Za-z0-9+.\-]*://[^\x00-\x20\x7f/?#][^\x00-\x20\x7f]*$"

# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may only add to it.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _text_of(pattern: str, rule: str, max_length: int | None = None) -> CoreSchema:
    """A string that `pattern` describes; half a surrogate pair is none, which JSON Schema cannot say."""
    text = core_schema.str_schema(
        pattern=pattern, max_length=max_length, strict=True, regex_engine="rust-regex"
    )
    return core_schema.custom_error_schema(text, "text_form", custom_error_message=rule)


@dataclass(frozen=True, slots=True)
class _Form:
    """Reads a string of this form."""

    pattern: str
    rule: str
    max_length: int | None = None

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return _text_of(self.pattern, self.rule, self.max_length)


class _UuidForm:
    """Reads a UUID from its 36 characters alone; pydantic itself also takes braces, "urn:uuid:" and bytes."""

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        rule = "must be a UUID string of the form 8-4-4-4-12"
        read = core_schema.chain_schema([_text_of(_UUID, rule), core_schema.uuid_schema(strict=False)])
        given = core_schema.union_schema([core_schema.is_instance_schema(UUID), read])
        return core_schema.json_or_python_schema(
            read, core_schema.custom_error_schema(given, "text_form", custom_error_message=rule)
        )


def _matcher(pattern: str, rule: str) -> Callable[[object], str]:
    compiled = re.compile(pattern.removeprefix("^").removesuffix("$"))

    def matched(value: object) -> str:
        if isinstance(value, str) and compiled.fullmatch(value):
            return value
        raise ValueError(rule)

    return matched


_utc_text = _matcher(_UTC_DATE_TIME, "must be an ISO 8601 string ending in Z")
_offset_text = _matcher(_OFFSET_DATE_TIME, "must be an ISO 8601 string with Z or an offset")


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("must have a time zone")
    return value


def _traceparent_or_none(value: object) -> object:
    # Nobody's try-on fails because of its trace.
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def _to_utc(value: object) -> datetime:
    return _aware(value) if isinstance(value, datetime) else datetime.fromisoformat(_utc_text(value))


def _to_moment(value: object) -> datetime:
    return _aware(value) if isinstance(value, datetime) else datetime.fromisoformat(_offset_text(value))


def _with_z(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_DATE_TIME_FORMAT: Final = {"format": "date-time"}  # no pattern knows that February ends on the 28th

UuidString = Annotated[UUID, _UuidForm()]
"""A UUID of any version, in its 36-character form."""

Text = Annotated[str, _Form(_STORABLE, "must be a string without NUL and half surrogate pairs")]
"""Unicode text that PostgreSQL can store."""

UrlString = Annotated[
    str, _Form(_URL, f"must be an absolute URL of at most {MAX_URL_LENGTH} characters", MAX_URL_LENGTH)
]
"""An absolute URL by its shape alone; whether it may be fetched is for the downloader to say."""

Traceparent = Annotated[str | None, BeforeValidator(_traceparent_or_none, json_schema_input_type=Any)]
"""A `traceparent` of W3C Trace Context; whatever else is given counts as absent."""

UtcTimestamp = Annotated[
    datetime,
    BeforeValidator(
        _to_utc,
        json_schema_input_type=Annotated[
            str, Field(pattern=_UTC_DATE_TIME, json_schema_extra=_DATE_TIME_FORMAT)
        ],
    ),
    PlainSerializer(_with_z, return_type=str, when_used="json"),
]
"""ISO 8601 with a literal Z; written with milliseconds."""

Timestamp = Annotated[
    datetime,
    BeforeValidator(
        _to_moment,
        json_schema_input_type=Annotated[
            str, Field(pattern=_OFFSET_DATE_TIME, json_schema_extra=_DATE_TIME_FORMAT)
        ],
    ),
]
"""ISO 8601 with Z or an offset, as PostgreSQL's JSON has it."""
