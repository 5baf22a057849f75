"""Keeps from Celery what lies on its queues and is no message as the consumer or a generator writes them.

Celery ends the worker over some of it, and copies the rest into the log, prompts and links too. So each
element is looked at when it has been popped; what another program pushed is given to `set_aside` instead.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

import redis
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    PROCESS_GENERATION_TASK,
    REJECT_GENERATION_TASK,
)
from wearon_contracts.tasks import DeadLetterReason

_MOST_FIELDS: Final = 8  # named in a dead letter
_MOST_NAME_CHARS: Final = 100  # of a task's name that is told in the log

_Name = Annotated[str, StringConstraints(min_length=1)]


def _one_of(*names: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError("is none of ours")
        return name

    return AfterValidator(check)


def _as_celery_writes_it(eta: str) -> str:
    """Celery ends over a time that it cannot turn into the local one, and reads fewer forms than Python."""
    at = datetime.fromisoformat(eta)
    if at.isoformat() != eta or at.utcoffset() != timedelta(0) or not 2000 <= at.year < 9000:
        raise ValueError("is no time that Celery writes")
    return eta


class _Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Headers(BaseModel):
    task: Annotated[str, _one_of(PROCESS_GENERATION_TASK, REJECT_GENERATION_TASK)]
    id: _Name
    retries: int = Field(default=0, ge=0)
    eta: Annotated[str, AfterValidator(_as_celery_writes_it)] | None = None
    expires: None = None
    timelimit: tuple[None, None] | None = None
    compression: None = None
    stamped_headers: tuple[()] | None = None
    stamps: _Nothing | None = None


class _DeliveryInfo(BaseModel):
    exchange: Annotated[str, _one_of("", CELERY_QUEUE, CELERY_RETRY_QUEUE)]
    routing_key: Annotated[str, _one_of(CELERY_QUEUE, CELERY_RETRY_QUEUE)]


class _Properties(BaseModel):
    delivery_tag: _Name
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]
    priority: int = Field(default=0, ge=0, le=9)


class _Envelope(BaseModel):
    headers: _Headers
    properties: _Properties
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    body: str


class _NothingAfter(BaseModel):
    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


class _Call(BaseModel):
    """The body: one argument, which the task itself looks at, and nothing else that Celery would act on."""

    body: tuple[tuple[Any], _Nothing, _NothingAfter]


@dataclass(frozen=True, slots=True)
class ForeignMessage:
    """An element of a queue that Celery is not given. `fields` names what is wrong, never the values."""

    element: bytes
    reason: DeadLetterReason
    fields: str
    task: str | None
    """Name of the task that it asks for, if it names one."""


SetAside = Callable[[ForeignMessage], None]


def wrong_fields(error: ValidationError) -> str:
    """The names of the first fields that are wrong; of one that has no place there, only where it stands."""
    places = [
        item["loc"][:-1] if item["type"] == "extra_forbidden" else item["loc"]
        for item in error.errors(include_url=False, include_input=False)
    ]
    names = dict.fromkeys(".".join(map(str, place)) for place in places)
    return ", ".join(list(names)[:_MOST_FIELDS])


def _refuse_types(found: dict[str, Any]) -> dict[str, Any]:
    """Kombu makes objects of such a thing, or fails."""
    if "__type__" in found:
        raise ValueError("an object that is no plain JSON")
    return found


def _read(text: bytes) -> Any:
    return json.loads(text.decode(), object_hook=_refuse_types)


def find_foreign(element: bytes) -> ForeignMessage | None:
    """What is foreign about an element of a queue; None if Celery may have it."""
    try:
        message = _read(element)
    except UnicodeDecodeError:
        return ForeignMessage(element, DeadLetterReason.NOT_UTF8, "all", None)
    except (ValueError, RecursionError):
        return ForeignMessage(element, DeadLetterReason.NOT_JSON, "all", None)
    if not isinstance(message, dict):
        return ForeignMessage(element, DeadLetterReason.NOT_AN_OBJECT, "all", None)
    try:
        envelope = _Envelope.model_validate(message)
        _Call.model_validate({"body": _read(base64.b64decode(envelope.body, validate=True))})
    except ValidationError as error:
        fields = wrong_fields(error)
    except (ValueError, RecursionError):
        fields = "body"
    else:
        return None
    headers = message.get("headers")
    name = headers.get("task") if isinstance(headers, dict) else None
    task = name[:_MOST_NAME_CHARS] if isinstance(name, str) else None
    return ForeignMessage(element, DeadLetterReason.INVALID_TASK, fields, task)


class _Client(redis.Redis):
    """Of a channel: a pop that brings a foreign message looks as if it had brought nothing."""

    def __init__(self, *, set_aside: SetAside, **options: Any) -> None:
        super().__init__(**options)
        self._set_aside = set_aside

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """The answer to `command_name`."""
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name == "BRPOP" and answer:
            foreign = find_foreign(answer[1])
            if foreign is not None:
                self._set_aside(foreign)
                return None
        return answer


@functools.cache
def watched(transport: type[Any]) -> type[Any]:
    """The Redis transport `transport`, whose connections take the option `set_aside`: a `SetAside`."""

    class Channel(transport.Channel):  # type: ignore[misc, name-defined]
        from_transport_options = (*transport.Channel.from_transport_options, "set_aside")
        set_aside: SetAside | None = None

        def _get_client(self) -> Any:
            if self.set_aside is None:  # of a connection that only publishes
                return super()._get_client()
            return functools.partial(_Client, set_aside=self.set_aside)

    return type("Transport", (transport,), {"Channel": Channel})
