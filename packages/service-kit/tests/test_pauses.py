"""Pauses between attempts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from wearon_service_kit.pauses import asked_pause, growing_pause


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


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("1.5", 1.5),
        ("4000", 3600),
        ("inf", 3600),
        ("Thu, 26 Nov 2026 08:00:20 GMT", 20),
        ("Thu, 26 Nov 2026 07:00:00 GMT", 0),
        ("Fri, 26 Nov 2027 08:00:00 GMT", 3600),
        ("-1", None),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("5, 9", None),
        ("Thu, 99 Foo 2026", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_of_at_most_an_hour(header: str, seconds: float | None) -> None:
    assert asked_pause(header, datetime(2026, 11, 26, 8, tzinfo=UTC)) == seconds
