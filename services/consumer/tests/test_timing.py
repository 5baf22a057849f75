"""The relations between the consumer's intervals."""

from __future__ import annotations

import pytest

from wearon_consumer.timing import ConsumerTiming


@pytest.mark.parametrize(
    ("intervals", "rule"),
    [
        ({"wait": 0}, "block for ever"),
        ({"wait": 6, "stalled_after": 20}, "renew its heartbeat"),
        ({"longest_pause": 10}, "look like a death"),
        ({"first_pause": 6}, "pauses must grow"),
        ({"wait": 5}, "count as ready"),
        ({"recovery_interval": 0}, "recovery_interval"),
        ({"shutdown": -1}, "shutdown"),
    ],
)
def test_intervals_that_do_not_fit_together_are_refused(intervals: dict[str, float], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ConsumerTiming(**intervals)  # type: ignore[arg-type]
