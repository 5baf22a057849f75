"""Letter sizes: which one a chest girth falls into, and how likely each is when the girth is uncertain.

Bands of EN 13402-3 by chest or bust girth in cm. A lower edge belongs to its band, beyond the ends it is XS
or XXL. No unisex standard was found, so where the sex is unknown or other the men's bands serve.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from wearon_contracts.sizing import FitPreference, Gender, Size

SIZES: Final = tuple(Size)
# The lower edges of S to XXL.
MEN: Final = (86.0, 94.0, 102.0, 110.0, 118.0)
WOMEN: Final = (82.0, 90.0, 98.0, 107.0, 119.0)
# The range is widened until its sizes are this likely together; with 0.76 it held the right size of only 85 %
# of bodies that were left out of fitting, where the weight was not known.
RANGE_PROBABILITY: Final = 0.8
# A neighbour this likely, compared with the likeliest size, is taken instead when the fit asks for it.
NEARLY_AS_LIKELY: Final = 0.6
# Which neighbour that is.
STEP: Final = {FitPreference.TIGHT: -1, FitPreference.LOOSE: 1}


class UncertainLength(Protocol):
    """A length that is known to within a distribution."""

    def below(self, edge_cm: float) -> float:
        """The probability that it is smaller than `edge_cm`."""


@dataclass(frozen=True, slots=True)
class SizeAdvice:
    """The size to take, the probability that it is the right one, and the range that most likely holds it."""

    size: Size
    confidence: float
    lower: Size
    upper: Size


def bands(gender: Gender | None) -> tuple[float, ...]:
    """The lower edges of S to XXL in cm of chest girth."""
    return WOMEN if gender is Gender.FEMALE else MEN


def size_of(chest_cm: float, gender: Gender | None) -> Size:
    """The right size for a chest girth that is known."""
    return SIZES[bisect_right(bands(gender), chest_cm)]


def likelihoods(chest: UncertainLength, gender: Gender | None) -> list[float]:
    """Probability of each size, XS first; they add up to 1."""
    cumulative = [0.0, *(chest.below(edge) for edge in bands(gender)), 1.0]
    return [upper - lower for lower, upper in pairwise(cumulative)]


def preferred(chances: Sequence[float], best: int, fit: FitPreference | None) -> int:
    """The size at `best`, or its neighbour where a tight or loose fit asks for that and it is nearly as
    likely."""
    wanted = best + STEP.get(fit or FitPreference.REGULAR, 0)
    near = 0 <= wanted < len(chances) and chances[wanted] >= NEARLY_AS_LIKELY * chances[best]
    return wanted if near else best


def advise(chest: UncertainLength, gender: Gender | None, fit: FitPreference | None = None) -> SizeAdvice:
    """The likeliest size. A tight or loose fit decides only between two nearly as likely."""
    chances = likelihoods(chest, gender)
    best = preferred(chances, max(range(len(chances)), key=chances.__getitem__), fit)
    lower = upper = best
    while sum(chances[lower : upper + 1]) < RANGE_PROBABILITY:
        down = chances[lower - 1] if lower else -1.0
        up = chances[upper + 1] if upper + 1 < len(chances) else -1.0
        if down >= up:
            lower -= 1
        else:
            upper += 1
    return SizeAdvice(SIZES[best], chances[best], SIZES[lower], SIZES[upper])
