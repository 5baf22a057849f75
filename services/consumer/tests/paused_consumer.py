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

from wearon_consumer.__main__ import main
from wearon_consumer.inflight import InFlight, Load, Turn

step_to_pause_at: str | None = sys.argv[1]
turn, wait, recover_some = InFlight.turn, InFlight.wait, InFlight.recover_some


def pause_at(step: str) -> None:
    global step_to_pause_at  # noqa: PLW0603 - one process, one pause
    if step == step_to_pause_at:
        step_to_pause_at = None
        os.kill(os.getpid(), signal.SIGSTOP)


def pausing_turn(self: InFlight, ticket: str, load: Load | None = None, **more: Any) -> Turn:
    if load:
        pause_at("handing-on")
    answer = turn(self, ticket, load, **more)
    if load:
        pause_at("handed-on")
    elif answer.elements:
        pause_at("taken")
    return answer


def pausing_wait(self: InFlight) -> None:
    wait(self)
    if self._client.llen(self.name):
        pause_at("popped")


def pausing_recover_some(self: InFlight) -> dict[str, int]:
    recovered = recover_some(self)
    if recovered:
        pause_at("recovered")
    return recovered


if __name__ == "__main__":
    InFlight.turn = pausing_turn  # type: ignore[method-assign]
    InFlight.wait = pausing_wait  # type: ignore[method-assign]
    InFlight.recover_some = pausing_recover_some  # type: ignore[method-assign]
    sys.exit(main())
