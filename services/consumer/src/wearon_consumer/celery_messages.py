"""Celery messages as they lie in the Redis list of a queue, exactly what `send_task` writes there.

Protocol 2 in JSON by way of kombu's Redis transport. They are built here because importing celery and kombu
costs more memory and start-up time than all the rest of this service, and because a message that is only text
can be pushed in the very step that removes the element it came from. A test compares them with celery's own.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import uuid
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii
from typing import Any, Final

_ARGSREPR_CHARS: Final = 1024  # celery.app.amqp.AMQP.argsrepr_maxsize
_PERSISTENT: Final = 2  # AMQP delivery mode
_SEPARATOR: Final = "\x06\x16"  # kombu.transport.redis.Channel.sep
_NO_KWARGS_NO_CALLBACKS: Final = '{}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}'


def binding_keys(queue: str) -> tuple[str, str]:
    """The two Redis sets in which kombu records what is bound to the exchange that `queue` is named after."""
    return f"_kombu.binding.{queue}", f"_kombu.binding_permanent.{queue}"


def binding(queue: str) -> str:
    """What both sets hold: routing key, pattern and queue."""
    return _SEPARATOR.join((queue, "", queue))


class CeleryMessages:
    """Makes messages for one queue, with this process as their origin."""

    def __init__(self, queue: str) -> None:
        envelope = {
            "body": "<body>",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": "<name>",
                "id": "<task_id>",
                "shadow": None,
                "eta": None,
                "expires": None,
                "group": None,
                "group_index": None,
                "retries": 0,
                "timelimit": [None, None],
                "root_id": "<task_id>",
                "parent_id": None,
                "argsrepr": "<argsrepr>",
                "kwargsrepr": "{}",
                "origin": f"gen{os.getpid()}@{socket.gethostname()}",
                "ignore_result": False,
                "replaced_task_nesting": 0,
                "stamped_headers": None,
                "stamps": {},
            },
            "properties": {
                "correlation_id": "<task_id>",
                "reply_to": str(uuid.uuid4()),
                "delivery_mode": _PERSISTENT,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": "<delivery_tag>",
            },
        }
        template = json.dumps(envelope).replace("%", "%%")
        for hole in ("body", "name", "task_id", "argsrepr", "delivery_tag"):
            template = template.replace(f'"<{hole}>"', f"%({hole})s")
        self._template = template

    def message(self, name: str, task_id: str, argument: dict[str, Any]) -> str:
        """The message that runs the Celery task `name` under `task_id` with one positional argument.

        `argument` is a JSON object whose values are strings, integers or lists of strings.
        """
        body = f"[[{json.dumps(argument)}], {_NO_KWARGS_NO_CALLBACKS}]"
        return self._template % {
            "body": f'"{base64.b64encode(body.encode()).decode()}"',
            "name": encode_basestring_ascii(name),
            "task_id": encode_basestring_ascii(task_id),
            "argsrepr": encode_basestring_ascii(argsrepr(argument)),
            "delivery_tag": f'"{_random_uuid()}"',
        }


def _random_uuid() -> str:
    """Like str(uuid.uuid4()), at a third of its cost."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def argsrepr(argument: dict[str, Any]) -> str:
    """`celery.utils.saferepr.saferepr([argument], 1024)`, for the arguments that `CeleryMessages` takes."""
    parts = ["[{"]
    left = _ARGSREPR_CHARS - 2
    separator = ""
    members = iter(argument.items())
    for key, value in members:
        member = f"{separator}{_quoted(key)}: {_whole(value)}"
        if len(member) >= left:
            # Something in it may have to be cut, or all that comes after it.
            return "".join(parts) + _cut(_tokens(separator, [(key, value), *members]), left)
        parts.append(member)
        left -= len(member)
        separator = ", "
    return "".join(parts) + _cut(_tokens(separator, []), left)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def _whole(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return f"[{', '.join(map(_quoted, value))}]" if isinstance(value, list) else str(value)


_PUNCTUATION: Final = 0
_STRING: Final = 1
_BARE: Final = 2


def _tokens(separator: str, members: list[tuple[str, Any]]) -> Iterator[tuple[str, int, str]]:
    """Text, kind, and the brackets that celery still closes if it stops instead of writing this token."""
    for key, value in members:
        if separator:
            yield separator, _PUNCTUATION, "}]"
        separator = ", "
        yield key, _STRING, "}]"
        yield ": ", _PUNCTUATION, "}]"
        if isinstance(value, list):
            yield "[", _PUNCTUATION, "]}]"
            for position, item in enumerate(value):
                if position:
                    yield ", ", _PUNCTUATION, "]}]"
                yield item, _STRING, "]}]"
            yield "]", _PUNCTUATION, "}]"
        else:
            yield str(value), _STRING if isinstance(value, str) else _BARE, "}]"
    yield "}", _PUNCTUATION, "]"
    yield "]", _PUNCTUATION, ""


def _cut(tokens: Iterator[tuple[str, int, str]], left: int) -> str:
    """Token after token until `left` characters are written."""
    parts: list[str] = []
    for token, kind, closers in tokens:
        if left <= 0:
            parts += (", ...", closers)
            break
        text = token
        if kind is not _PUNCTUATION:
            if len(text) >= left:
                text = text[:left].rsplit(" ", 1)[0] + "..."
            if kind is _STRING:
                text = _quoted(text)
        parts.append(text)
        left -= len(text)
    return "".join(parts)
