"""Every period of a generator, and the relations between them that must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final

Now = Callable[[], datetime]
"""The time of day, with a zone."""
Clock = Callable[[], float]
"""Seconds that only go forward, from any beginning; `time.monotonic` but for tests."""

RENEWALS_IN_A_LEASE: Final = 3
"""So many renewals in a row may time out before a lease runs out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """All in seconds. Raises `ValueError` for periods that do not fit each other.

    Those that the database computes with are whole numbers.
    """

    # How a session stays with its holder
    lease: int = 28
    recovery_margin: int = 2
    """What the sweep leaves a holder on top of its lease: a renewal that was sent in time may count later."""
    renewal_interval: float = 8.0
    renewal_timeout: float = 6.0
    """For one call; a renewal that failed is repeated after `renewal_pause`."""
    renewal_pause: float = 0.5

    # How sessions and messages that nobody has come back
    sweep_interval: float = 10.0
    election: float = 30.0
    """The replica that sweeps is the sweeper for so long; a killed one is replaced then."""
    recovery_grace: int = 60
    """For a recovered job to be picked up before it is recovered again."""
    return_grace: int = 60
    """For the message of a job that was given back, or put off by the breaker, to reach the queue."""
    retry_grace: int = 30
    """For the retry after a rate limit to arrive once it is due."""
    older_worker_grace: int = 600
    """On top of STUCK_AFTER_SECONDS for a session that is processing and that the ledger does not know: the
    work of a worker from before the ledger."""

    # For how long a job tries
    deadline: int = 300
    """For one attempt, from its claim to the provider's answer."""
    patience_before_hold: float = 60.0
    """With Supabase, before the message goes back to the queue."""
    release_patience: float = 5.0
    """With Supabase, to give a session back; if that fails, its lease runs out."""
    own_storage_patience: float = 300.0
    """With our own Storage, for an input picture."""
    foreign_host_patience: float = 60.0
    """With a host that is not ours, for an input picture."""
    stop_patience: float = 30.0
    """With Supabase, after the process was asked to stop."""
    crash_pause: int = 10
    """Before a delivery that ended in an unexpected error is tried again."""

    lane_upkeep: float = 60.0
    """Between two looks for rules of lanes while no task waits; while some do, every sweep looks."""

    # How webhooks are sent
    webhook_poll: float = 1.0
    """Between two looks for what is due; at most so late is an event."""
    webhook_idle_poll: float = 5.0
    """The same while no endpoint is enabled, or Supabase is unavailable."""
    webhook_timeout: float = 10.0
    """For one request, and as much for the signing of its link."""
    webhook_lease: int = 60
    """A delivery that was claimed and not reported is sent again after this."""
    webhook_first_pause: float = 5.0
    """After the first failure; each further one triples it."""
    webhook_longest_pause: float = 3600.0
    """An endpoint that is back has everything after this, however long it was unreachable."""
    webhook_give_up: int = 24 * 3600
    """A delivery is tried for so long."""
    webhook_disable: int = 3 * 24 * 3600
    """An endpoint where nothing succeeds for so long is told nothing any more."""
    webhook_tidy: float = 60.0
    """Between two looks at the figures, when old events are forgotten too."""

    retention_interval: float = 60.0
    """Between two looks for pictures that are too old."""

    # What the broker and the breaker wait for
    visibility_timeout: int = 3600
    """After this the broker hands out an unacknowledged message again."""
    longest_wait: float = 2700.0
    """A job that waits longer to begin goes back to the queue: the broker would redeliver it."""
    probe: int = 330
    """After this a probe of the provider's quota that brought no answer is forgotten."""

    def __post_init__(self) -> None:
        """Check that the periods fit each other."""
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be above 0")
        _must(
            self.renewal_interval + RENEWALS_IN_A_LEASE * (self.renewal_timeout + self.renewal_pause)
            <= self.lease,
            f"a renewal interval and {RENEWALS_IN_A_LEASE} renewals that time out must fit a lease",
        )
        _must(self.election > 2 * self.sweep_interval, "an election must outlast two sweep intervals")
        _must(self.recovery_grace > self.sweep_interval, "a recovery grace must outlast a sweep interval")
        _must(
            self.webhook_lease > 2 * self.webhook_timeout,
            "a webhook's lease must outlast the signing of its link and its request",
        )
        _must(self.probe > self.deadline, "a probe must outlive a deadline")
        _must(
            self.longest_wait + 2 * self.deadline < self.visibility_timeout,
            "the longest wait and two deadlines (one for storing) must fit a visibility timeout",
        )


def utc_now() -> datetime:
    """The time of day by this machine's clock."""
    return datetime.now(UTC)


def _must(holds: bool, relation: str) -> None:
    if not holds:
        raise ValueError(relation)
