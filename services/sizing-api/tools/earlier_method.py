"""The earlier method (version 1), kept so that the bench can print it beside today's.

Three steps, all linear but one, with the numbers in `earlier_method.json`:

1. widths: the breadths of chest, waist and hip seen from the front, and the breadth of the shoulders, each a
   weighted sum of everything measured in the picture, of the height and, where known, of terms of the weight;
2. population: how girths follow from height, breadths (and weight) among 6,068 measured people, a quadratic;
3. rest: a weighted sum again, strongly damped, for what the picture tells beyond the three breadths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from wearon_sizing.silhouette import FEATURES, Array, Silhouette

WEIGHT_TERMS: Final = (
    "weight",
    "root_weight_per_height",
    "weight_per_height_squared",
    "root_weight",
    "stoutness",
)
STOUT_BMI: Final = 33.0
"""Body mass index in kg/m² from which on more weight makes less girth. The cross-validated error of the chest
shrinks from 26 up to here; 34 adds nothing."""
FOLD_SPACINGS: Final = (1, 2, 4)
"""Rows between the points whose second differences tell how folded an outline is."""
CUT_CM: Final = 0.6
"""A torso edge nearer than this to the bone of an arm was cut off there."""
# Parts whose outline shows folds, and the rows of it that do.
CLOTHED: Final[Mapping[str, Callable[[Silhouette], Array]]] = {
    "torso": lambda s: s.seen[16:45],
    "legs": lambda s: np.concatenate([s.limbs["thigh"][:, 6:], s.limbs["calf"]], axis=1),
    "arms": lambda s: np.concatenate([s.limbs["upper_arm"][:, 4:], s.limbs["forearm"]], axis=1),
    "body": lambda s: s.body[25:48, None],
}
# Rows of the torso in which arms may cut the outline off.
CUT_BANDS: Final = {
    "chest": slice(8, 18),
    "waist": slice(18, 26),
    "belly": slice(26, 36),
    "hip": slice(36, 47),
}
NUMBERS: Final = (
    *FEATURES,
    *(f"folds_{part}_{spacing}" for part in CLOTHED for spacing in FOLD_SPACINGS),
    *(f"cut_{band}" for band in CUT_BANDS),
)
"""What this method works from: today's widths and lengths, the folds of the outline in cm, and in how many
rows an arm cut the outline off."""


def numbers_of(silhouette: Silhouette) -> Array:
    """(NUMBERS,)."""
    folded = [size for outline in CLOTHED.values() for size in folds(outline(silhouette))]
    cut = silhouette.arms - silhouette.seen < CUT_CM
    return np.array([*silhouette.values, *folded, *(cut[rows].sum() for rows in CUT_BANDS.values())])


def folds(profile: Array) -> list[float]:
    """The mean size of an outline's second differences at FOLD_SPACINGS, in cm. `profile` (..., n, edges)."""
    return [
        float(
            np.minimum(
                np.abs(profile[..., : -2 * s, :] - 2 * profile[..., s:-s, :] + profile[..., 2 * s :, :]), 3.0
            ).mean()
        )
        for s in FOLD_SPACINGS
    ]


@dataclass(frozen=True, slots=True)
class Linear:
    """`intercept` (outputs,) and `slopes` (inputs, outputs)."""

    intercept: Array
    slopes: Array

    def __call__(self, inputs: Array) -> Array:
        outputs: Array = self.intercept + inputs @ self.slopes
        return outputs


@dataclass(frozen=True, slots=True)
class Steps:
    """The fitted numbers for one set of inputs. Works on one row or on many (n, inputs)."""

    widths: Linear
    population: Array
    rest: Linear

    def estimate(self, inputs: Array, height: Array, weight: Array | None) -> Array:
        """Chest, waist, hip and shoulder in cm: (n, 4)."""
        widths = self.widths(inputs)
        girths = population_terms(height, widths[:, :3], weight) @ self.population + self.rest(inputs)
        return np.column_stack([girths, widths[:, 3]])


def inputs_of(silhouettes: Array, weight: Array | None) -> Array:
    """What the weighted sums run over: silhouettes (n, features), then terms of the weight if known."""
    if weight is None:
        return silhouettes
    height = silhouettes[:, 0]
    bmi = weight / height**2 * 1e4
    stoutness = np.maximum(0.0, bmi - STOUT_BMI)
    return np.column_stack([silhouettes, weight, np.sqrt(weight / height), bmi, np.sqrt(weight), stoutness])


def population_terms(height: Array, breadths: Array, weight: Array | None) -> Array:
    """A quadratic in height, breadths and, where known, the girth of a cylinder of that weight."""
    columns = [height / 100, *(breadths.T / 30)]
    if weight is not None:
        columns.append(np.sqrt(weight / height))
    products = [a * b for i, a in enumerate(columns) for b in columns[i:]]
    return np.column_stack([np.ones(len(height)), *columns, *products])


@dataclass(frozen=True, slots=True)
class Method:
    """Everything that was fitted. `steps` without and with the weight."""

    height_only: Steps
    with_weight: Steps

    def measure(self, silhouette: Silhouette, height_cm: float, weight_kg: float | None = None) -> Array:
        """Chest, waist, hip and shoulder of one person in cm (4,)."""
        steps = self.height_only if weight_kg is None else self.with_weight
        weight = None if weight_kg is None else np.array([weight_kg])
        inputs = inputs_of(numbers_of(silhouette)[None], weight)
        values: Array = steps.estimate(inputs, np.array([height_cm]), weight)[0]
        return values


def load_earlier() -> Method:
    """The method as it was fitted on the earlier renders."""
    document = json.loads(Path(__file__).with_name("earlier_method.json").read_text())

    def steps(part: Mapping[str, Any], inputs: Sequence[str]) -> Steps:
        def linear(entry: Mapping[str, Any]) -> Linear:
            slopes = np.array([entry["slopes"][name] for name in inputs], dtype=np.float64)
            return Linear(np.array(entry["intercept"], dtype=np.float64), slopes)

        return Steps(
            linear(part["widths"]),
            np.array(part["population"], dtype=np.float64),
            linear(part["rest"]),
        )

    return Method(
        height_only=steps(document["height_only"], NUMBERS),
        with_weight=steps(document["with_weight"], (*NUMBERS, *WEIGHT_TERMS)),
    )
