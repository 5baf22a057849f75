"""Dead letters: look at them, put them back on the producer's list, drop them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from pydantic import ValidationError

from wearon_contracts.queues import DEAD_LETTER_LIST, TASK_LIST
from wearon_contracts.tasks import DeadLetter, DeadLetterReason, raw_and_encoding
from wearon_generator.operations.connections import Connections, Refused
from wearon_generator.operations.sessions import settled
from wearon_generator.operations.values import Row

_SHORT: Final = 12
"""Hexadecimal digits of a letter's id."""
_PAGE: Final = 500

# KEYS from, to; ARGV element, what to push for it. Returns 0 if the element is gone.
_MOVE: Final = """
local found = redis.call('LREM', KEYS[1], 1, ARGV[1])
if found == 1 then redis.call('LPUSH', KEYS[2], ARGV[2]) end
return found
"""


class Requeued(TypedDict):
    """The id of the letter that is on the producer's list again."""

    requeued: str


class Dropped(TypedDict):
    """The id of the letter that was deleted; None if it was there no more."""

    dropped: str | None


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter and the element of the list it was read from; `id` is short for the element."""

    id: str
    element: bytes
    letter: DeadLetter

    def pushed(self) -> bytes:
        """The element as the producer pushed it; raises `Refused` if the letter does not hold it readably."""
        if self.letter.encoding == "utf-8":
            return self.letter.raw.encode()
        try:
            return base64.b64decode(self.letter.raw, validate=True)
        except ValueError as error:
            raise Refused(
                f"dead letter {self.id} says it holds base64 and does not, so what was pushed cannot be told:"
                f" look at it with `dead show {self.id} --raw`, then `dead drop {self.id}`"
            ) from error

    def shown(self, *, raw: bool) -> Row:
        """The letter's fields, the element itself only if `raw`."""
        fields = self.letter.model_dump(mode="json", exclude={"raw"})
        return {"id": self.id, **fields} | ({"raw": self.letter.raw} if raw else {})


async def newest(at: Connections, limit: int) -> list[Letter]:
    """At most `limit`, the newest first."""
    elements = await at.redis.lrange(DEAD_LETTER_LIST, 0, limit - 1)
    return [_letter(element) for element in elements if isinstance(element, bytes)]


async def every(at: Connections) -> AsyncIterator[Letter]:
    """All letters, the newest first."""
    start = 0
    while elements := await at.redis.lrange(DEAD_LETTER_LIST, start, start + _PAGE - 1):
        for element in elements:
            if isinstance(element, bytes):
                yield _letter(element)
        start += len(elements)


async def find(at: Connections, letter_id: str) -> Letter:
    """The one whose id is, or begins with, `letter_id`; raises `Refused` unless it is exactly one."""
    found = {letter.id: letter async for letter in every(at) if letter_id and letter.id.startswith(letter_id)}
    if len(found) != 1:
        raise Refused(f"{len(found)} dead letters have an id that begins with {letter_id!r}")
    return next(iter(found.values()))


async def requeue(at: Connections, letter: Letter) -> Requeued:
    """Put the element back on the producer's list; raises `Refused` if its session is settled already."""
    arguments: list[Any] = [letter.element, letter.pushed()]
    if letter.letter.session_id is not None:
        ended = await settled(at, letter.letter.session_id)
        if ended is not None:
            raise Refused(
                f"session {letter.letter.session_id} is {ended['status']} already"
                + (f" and its credit was given back (refund {ended['refund']})" if ended["refund"] else "")
                + "; the shopper has to start a new try-on"
            )
    if not await at.redis.eval(_MOVE, 2, DEAD_LETTER_LIST, TASK_LIST, *arguments):
        raise Refused(f"dead letter {letter.id} is there no more")
    return {"requeued": letter.id}


async def drop(at: Connections, letter: Letter) -> Dropped:
    """Delete the element for good."""
    element: Any = letter.element  # bytes go as they are; a foreign element need not be UTF-8
    removed = await at.redis.lrem(DEAD_LETTER_LIST, 1, element)
    return {"dropped": letter.id if removed else None}


def _letter(element: bytes) -> Letter:
    try:
        letter = DeadLetter.model_validate_json(element)
    except ValidationError:
        raw, encoding = raw_and_encoding(element)
        letter = DeadLetter(
            reason=DeadLetterReason.INVALID_TASK,
            detail="not written by this project",
            raw=raw,
            encoding=encoding,
            set_aside_at=datetime.fromtimestamp(0, UTC),
            set_aside_by="unknown",
        )
    return Letter(hashlib.sha256(element).hexdigest()[:_SHORT], element, letter)
