"""Reads an element of the task list: a valid task, or the reason for refusing it and the ids found in it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import from_json

from wearon_contracts.tasks import (
    MAX_TASK_BYTES,
    TASK_VERSION,
    Channel,
    DeadLetterReason,
    GenerationTask,
    RejectedTask,
)

_MAX_DETAILS: Final = 8  # mistakes named in a dead letter; one element may have thousands
_MAX_DETAIL_CHARS: Final = 1000
_MAX_REQUEST_ID_CHARS: Final = 200  # a longer one is no id, and would fill the logs
_MAX_INT_DIGITS: Final = 4000  # Python's own int() refuses 4,300 and more


@dataclass(frozen=True, slots=True)
class ElementIds:
    """The ids found in an invalid element; each is None if it is missing or not valid."""

    channel: Channel | None = None
    session_id: UUID | None = None
    request_id: str | None = None

    def rejection(self) -> RejectedTask | None:
        """The message that makes the generator fail and refund the session; None if no session is named."""
        if self.channel is None or self.session_id is None:
            return None
        return RejectedTask(
            channel=self.channel, session_id=self.session_id, request_id=self.request_id or ""
        )


NO_IDS: Final = ElementIds()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an element is no valid task. `detail` names fields and rules, never the values in them."""

    reason: DeadLetterReason
    detail: str
    ids: ElementIds = NO_IDS


_OVERSIZED: Final = re.compile(rb"\x00oversized (\d{1,12}) ", re.ASCII)


def kept_bytes(raw: bytes) -> bytes:
    """The bytes that a dead letter keeps of an element: all, or the head that the turn left of a huge one."""
    cut = _OVERSIZED.match(raw)
    return raw[cut.end() :] if cut else raw


def read_element(raw: bytes) -> GenerationTask | Refusal:
    """The task that `raw` holds, or the refusal. Raises nothing, whatever the bytes are."""
    cut = _OVERSIZED.match(raw)
    if cut is not None:
        head = raw[cut.end() :]
        detail = f"{int(cut[1])} bytes, at most {MAX_TASK_BYTES} are allowed; the first {len(head)} are kept"
        return Refusal(DeadLetterReason.TOO_LARGE, detail, _ids_in(head))
    if len(raw) > MAX_TASK_BYTES:
        detail = f"{len(raw)} bytes, at most {MAX_TASK_BYTES} are allowed"
        return Refusal(DeadLetterReason.TOO_LARGE, detail, _ids_in(raw))
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
        return Refusal(error.reason, error.detail, _ids_in(raw))
    if not isinstance(value, dict):
        kind = "null" if value is None else type(value).__name__
        return Refusal(DeadLetterReason.NOT_AN_OBJECT, f"a JSON {kind}, not an object")
    if _is_unknown_version(value.get("version")):
        detail = f"version is not {TASK_VERSION}, the only one known"
        return Refusal(DeadLetterReason.UNKNOWN_VERSION, detail, _ids_of(value))
    try:
        return GenerationTask.model_validate(value)
    except ValidationError as error:
        return Refusal(DeadLetterReason.INVALID_TASK, _details(error), _ids_of(value))


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


def _ids_in(raw: bytes) -> ElementIds:
    """The ids in bytes that may be damaged: not UTF-8, or JSON that is cut off."""
    text = raw.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    try:
        value, _ = _LENIENT.raw_decode(text)
    except ValueError:
        try:
            value = from_json(text, allow_partial=True)
        except ValueError:
            return NO_IDS
    except RecursionError:
        return NO_IDS
    return _ids_of(value) if isinstance(value, dict) else NO_IDS


def _ids_of(value: dict[str, Any]) -> ElementIds:
    request_id = value.get("request_id")
    usable = (
        isinstance(request_id, str) and len(request_id) <= _MAX_REQUEST_ID_CHARS and request_id.isprintable()
    )
    return ElementIds(
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
