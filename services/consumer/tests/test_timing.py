"""The relations between the consumer's intervals."""

from __future__ import annotations

import pytest

from wearon_consumer.timing import ConsumerTiming


@pytest.mark.parametrize(
    ("intervals", "rule"),
    [
        ({"wait": 0}, "block for ever"),
        ({"wait": 6, "stalled_after": 20}, "renew its heartbeat"),
        ({"wait": 2, "idle_wait": 1}, "waits longer"),
        ({"longest_pause": 10}, "look like a death"),
        ({"first_pause": 6}, "pauses must grow"),
        ({"wait": 3, "stalled_after": 3, "recovery_interval": 1}, "count as ready"),
        ({"recovery_interval": 0}, "recovery_interval"),
        ({"recovery_interval": 30}, "recovery_interval < stalled_after"),
        ({"shutdown": -1}, "shutdown"),
    ],
)
def test_intervals_that_do_not_fit_together_are_refused(intervals: dict[str, float], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ConsumerTiming(**intervals)  # type: ignore[arg-type]
