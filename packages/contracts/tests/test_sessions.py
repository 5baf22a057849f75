from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import pytest
from pydantic import ValidationError

from wearon_contracts.sessions import SETTLED, TRANSITIONS, SessionStatus, SessionUpdate

STATUSES: tuple[SessionStatus, ...] = get_args(SessionStatus)
LEGAL = {
    ("queued", "processing"),
    ("queued", "failed"),
    ("pending", "processing"),
    ("pending", "failed"),
    ("processing", "completed"),
    ("processing", "failed"),
    ("processing", "queued"),  # a rate-limited job waits for its retry
}


def test_only_these_steps_are_legal() -> None:
    assert set(TRANSITIONS) == set(STATUSES)
    assert {(old, new) for old, following in TRANSITIONS.items() for new in following} == LEGAL


def test_the_settled_states_are_those_that_nothing_follows() -> None:
    assert {status for status in STATUSES if not TRANSITIONS[status]} == SETTLED


def test_every_state_can_still_be_settled() -> None:
    for status in STATUSES:
        reached: set[SessionStatus] = {status}
        for _ in STATUSES:
            reached |= {after for one in reached for after in TRANSITIONS[one]}
        assert reached & SETTLED


def test_an_update_is_read_from_a_whole_row() -> None:
    update = SessionUpdate.model_validate(
        {
            "id": "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11",
            "status": "completed",
            "credits_used": 1,
            "completed_at": "2026-11-23T23:00:00.5+02:00",
            "estimated_cost_usd": 0.065,
        }
    )
    assert update.completed_at == datetime(2026, 11, 23, 21, 0, 0, 500_000, tzinfo=UTC)
    assert update.error_message is None


def test_a_status_nobody_knows_is_refused() -> None:
    with pytest.raises(ValidationError):
        SessionUpdate.model_validate({"status": "cancelled"})
