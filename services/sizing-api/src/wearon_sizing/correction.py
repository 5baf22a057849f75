"""Smooth functions learned from pictures whose people were measured: Gaussian processes. Pure.

One reads widths in a picture (`inputs.py`) and by how much the person's lengths differ from what the
population model expects; others say what such widths add to what is known. A picture unlike any of those that
were learned from is alike to none, and the correction fades with the likeness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wearon_sizing.reading_nets import ReadingNets
from wearon_sizing.silhouette import Array

Floats = NDArray[np.floating[Any]]

LIMIT: Final = 3.0
"""Inputs further from the mean than so many standard deviations count as this far."""
PLACE_STEP: Final = 0.1
"""Places are kept as whole numbers of steps, so many standard deviations each: small numbers pack well."""
KERNEL: Final = ((0.5, 1.0), (10.0, 6.0))
"""Heights and lengths of the two bells of the kernel; a length of 1 is the root mean square distance at which
one standard deviation in every input lies. The wide one does what a ridge regression would do."""
EXPECTED_COUNTS: Final = 3.0
"""How much more one expected length weighs in the distance than one input."""
NEIGHBOURS: Final = 20
FOREIGN: Final = 0.2
"""A picture with no more than this share of the usual likeness says nothing. One with all its inputs at LIMIT
reaches about that."""


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

    def standardised(self, inputs: Array) -> Array:
        """(n, inputs) in standard deviations from the mean, within LIMIT."""
        standard: Array = np.clip((inputs - self.mean) / self.scale, -LIMIT, LIMIT)
        return standard

    def standardised_lengths(self, expected: Array) -> Array:
        """(n, 5), the same of the expected lengths."""
        standard: Array = np.clip((expected - self.expected_mean) / self.expected_scale, -LIMIT, LIMIT)
        return standard

    def directions(self, inputs: Array) -> Array:
        """(n, directions): the standardised inputs on their main directions."""
        seen: Array = self.standardised(inputs) @ self.basis
        return seen

    def place(self, inputs: Array, expected: Array) -> Array:
        """(n, directions + 5), scaled so that squared distances are means over the inputs."""
        return self.scaled(self.directions(inputs), self.standardised_lengths(expected))

    def for_nets(self, inputs: Array, expected: Array) -> NDArray[np.float32]:
        """(n, inputs + 5): standardised inputs, and lengths beside them."""
        both = np.column_stack([self.standardised(inputs), self.standardised_lengths(expected)])
        return both.astype(np.float32)

    def scaled(self, places: Array, expected: Array) -> Array:
        """The two parts of a place beside each other: on the main directions, and standardised lengths."""
        count = len(self.mean) + EXPECTED_COUNTS * len(self.expected_mean)
        scaled: Array = np.column_stack([places, np.sqrt(EXPECTED_COUNTS) * expected]) / np.sqrt(count)
        return scaled


def sums_of_squares(rows: Floats) -> Floats:
    """(n,): one for each row."""
    sums: Floats = np.einsum("ij,ij->i", rows, rows)
    return sums


def squared_distances(a: Floats, b: Floats, b_sums: Floats | None = None) -> Array:
    """(n, m) between the rows of `a` and of `b`. `b_sums` (m,): `sums_of_squares(b)`, where it is known."""
    of_b = sums_of_squares(b) if b_sums is None else b_sums
    squares = sums_of_squares(a)[:, None] + of_b - 2 * a @ b.T
    return np.maximum(squares, 0.0).astype(np.float64)


def likeness(squared: Array) -> Array:
    """(n,): how near the nearest pictures are, by the narrow bell, from 1 (the same) to 0."""
    nearest = np.partition(squared, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    mean: Array = np.exp(-nearest / 2).mean(axis=1)
    return mean


def familiarity(alike: Array, usual: float) -> Array:
    """(n,) from 0, foreign, to 1, as like the others as nine of ten pictures of other people."""
    share: Array = np.clip((alike / usual - FOREIGN) / (1 - FOREIGN), 0.0, 1.0)
    return share


@dataclass(frozen=True, slots=True)
class Correction:
    """`points` (m, directions + 5) of the pictures learned from, `strengths` (m, outputs), `usual` (outputs,)
    what is said of a picture like no other, `usual_likeness` what nine of ten pictures of other people
    reach."""

    space: Space
    points: Floats
    strengths: Array
    usual: Array
    usual_likeness: float
    point_sums: Floats = field(init=False, repr=False)
    """`sums_of_squares` of the points, taken once: they are thousands."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "point_sums", sums_of_squares(self.points))

    def __call__(self, inputs: Array, expected: Array) -> tuple[Array, Array]:
        """The outputs (n, outputs), and how familiar the pictures look (n,), 0 to 1. `inputs` (n, inputs),
        `expected` (n, 5) cm."""
        places = self.space.place(inputs, expected).astype(self.points.dtype)
        squared = squared_distances(places, self.points, self.point_sums)
        familiar = familiarity(likeness(squared), self.usual_likeness)
        outputs: Array = self.usual + bells(squared) @ self.strengths
        return outputs, familiar


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a photo twice, with the `process` and with `nets`, and takes the mean: they err differently.
    How familiar a photo looks is the process's to say."""

    process: Correction
    nets: ReadingNets

    def __call__(self, inputs: Array, expected: Array) -> tuple[Array, Array]:
        """As a `Correction`."""
        outputs, familiar = self.process(inputs, expected)
        return read_twice(outputs, self.nets(self.process.space.for_nets(inputs, expected))), familiar


def read_twice(process: Array, nets: Array) -> Array:
    """(n, outputs): what process and networks say together."""
    mean: Array = (process + nets) / 2
    return mean


def correction_from(arrays: Mapping[str, Array], name: str) -> Correction:
    """The one that was kept under `name`."""

    def part(key: str) -> Array:
        return np.asarray(arrays[f"{name}_{key}"], dtype=np.float64)

    space = Space(part("mean"), part("scale"), part("basis"), part("expected_mean"), part("expected_scale"))
    # Single precision: all points are read for every photo, and the estimate changes by less than 0.001 cm.
    points = space.scaled(part("places") * PLACE_STEP, part("expected")).astype(np.float32)
    return Correction(space, points, part("strengths"), part("usual"), float(part("usual_likeness")))
