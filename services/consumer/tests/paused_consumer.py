"""`python -m wearon_consumer`, but it stops itself (SIGSTOP) the first time it comes to a step.

python paused_consumer.py STEP

popped       the blocking pop has returned an element
taken        a batch is in flight and known to the process
handing-on   the messages are made, nothing of them has been sent
handed-on    Redis has done it, the process has not looked at the answer
recovered    elements of a dead consumer have been put back
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import redis

from wearon_consumer.__main__ import run
from wearon_consumer.inflight import WAIT_SECONDS
from wearon_consumer.settings import ConsumerSettings
from wearon_service_kit.logs import configure_logging
from wearon_service_kit.redis_clients import connect
from wearon_service_kit.settings import load_settings


class PausingClient:
    """The client it wraps, with a stop before or after one kind of command."""

    def __init__(self, client: redis.Redis, step: str) -> None:
        self._client = client
        self._step: str | None = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def blmove(self, *arguments: Any) -> Any:
        element = self._client.blmove(*arguments)
        if element is not None:
            self._pause_at("popped")
        return element

    def eval(self, script: str, key_count: int, *keys_and_arguments: Any) -> Any:
        handing_on = key_count == 7 and keys_and_arguments[7 + 5] != ""
        if handing_on:
            self._pause_at("handing-on")
        answer = self._client.eval(script, key_count, *keys_and_arguments)
        if handing_on:
            self._pause_at("handed-on")
        elif key_count == 7 and len(answer) > 1:
            self._pause_at("taken")
        elif key_count == 3 and answer:
            self._pause_at("recovered")
        return answer

    def _pause_at(self, step: str) -> None:
        if step == self._step:
            self._step = None
            os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    settings = load_settings(ConsumerSettings)
    configure_logging("consumer", settings.log_level, settings.log_format)
    client: Any = PausingClient(
        connect(settings.redis_url, name="wearon-consumer", block_seconds=WAIT_SECONDS), sys.argv[1]
    )
    sys.exit(run(settings, client))
