"""Celery messages as they lie in the Redis list of a queue: what `send_task` writes there.

Protocol 2 in JSON by way of kombu's Redis transport. They are built here because importing celery and kombu
costs more memory and start-up time than all the rest of this service, and because a message that is only text
can be pushed in the very step that removes the element it came from. A test compares them with celery's own:
only the header argsrepr differs, see `_ARGUMENTS_FOR_LOGS`, and how the JSON of the argument is spelt.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import uuid
from json.encoder import encode_basestring_ascii
from typing import Final

_PERSISTENT: Final = 2  # AMQP delivery mode
_ARGUMENTS_FOR_LOGS: Final = "[{...}]"
"""Celery writes this header into its log lines; the real argument holds signed URLs and prompts."""
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
                "argsrepr": _ARGUMENTS_FOR_LOGS,
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
        for hole in ("body", "name", "task_id", "delivery_tag"):
            template = template.replace(f'"<{hole}>"', f"%({hole})s")
        self._template = template
        self._first_of_tag = str(uuid.uuid4())[:24]
        self._numbers = itertools.count(int.from_bytes(os.urandom(5)))

    def message(self, name: str, task_id: str, argument: str) -> str:
        """The message that runs the Celery task `name` under `task_id` with one argument, given in JSON."""
        body = f"[[{argument}], {_NO_KWARGS_NO_CALLBACKS}]"
        return self._template % {
            "body": f'"{base64.b64encode(body.encode()).decode()}"',
            "name": encode_basestring_ascii(name),
            "task_id": encode_basestring_ascii(task_id),
            # Unique by this process's part and a number; a random one for each costs as much as the base64.
            "delivery_tag": f'"{self._first_of_tag}{next(self._numbers):012x}"',
        }
