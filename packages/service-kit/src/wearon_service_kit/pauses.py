"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_LONGEST_ASKED_PAUSE: Final = 3600.0
"""Seconds that a server is believed to mean."""


def growing_pause(failures: int, *, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row, 1 at least.

    Doubles from `first` to `longest`; between half and all of it by chance, so that those who failed together
    do not come back together.
    """
    full = min(longest, first * 2.0 ** min(failures - 1, 16))
    return full * random.uniform(0.5, 1.0)  # noqa: S311 - spreads callers, hides nothing


def asked_pause(header: str, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, 0 to 3600; None if it cannot be read.

    It holds seconds or a date (RFC 9110, section 10.2.3). `now`: what a date is counted from.
    """
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except (ValueError, TypeError, IndexError, OverflowError):  # what email.utils raises on odd dates
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = max(0.0, (moment - now).total_seconds())
    return min(seconds, _LONGEST_ASKED_PAUSE) if seconds >= 0 else None
