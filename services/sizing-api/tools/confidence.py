"""Whether a stated confidence means what it says, bin by bin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from wearon_contracts.sizing import Gender
from wearon_sizing.silhouette import Array
from wearon_sizing.sizes import SIZES, SizeAdvice, size_of

BINS = (0.0, 0.45, 0.55, 0.65, 0.75, 0.85, 1.01)
SMALLEST_BIN = 40
LEAST_ALLOWED = 0.08


@dataclass(frozen=True)
class Bin:
    """Stated confidences from `low` to `high`: how many, their mean, and the share that was right."""

    low: float
    high: float
    count: int
    stated: float
    right: float
    two_standard_errors: float

    @property
    def allowed(self) -> float:
        return max(LEAST_ALLOWED, self.two_standard_errors)

    @property
    def large_enough(self) -> bool:
        return self.count >= SMALLEST_BIN

    @property
    def missed(self) -> bool:
        return self.large_enough and abs(self.stated - self.right) > self.allowed


def right_sizes(chests: Sequence[float], genders: Sequence[Gender | None]) -> list[int]:
    """The true sizes' places in SIZES."""
    return [SIZES.index(size_of(chest, gender)) for chest, gender in zip(chests, genders, strict=True)]


def clustered(values: Array, bodies: Sequence[str]) -> Array:
    """Standard errors of the column means of `values` (n, k) when rows of one body go together: (k,)."""
    names, owner = np.unique(np.array(bodies), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, owner, values - values.mean(axis=0))
    errors: Array = np.sqrt((sums**2).sum(axis=0)) / len(values)
    return errors


def bins_of(advice: Sequence[SizeAdvice], right: Sequence[int], bodies: Sequence[str]) -> list[Bin]:
    """Those that hold anything. `right`: places in SIZES; `bodies`: whose picture each is."""
    confidence = np.array([each.confidence for each in advice])
    hits = np.array([SIZES.index(each.size) == size for each, size in zip(advice, right, strict=True)], float)
    bins = []
    for low, high in pairwise(BINS):
        rows = np.flatnonzero((confidence >= low) & (confidence < high))
        if len(rows):
            doubled = 2 * float(clustered(hits[rows, None], [bodies[row] for row in rows.tolist()])[0])
            stated, share = float(confidence[rows].mean()), float(hits[rows].mean())
            bins.append(Bin(low, high, len(rows), stated, share, doubled))
    return bins


def table(bins: Sequence[Bin]) -> str:
    """One line for each."""
    lines = ["  confidence        n  stated   right  2 s.e.  allowed"]
    for each in bins:
        verdict = "MISSED" if each.missed else "" if each.large_enough else "(few)"
        errors = f"{each.two_standard_errors:7.3f} {each.allowed:8.3f}"
        numbers = f"{each.count:6d} {each.stated:7.3f} {each.right:7.3f} {errors}"
        lines.append(f"  {each.low:.2f} to {min(each.high, 1):.2f} {numbers} {verdict}".rstrip())
    return "\n".join(lines)
