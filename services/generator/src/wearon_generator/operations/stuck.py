"""Sessions that nothing will ever run: find them, fail and refund them."""

from __future__ import annotations

import time
from typing import TypedDict

from wearon_contracts.errors import ErrorCode
from wearon_generator.operations.connections import Connections
from wearon_generator.operations.values import Row
from wearon_generator.recovery import ScanBudget, fail_orphans, find_orphans


class StuckSession(TypedDict):
    """A session the next sweep of a generator would fail and refund."""

    channel: str
    session_id: str


class Stuck(TypedDict):
    """The stuck sessions, and how each was settled, as the function generation_reap answers."""

    stuck: list[StuckSession]
    reaped: list[Row]


async def reap(at: Connections, *, only_look: bool) -> Stuck:
    """Find stuck sessions, at most 100, and fail and refund them unless `only_look`."""
    found = await find_orphans(at.ledger, at.queues, at.stuck_after, ScanBudget(time.monotonic))
    reaped = (
        []
        if only_look or not found
        else await fail_orphans(at.ledger, found, at.stuck_after, ErrorCode.STUCK)
    )
    return {
        "stuck": [{"channel": one.channel.value, "session_id": str(one.session_id)} for one in found],
        "reaped": reaped,
    }
