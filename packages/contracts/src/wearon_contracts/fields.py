"""Field types that read the same in pydantic and in JSON Schema: one pattern serves both."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BeforeValidator, Field, PlainSerializer

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

# Not Unicode text at all, and PostgreSQL refuses it; JSON Schema has no portable word for it.
_HALF_A_PAIR: Final = re.compile(r"[\ud800-\udfff]")


def _matcher(pattern: str, rule: str) -> Callable[[object], str]:
    compiled = re.compile(pattern.removeprefix("^").removesuffix("$"))

    def matched(value: object) -> str:
        if isinstance(value, str) and compiled.fullmatch(value) and not _HALF_A_PAIR.search(value):
            return value
        raise ValueError(rule)

    return matched


_uuid_text = _matcher(_UUID, "must be a UUID string of the form 8-4-4-4-12")
_utc_text = _matcher(_UTC_DATE_TIME, "must be an ISO 8601 string ending in Z")
_offset_text = _matcher(_OFFSET_DATE_TIME, "must be an ISO 8601 string with Z or an offset")
_storable_text = _matcher(_STORABLE, "must be a string without NUL and half surrogate pairs")
_url_text = _matcher(_URL, "must be an absolute URL")


def _to_uuid(value: object) -> UUID:
    return value if isinstance(value, UUID) else UUID(_uuid_text(value))


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

UuidString = Annotated[
    UUID, BeforeValidator(_to_uuid, json_schema_input_type=Annotated[str, Field(pattern=_UUID)])
]
"""A UUID of any version, in its 36-character form."""

Text = Annotated[
    str, BeforeValidator(_storable_text, json_schema_input_type=Annotated[str, Field(pattern=_STORABLE)])
]
"""Unicode text that PostgreSQL can store."""

UrlString = Annotated[
    str,
    Field(max_length=MAX_URL_LENGTH),
    BeforeValidator(
        _url_text,
        json_schema_input_type=Annotated[str, Field(pattern=_URL, max_length=MAX_URL_LENGTH)],
    ),
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
