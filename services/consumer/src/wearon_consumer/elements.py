"""Reading an element of the task list: a valid task, or why it is refused and whose session it names."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import from_json

from wearon_contracts.tasks import (
    MAX_READABLE_BYTES,
    MAX_TASK_BYTES,
    TASK_VERSION,
    Channel,
    DeadLetterReason,
    GenerationTask,
    RejectedTask,
)

_MAX_DETAILS: Final = 8
_MAX_DETAIL_CHARS: Final = 1000
_MAX_REQUEST_ID_CHARS: Final = 200
_MAX_INT_DIGITS: Final = 4000  # Python's own int() refuses 4,300 and more


@dataclass(frozen=True, slots=True)
class Owner:
    """What can be read of whose job an invalid element was."""

    channel: Channel | None = None
    session_id: UUID | None = None
    request_id: str | None = None

    def rejection(self) -> RejectedTask | None:
        """What the generator is told, if the element names a session that it can fail and refund."""
        if self.channel is None or self.session_id is None:
            return None
        return RejectedTask(
            channel=self.channel, session_id=self.session_id, request_id=self.request_id or ""
        )


NOBODY: Final = Owner()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an element is no valid task. `detail` names fields and rules, never the values in them."""

    reason: DeadLetterReason
    detail: str
    owner: Owner = NOBODY


def read_element(raw: bytes) -> GenerationTask | Refusal:
    """The task that `raw` holds, or the refusal. Raises nothing, whatever the bytes are."""
    if len(raw) > MAX_TASK_BYTES:
        owner = _owner_in(raw) if len(raw) <= MAX_READABLE_BYTES else NOBODY
        return Refusal(
            DeadLetterReason.TOO_LARGE, f"{len(raw)} bytes, at most {MAX_TASK_BYTES} are allowed", owner
        )
    # The JSON parser behind pydantic lets NaN and Infinity through, which no JSON document may hold.
    if b"NaN" not in raw and b"Infinity" not in raw:
        try:
            return GenerationTask.model_validate_json(raw)
        except ValidationError:
            pass  # read again below, by a parser that can tell the reasons apart
    return _read_carefully(raw)


def _read_carefully(raw: bytes) -> GenerationTask | Refusal:
    try:
        value = _parse(raw)
    except _Unreadable as error:
        return Refusal(error.reason, error.detail, _owner_in(raw))
    if not isinstance(value, dict):
        kind = "null" if value is None else type(value).__name__
        return Refusal(DeadLetterReason.NOT_AN_OBJECT, f"a JSON {kind}, not an object")
    if _is_unknown_version(value.get("version")):
        detail = f"version is not {TASK_VERSION}, the only one known"
        return Refusal(DeadLetterReason.UNKNOWN_VERSION, detail, _owner_of(value))
    try:
        return GenerationTask.model_validate(value)
    except ValidationError as error:
        return Refusal(DeadLetterReason.INVALID_TASK, _details(error), _owner_of(value))


class _Unreadable(Exception):
    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail


def _parse(raw: bytes) -> object:
    """JSON by the letter of RFC 8259. Of a key that stands twice the last counts, as in JavaScript."""
    try:
        return _STRICT.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Unreadable(DeadLetterReason.NOT_UTF8, f"{error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _Unreadable(DeadLetterReason.NOT_JSON, f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _Unreadable(DeadLetterReason.NOT_JSON, "nested too deeply") from None


def _is_unknown_version(version: object) -> bool:
    # In JSON 2.0 is 2. Anything that is no whole number is no version at all, but an invalid task.
    whole = type(version) is int or (type(version) is float and version.is_integer())
    return whole and version != TASK_VERSION


def _details(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(map(str, e['loc'])) or 'task'}: {e['msg']}" for e in found[:_MAX_DETAILS]]
    if len(found) > _MAX_DETAILS:
        lines.append(f"and {len(found) - _MAX_DETAILS} more")
    return "; ".join(lines)[:_MAX_DETAIL_CHARS]


def _owner_in(raw: bytes) -> Owner:
    """Whose job it was, from bytes that need not be UTF-8, nor JSON up to their end."""
    text = raw.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    try:
        value, _ = _LENIENT.raw_decode(text)
    except ValueError:
        try:
            value = from_json(text, allow_partial=True)
        except ValueError:
            return NOBODY
    except RecursionError:
        return NOBODY
    return _owner_of(value) if isinstance(value, dict) else NOBODY


def _owner_of(value: dict[str, Any]) -> Owner:
    request_id = value.get("request_id")
    usable = (
        isinstance(request_id, str) and len(request_id) <= _MAX_REQUEST_ID_CHARS and request_id.isprintable()
    )
    return Owner(
        channel=_channel(value.get("channel")),
        session_id=_uuid(value.get("session_id")),
        request_id=request_id if usable else None,
    )


def _channel(value: object) -> Channel | None:
    try:
        return Channel(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _uuid(value: object) -> UUID | None:
    try:
        found = UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
    # UUID() also takes braces, "urn:uuid:" and missing hyphens.
    return found if found is not None and str(found) == str(value).lower() else None


def _refuse_constant(name: str) -> NoReturn:
    raise _Unreadable(DeadLetterReason.NOT_JSON, f"{name} is not a JSON number")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else math.inf


_STRICT: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_integer)
_LENIENT: Final = json.JSONDecoder(parse_int=_integer, strict=False)
