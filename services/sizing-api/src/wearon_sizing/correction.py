"""What a photo adds to what is known: a Gaussian process over pictures whose people were measured. Pure.

The difference between a person's lengths and what the population model expects of them is learned as a smooth
function of what was read in the picture (`inputs.py`) and of that expectation. A picture unlike any of those
that were learned from is alike to none, and the correction fades with the likeness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from wearon_sizing.silhouette import Array

LIMIT: Final = 3.0
"""Inputs further from the mean than so many standard deviations count as this far."""
KERNEL: Final = ((0.5, 1.0), (10.0, 6.0))
"""Heights and lengths of the two bells of the kernel; a length of 1 is the root mean square distance at which
one standard deviation in every input lies. The wide one does what a ridge regression would do."""
EXPECTED_COUNTS: Final = 3.0
"""How much more one expected length weighs in the distance than one input."""
NEIGHBOURS: Final = 20


def bells(squared: Array) -> Array:
    """The kernel of mean squared distances."""
    total: Array = sum((h * np.exp(-squared / (2 * w * w)) for h, w in KERNEL), np.zeros_like(squared))
    return total


@dataclass(frozen=True, slots=True)
class Space:
    """Where pictures lie: standardised inputs on their main directions, and the expected lengths beside them.
    `mean`, `scale` (inputs,), `basis` (inputs, directions), `expected_mean`, `expected_scale` (5,)."""

    mean: Array
    scale: Array
    basis: Array
    expected_mean: Array
    expected_scale: Array

    def place(self, inputs: Array, expected: Array) -> Array:
        """(n, directions + 5), scaled so that squared distances are means over the inputs."""
        return self.scaled(
            np.clip((inputs - self.mean) / self.scale, -LIMIT, LIMIT) @ self.basis,
            np.clip((expected - self.expected_mean) / self.expected_scale, -LIMIT, LIMIT),
        )

    def scaled(self, places: Array, expected: Array) -> Array:
        """The two parts of a place beside each other: on the main directions, and standardised lengths."""
        count = len(self.mean) + EXPECTED_COUNTS * len(self.expected_mean)
        scaled: Array = np.column_stack([places, np.sqrt(EXPECTED_COUNTS) * expected]) / np.sqrt(count)
        return scaled


def squared_distances(a: Array, b: Array) -> Array:
    """(n, m) between the rows of `a` and of `b`."""
    squares: Array = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0.0)


def likeness(squared: Array) -> Array:
    """(n,): how near the nearest pictures are, by the narrow bell, from 1 (the same) to 0."""
    nearest = -np.partition(-np.exp(-squared / 2), NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    mean: Array = nearest.mean(axis=1)
    return mean


@dataclass(frozen=True, slots=True)
class Correction:
    """`points` (m, directions + 5) of the pictures learned from, `strengths` (m, outputs), `usual_likeness`:
    what nine of ten pictures of other people reach."""

    space: Space
    points: Array
    strengths: Array
    usual_likeness: float

    def __call__(self, inputs: Array, expected: Array) -> tuple[Array, Array]:
        """The outputs (n, outputs), and how familiar the pictures look (n,), 0 to 1. `inputs` (n, inputs),
        `expected` (n, 5) cm."""
        squared = squared_distances(self.space.place(inputs, expected), self.points)
        familiar: Array = np.clip(likeness(squared) / self.usual_likeness, 0.0, 1.0)
        outputs: Array = bells(squared) @ self.strengths
        return outputs, familiar


def correction_from(arrays: Mapping[str, Array], pictures: str, name: str) -> Correction:
    """The correction kept under `name`, learned from the `pictures` whose inputs several corrections
    share."""

    def part(key: str) -> Array:
        return np.asarray(arrays[key], dtype=np.float64)

    space = Space(
        part(f"{pictures}_mean"),
        part(f"{pictures}_scale"),
        part(f"{pictures}_basis"),
        part(f"{name}_expected_mean"),
        part(f"{name}_expected_scale"),
    )
    points = space.scaled(part(f"{pictures}_places"), part(f"{name}_expected"))
    return Correction(space, points, part(f"{name}_strengths"), float(part(f"{name}_usual_likeness")))
