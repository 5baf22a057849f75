"""How the work on one delivery of a task ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a delivery whose message is dealt with."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Somebody cancelled the session before the provider was called for it."""
    SETTLED = "settled"
    """The session had ended before."""
    HELD_ELSEWHERE = "held_elsewhere"
    """Another delivery of the same task is being worked on."""
    LOST = "lost"
    """Another replica has taken the session over."""
    ABANDONED = "abandoned"
    """The process stops and cannot reach Supabase: the ledger brings the session back."""
    DEAD_LETTERED = "dead_lettered"
    REJECTED = "rejected"


class RetryReason(StrEnum):
    """Why a task goes back to the queue."""

    RATE_LIMITED = "rate_limited"
    PROVIDER_PAUSE = "provider_pause"
    SUPABASE_UNAVAILABLE = "supabase_unavailable"
    STOPPING = "stopping"
    TOO_LONG = "too_long"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Done:
    """The message is dealt with."""

    outcome: Outcome

    @property
    def label(self) -> str:
        """What metrics and traces call it."""
        return self.outcome.value


@dataclass(frozen=True, slots=True)
class Retry:
    """The task is to be published again, `after_seconds` from now."""

    reason: RetryReason
    after_seconds: int = 0
    attempt: str | None = None
    """`traceparent` of what was tried now, where spans are made; the next delivery is linked to it."""

    @property
    def label(self) -> str:
        """What metrics and traces call it."""
        return self.reason.value


Ending = Done | Retry
