"""Tasks that belong to no session of theirs: kept for a person, as the consumer keeps invalid ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from wearon_contracts.queues import DEAD_LETTER_BYTES, DEAD_LETTER_LIST
from wearon_contracts.tasks import DeadLetter, DeadLetterReason, RejectedTask, raw_and_encoding


def _as_bytes(message: object) -> bytes:
    if isinstance(message, bytes):
        return message
    try:
        return json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a pair of surrogates: JSON can tell of it, UTF-8 cannot hold it
        return json.dumps(message).encode()


class DeadLetters:
    """The generator's side of `DEAD_LETTER_LIST`."""

    def __init__(self, redis: Redis, replica: str) -> None:
        self._redis = redis
        self._replica = replica

    async def add(
        self, message: object, reason: DeadLetterReason, detail: str, session: RejectedTask | None
    ) -> None:
        """Set `message`, of `session`, aside; raises `RedisError` if that did not work."""
        raw, encoding = raw_and_encoding(_as_bytes(message))
        letter = DeadLetter(
            reason=reason,
            detail=detail,
            raw=raw,
            encoding=encoding,
            set_aside_at=datetime.now(UTC),
            set_aside_by=self._replica,
            channel=session.channel if session else None,
            session_id=session.session_id if session else None,
            request_id=session.request_id if session else None,
        )
        element = letter.model_dump_json().encode()
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.lpush(DEAD_LETTER_LIST, element)
            pipe.incrby(DEAD_LETTER_BYTES, len(element))
            try:
                await pipe.execute()
            except ResponseError as error:
                # redis-py begins with the command, and so puts the message into the log.
                error.args = (str(error).rpartition("caused error: ")[2],)
                raise
