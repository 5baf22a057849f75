"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random


def growing_pause(failures: int, *, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row, 1 at least.

    Doubles from `first` to `longest`; between half and all of it by chance, so that those who failed together
    do not come back together.
    """
    full = min(longest, first * 2.0 ** min(failures - 1, 16))
    return full * random.uniform(0.5, 1.0)  # noqa: S311 - spreads callers, hides nothing
