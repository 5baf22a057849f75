"""Pauses between attempts."""

from __future__ import annotations

import pytest

from wearon_service_kit.pauses import growing_pause


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"), [(1, 0.05, 0.1), (2, 0.1, 0.2), (7, 2.5, 5), (10_000, 2.5, 5)]
)
def test_pause_doubles_with_each_failure_up_to_the_longest(
    failures: int, shortest: float, longest: float
) -> None:
    for _ in range(100):
        assert shortest <= growing_pause(failures, first=0.1, longest=5) <= longest


def test_those_who_failed_together_wait_differently_long() -> None:
    assert len({growing_pause(3, first=0.1, longest=5) for _ in range(20)}) > 10
