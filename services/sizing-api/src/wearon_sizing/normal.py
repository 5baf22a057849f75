"""Probabilities of a mixture of normal vectors: that all parts lie below given edges, for many edges at once.

The direction of the largest variance is integrated exactly and the others by a fixed lattice of points.
Along that direction the vector lies below all edges in one interval; higher edges only widen it. So the
answers never fall when the edges rise, whatever the number of points, and are the same in every run.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Twice as many are used, each with its mirror image: 2 to 4 ms for a chart of 12 sizes. The error stays below
# 0.006 over random covariances of 3 to 5 measurements, and below 0.01 for a body of whom only the height is
# known (tests/test_normal.py).
LATTICE_POINTS: Final = 512
# The parts of a mixture share the points, each its own piece of the lattice, so that their errors are not the
# same; none gets fewer than these.
LEAST_POINTS: Final = 128
# A smaller standard deviation is one of 0: what is known exactly lies below an edge or not.
SMALLEST_SPREAD: Final = 1e-9
# Steps of 0.002 standard deviations: straight lines between them are off by less than 2e-7.
_TABLE_AT: Final = np.linspace(-8.0, 8.0, 8001)
_TABLE: Final = np.array([0.5 * math.erfc(-at / math.sqrt(2)) for at in _TABLE_AT])


def cumulative(values: Array) -> Array:
    """Probability that a standard normal number is below each of `values`; any shape, infinities welcome."""
    below: Array = np.interp(values, _TABLE_AT, _TABLE, left=0.0, right=1.0)
    return below


@cache
def _lattice(dimensions: int, count: int, piece: int) -> Array:
    """Standard normal points, (2 × count, dimensions), of the lattice's `piece`; one empty point for no
    dimensions."""
    if dimensions == 0:
        return np.zeros((1, 0))
    # The root of x^(d+1) = x + 1 generalises the golden ratio; multiples of its powers fill the cube evenly
    # (Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018).
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (dimensions + 1))
    powers = root ** -np.arange(1.0, dimensions + 1)
    steps = 0.5 + np.arange(piece * count + 1, (piece + 1) * count + 1)[:, None] * powers
    inverse = NormalDist().inv_cdf
    points = np.array([[inverse(part) for part in row] for row in (steps % 1.0).tolist()])
    return np.concatenate([points, -points])


def below_all(weights: Array, means: Array, covariances: Array, edges: Array) -> Array:
    """Probability that every part of a vector is below its edge: (k,) for `edges` (k, n), n up to 5.

    The vector is a mixture: `weights` (m,) add up to 1, `means` (m, n), `covariances` (m, n, n), positive
    semidefinite. Edges may be infinite. Raises ValueError for other values that are not finite.
    """
    if not (np.isfinite(means).all() and np.isfinite(covariances).all()):
        raise ValueError("means and covariances must be finite")
    count = max(LATTICE_POINTS // len(weights), LEAST_POINTS)
    pieces = (_lattice(means.shape[1] - 1, count, piece) for piece in range(len(weights)))
    parts = [
        _below_one(mean, cov, edges, points)
        for mean, cov, points in zip(means, covariances, pieces, strict=True)
    ]
    below: Array = weights @ np.stack(parts)
    return below


def _below_one(mean: Array, covariance: Array, edges: Array, points: Array) -> Array:
    # In standard deviations, so that no direction counts for more because its numbers are larger.
    scale = np.sqrt(np.maximum(np.diag(covariance), SMALLEST_SPREAD**2))
    covariance, mean, edges = covariance / np.outer(scale, scale), mean / scale, edges / scale
    variances, directions = np.linalg.eigh((covariance + covariance.T) / 2)
    # Rounding leaves tiny negative variances where measurements depend on each other.
    loadings = directions * np.sqrt(np.maximum(variances, 0.0))
    main, others = loadings[:, -1], loadings[:, :-1]
    rest = mean + points @ others.T

    room = edges[:, None, :] - rest[None]
    # Positions along the main direction, in standard deviations, between which all parts are below.
    upper = np.full(room.shape[:2], np.inf)
    lower = -upper
    for part, loading in enumerate(main):
        if abs(loading) > SMALLEST_SPREAD:
            at = room[:, :, part] / loading
            if loading > 0:
                upper = np.minimum(upper, at)
            else:
                lower = np.maximum(lower, at)
        else:
            upper = np.where(room[:, :, part] > 0, upper, -np.inf)
    inside: Array = np.maximum(cumulative(upper) - cumulative(lower), 0.0).mean(axis=1)
    return inside
