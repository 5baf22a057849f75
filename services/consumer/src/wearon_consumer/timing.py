"""All intervals of the consumer, in seconds, and the relations between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConsumerTiming:
    """Handed to every part that waits. Raises ValueError if the intervals do not fit together."""

    heartbeat_ttl: float = 6.0
    """A consumer whose heartbeat key is older counts as dead, and others recover its elements."""
    wait: int = 1
    """Longest blocking pop while tasks wait in lanes, which want to be fed from time to time."""
    idle_wait: int = 60
    """Longest blocking pop while none does. Each one costs six commands, and hosted plans count them."""
    recovery_interval: float = 6.0
    """How often the lists of dead consumers are looked for."""
    first_pause: float = 0.1
    """Pause after the first error in a row; it doubles with each further one."""
    longest_pause: float = 4.0
    """The pause after an error grows no longer than this."""
    shutdown: float = 5.0
    """How long a stopping consumer tries to reach Redis before it leaves its batch to the others."""
    stalled_after: float = 10.0
    """Without progress for so long the consumer is not ready."""

    def __post_init__(self) -> None:
        rules = {
            "wait must be positive; 0 would block for ever": self.wait > 0,
            "a waiting consumer must renew its heartbeat: 2 x wait <= heartbeat_ttl": 2 * self.wait
            <= self.heartbeat_ttl,
            "an idle consumer waits longer: wait <= idle_wait": self.wait <= self.idle_wait,
            "a pause must not look like a death: longest_pause < heartbeat_ttl": self.longest_pause
            < self.heartbeat_ttl,
            "pauses must grow: 0 < first_pause <= longest_pause": 0 < self.first_pause <= self.longest_pause,
            "a waiting consumer must count as ready: wait < stalled_after": self.wait < self.stalled_after,
            "an idle consumer must count as ready: recovery_interval < stalled_after": self.recovery_interval
            < self.stalled_after,
            "recovery_interval must be positive": self.recovery_interval > 0,
            "shutdown must not be negative": self.shutdown >= 0,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))

    @property
    def idle_heartbeat_ttl(self) -> float:
        """How long an idle consumer is known to live without renewing: two waits."""
        return 2.0 * self.idle_wait

    @property
    def idle_grace(self) -> float:
        """How long an idle consumer may take to look at what Redis has moved to it, once that was seen."""
        return self.recovery_interval / 2
