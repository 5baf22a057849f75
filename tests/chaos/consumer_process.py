"""`python -m wearon_consumer` with named steps; the heartbeat's period is divided by CHAOS_PACE.

popped       the blocking pop has returned an element
taken        a batch is in flight and known to the process
handing-on   the messages are made, nothing of them has been sent
handed-on    Redis has done it, the process has not looked at the answer
recovered    elements of a dead consumer have been put back
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Final

from tests.chaos.steps import Steps

from wearon_consumer.__main__ import main
from wearon_consumer.inflight import InFlight, Load, Turn
from wearon_consumer.timing import ConsumerTiming

STEPS: Final = Steps()
_LEAST_HEARTBEAT: Final = 2.0  # seconds; a waiting consumer renews every second


class SteppedInFlight(InFlight):
    """Comes to a named step before or after each exchange with Redis."""

    def turn(self, ticket: str, load: Load | None = None, **options: Any) -> Turn:
        if load is not None:
            STEPS.at("handing-on")
        answer = super().turn(ticket, load, **options)
        if load is not None:
            STEPS.at("handed-on")
        if answer.elements:
            STEPS.at("taken")
        return answer

    def recover_some(self) -> dict[str, int]:
        recovered = super().recover_some()
        if recovered:
            STEPS.at("recovered", elements=sum(recovered.values()))
        return recovered

    def wait(self, *arguments: Any) -> bytes | None:
        element = super().wait(*arguments)
        if self._client.llen(self.name):
            STEPS.at("popped")
        if element is not None:
            STEPS.at("taken")
        return element


def paced(timing: ConsumerTiming) -> ConsumerTiming:
    """The same intervals as the service's own, divided by the pace as far as an idle wait allows."""
    heartbeat_ttl = max(_LEAST_HEARTBEAT, timing.heartbeat_ttl / STEPS.pace)
    return replace(
        timing,
        heartbeat_ttl=heartbeat_ttl,
        longest_pause=min(timing.longest_pause, heartbeat_ttl / 2),
        recovery_interval=timing.recovery_interval / STEPS.pace,
    )


if __name__ == "__main__":
    sys.exit(main(paced(ConsumerTiming()), SteppedInFlight))
