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


class PausingInFlight(InFlight):
    """Stops the process the first time that it comes to the step named on the command line."""

    step_to_pause_at: str | None = sys.argv[1]

    def turn(self, ticket: str, load: Load | None = None, **more: Any) -> Turn:
        if load:
            self.pause_at("handing-on")
        answer = super().turn(ticket, load, **more)
        if load:
            self.pause_at("handed-on")
        elif answer.elements:
            self.pause_at("taken")
        return answer

    def wait(self, *arguments: Any) -> bytes | None:
        element = super().wait(*arguments)
        if self._client.llen(self.name):
            self.pause_at("popped")
        if element is not None:
            self.pause_at("taken")
        return element

    def recover_some(self) -> dict[str, int]:
        recovered = super().recover_some()
        if recovered:
            self.pause_at("recovered")
        return recovered

    def pause_at(self, step: str) -> None:
        if step == self.step_to_pause_at:
            self.step_to_pause_at = None
            os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    sys.exit(main(make_inflight=PausingInFlight))
