"""`python -m wearon_consumer` with named steps; the heartbeat's period is divided by CHAOS_PACE.

popped       the blocking pop has returned an element
taken        a batch is in flight and known to the process
handing-on   the messages are made, nothing of them has been sent
handed-on    Redis has done it, the process has not looked at the answer
recovered    elements of a dead consumer have been put back
"""

from __future__ import annotations

import sys
from typing import Any, Final

import redis
from tests.chaos.steps import Steps

import wearon_consumer.__main__
from wearon_consumer import bridge, inflight
from wearon_consumer.inflight import InFlight, Load, Turn

STEPS: Final = Steps()

_turn, _recover_some, _blmove = InFlight.turn, InFlight.recover_some, redis.Redis.blmove


def turn(self: InFlight, ticket: str, load: Load | None = None, **options: Any) -> Turn:
    if load is not None:
        STEPS.at("handing-on")
    answer = _turn(self, ticket, load, **options)
    if load is not None:
        STEPS.at("handed-on")
    if answer.elements:
        STEPS.at("taken")
    return answer


def recover_some(self: InFlight) -> dict[str, int]:
    recovered = _recover_some(self)
    if recovered:
        STEPS.at("recovered", elements=sum(recovered.values()))
    return recovered


def blmove(self: redis.Redis, *arguments: Any) -> Any:
    element = _blmove(self, *arguments)
    if element is not None:
        STEPS.at("popped")
    return element


if __name__ == "__main__":
    InFlight.turn = turn  # type: ignore[method-assign]
    InFlight.recover_some = recover_some  # type: ignore[method-assign]
    redis.Redis.blmove = blmove  # type: ignore[method-assign]
    inflight.HEARTBEAT_MS = bridge.HEARTBEAT_MS = round(10_000 / min(STEPS.pace, 5.0))  # type: ignore[misc]
    sys.exit(wearon_consumer.__main__.main())
