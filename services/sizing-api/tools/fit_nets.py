"""Trains the small networks that read a photo's numbers (`reading_nets.py`); calibrate.py calls it.

All networks of one kind are trained at once, each with other beginnings and another order of the pictures.
Inputs are made a little noisy and hidden values are left out at random (dropout), so that the networks do not
learn the bodies by heart. AdamW (Loshchilov and Hutter, 2019) with a rate that rises and falls once. NumPy is
enough for 150,000 weights, so `make calibrate` needs no PyTorch. The same result every time on the same
machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wearon_sizing.reading_nets import ReadingNets, Weights, silu
from wearon_sizing.silhouette import Array

NETS, HIDDEN = 4, 96
EPOCHS, BATCH = 30, 64
DROPOUT = 0.3
"""Share of the hidden values left out of each step."""
INPUT_NOISE = 0.1
"""Standard deviation of the noise on standardised inputs."""
RATE, RISING = 3e-3, 0.3
"""The largest step of a weight, and the share of the steps in which it grows."""
WEIGHT_DECAY = 0.5
BETAS = (0.9, 0.999)
EPSILON = 1e-8

Batch = NDArray[np.float32]


def fit_nets(inputs: Batch, targets: Array) -> ReadingNets:
    """`inputs` (n, inputs) standardised, `targets` (n, outputs) in cm, NaN where nothing is known."""
    middle, scale = np.nanmean(targets, axis=0), np.nanstd(targets, axis=0)
    wanted = ((targets - middle) / scale).astype(np.float32)
    rng = np.random.default_rng(20240501)
    weights = initial_weights(inputs.shape[1], targets.shape[1], rng)
    optimiser = Optimiser(weights)
    steps = EPOCHS * (len(inputs) // BATCH)
    for step, rows in enumerate(batches(len(inputs), rng), start=1):
        slopes = gradients_of(weights, inputs[rows], wanted[rows], rng)
        optimiser.change(slopes, rate_at(step / steps))
    # Kept with half precision; what is tried on others must be what is kept.
    halved = tuple(values.astype("f2").astype("f4") for values in weights)
    return ReadingNets(halved, middle, scale)


class Optimiser:
    """AdamW: changes `weights` in place."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._means, self._squares = ([np.zeros_like(values) for values in weights] for _ in BETAS)
        self._steps = 0

    def change(self, slopes: list[Batch], rate: float) -> None:
        """One step of size `rate` against the slopes."""
        self._steps += 1
        begun = [1 - memory**self._steps for memory in BETAS]
        for place, slope in enumerate(slopes):
            self._means[place] += (1 - BETAS[0]) * (slope - self._means[place])
            self._squares[place] += (1 - BETAS[1]) * (slope * slope - self._squares[place])
            spread = np.sqrt(self._squares[place] / begun[1]) + EPSILON
            values = self._weights[place]
            values *= 1 - rate * WEIGHT_DECAY
            values -= rate * self._means[place] / begun[0] / spread


def initial_weights(inputs: int, outputs: int, rng: np.random.Generator) -> Weights:
    """Random weights in the order of `reading_nets.NAMES`, within 1 / sqrt(what goes in)."""
    sizes = (
        (inputs, inputs, HIDDEN),
        (inputs, 1, HIDDEN),
        (HIDDEN, HIDDEN, HIDDEN),
        (HIDDEN, 1, HIDDEN),
        (HIDDEN, HIDDEN, outputs),
        (HIDDEN, 1, outputs),
        (inputs, inputs, outputs),
    )
    return tuple(
        rng.uniform(-(fan**-0.5), fan**-0.5, (NETS, rows, columns)).astype(np.float32)
        for fan, rows, columns in sizes
    )


def batches(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Rows (NETS, BATCH) for each step; every network sees every picture once a round."""
    for _ in range(EPOCHS):
        order = np.argsort(rng.random((NETS, count)), axis=1)
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[:, start : start + BATCH]


def rate_at(share: float) -> float:
    """The rate after this share of the steps: up from a 25th to RATE, and down to nothing, along cosines."""
    if share < RISING:
        low, high, way = RATE / 25, RATE, share / RISING
    else:
        low, high, way = RATE, 0.0, (share - RISING) / (1 - RISING)
    return float(low + (high - low) * (1 - np.cos(np.pi * way)) / 2)


def gradients_of(weights: Weights, inputs: Batch, wanted: Batch, rng: np.random.Generator) -> list[Batch]:
    """How the mean squared error changes with each weight. `inputs`, `wanted` (NETS, BATCH, numbers)."""
    first, first_start, second, second_start, third, start, line = weights
    noise = rng.standard_normal(inputs.shape, dtype=np.float32)
    seen = (inputs + INPUT_NOISE * noise).astype(np.float32, copy=False)
    before_one = (seen @ first + first_start).astype(np.float32, copy=False)
    keep_one = kept_at_random(before_one.shape, rng)
    one = silu(before_one) * keep_one
    before_two = (one @ second + second_start).astype(np.float32, copy=False)
    keep_two = kept_at_random(before_two.shape, rng)
    two = silu(before_two) * keep_two
    gap = two @ third + start + seen @ line - wanted
    known = ~np.isnan(gap)
    off = np.where(known, gap, 0) * np.float32(2 / (BATCH * wanted.shape[2]))
    at_two = (off @ transposed(third)) * keep_two * silu_derivative(before_two)
    at_one = (at_two @ transposed(second)) * keep_one * silu_derivative(before_one)
    return [
        transposed(seen) @ at_one,
        at_one.sum(axis=1, keepdims=True),
        transposed(one) @ at_two,
        at_two.sum(axis=1, keepdims=True),
        transposed(two) @ off,
        off.sum(axis=1, keepdims=True),
        transposed(seen) @ off,
    ]


def kept_at_random(shape: tuple[int, ...], rng: np.random.Generator) -> Batch:
    """0 for what is left out; the rest is larger in return."""
    return ((rng.random(shape, dtype=np.float32) >= DROPOUT) / (1 - DROPOUT)).astype(np.float32)


def silu_derivative(values: Batch) -> Batch:
    share = 1 / (1 + np.exp(-values))
    return np.asarray(share * (1 + values * (1 - share)), np.float32)


def transposed(values: Batch) -> Batch:
    """Rows and columns of each network exchanged."""
    return values.transpose(0, 2, 1)
