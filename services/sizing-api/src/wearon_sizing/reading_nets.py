"""Small networks that read widths and lengths from the numbers of a photo: the mean of several. Pure.

Each has two hidden layers beside a straight line from the inputs. tools/fit_nets.py trains them; the numbers
are in `front_nets.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wearon_sizing.silhouette import Array

Weights = tuple[NDArray[np.float32], ...]
NAMES = ("first", "first_start", "second", "second_start", "third", "start", "line")


@dataclass(frozen=True, slots=True)
class ReadingNets:
    """`weights` of k networks in the order of NAMES: (k, inputs, hidden), (k, 1, hidden),
    (k, hidden, hidden), (k, 1, hidden), (k, hidden, outputs), (k, 1, outputs), (k, inputs, outputs).
    `middle`, `scale` (outputs,) in cm: what 0 and 1 of the networks stand for."""

    weights: Weights
    middle: Array
    scale: Array

    def __call__(self, inputs: NDArray[np.float32]) -> Array:
        """(n, outputs) in cm. `inputs` (n, inputs), standardised."""
        first, first_start, second, second_start, third, start, line = self.weights
        hidden = silu(inputs @ first + first_start)
        hidden = silu(hidden @ second + second_start)
        read = (hidden @ third + start + inputs @ line).mean(axis=0)
        outputs: Array = self.middle + self.scale * read.astype(np.float64)
        return outputs


def silu(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nothing of large negative values, all of large positive ones (the function SiLU)."""
    result: NDArray[np.float32] = values / (1 + np.exp(-values))
    return result


def nets_from(arrays: Mapping[str, NDArray[np.floating]], name: str) -> ReadingNets:
    """The ones that were kept under `name`."""
    return ReadingNets(
        tuple(np.asarray(arrays[f"{name}_{part}"], np.float32) for part in NAMES),
        np.asarray(arrays[f"{name}_middle"], np.float64),
        np.asarray(arrays[f"{name}_scale"], np.float64),
    )


def kept_nets(name: str, nets: ReadingNets) -> dict[str, NDArray[np.floating]]:
    """The arrays of some networks under their name, with half precision."""
    return {
        **{f"{name}_{part}": values.astype("f2") for part, values in zip(NAMES, nets.weights, strict=True)},
        f"{name}_middle": nets.middle,
        f"{name}_scale": nets.scale,
    }
