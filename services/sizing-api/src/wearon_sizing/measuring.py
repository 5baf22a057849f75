"""From a silhouette, a height and perhaps a weight to girths and how far off they may be.

Three steps, all linear but one, with the numbers in `method.json` (written by tools/calibrate.py):

1. widths: the breadths of chest, waist and hip seen from the front, and the breadth of the shoulders, each a
   weighted sum of everything measured in the picture, of the height and, where known, of terms of the weight;
2. population: how girths follow from height, breadths (and weight) among 6,068 measured people, a quadratic;
3. rest: a weighted sum again, strongly damped, for what the picture tells beyond the three breadths.

The spread of the error is a weighted sum of a few things that make pictures harder to measure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np

from wearon_contracts.sizing import Measured
from wearon_sizing.silhouette import FEATURES, Array

GIRTHS: Final[tuple[Measured, ...]] = ("chest_cm", "waist_cm", "hip_cm")
MEASURED: Final[tuple[Measured, ...]] = (*GIRTHS, "shoulder_cm")
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
SPREAD_TERMS: Final = ("one", "waist_per_height", "hip_per_height", "folds", "cut")
# Half of an 80 % interval of a normal distribution, in standard deviations.
EIGHTY_PERCENT: Final = 1.2816
SMALLEST_SPREAD_CM: Final = 0.3


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value and the standard deviation of its error, both in cm."""

    value: float
    spread: float

    @property
    def interval(self) -> tuple[float, float]:
        """Holds the true value four times out of five."""
        half = EIGHTY_PERCENT * self.spread
        return self.value - half, self.value + half

    def below(self, edge_cm: float) -> float:
        """The probability that the true value is smaller than `edge_cm`."""
        return 0.5 * (1 + math.erf((edge_cm - self.value) / self.spread / math.sqrt(2)))


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
    spread: Array

    def estimate(self, inputs: Array, height: Array, weight: Array | None) -> Array:
        """Chest, waist, hip and shoulder in cm: (n, 4)."""
        widths = self.widths(inputs)
        girths = population_terms(height, widths[:, :3], weight) @ self.population + self.rest(inputs)
        return np.column_stack([girths, widths[:, 3]])

    def spreads(self, inputs: Array, estimates: Array) -> Array:
        """Standard deviations of the errors of `estimates` in cm: (n, 4)."""
        return np.maximum(spread_terms(inputs, estimates) @ self.spread, SMALLEST_SPREAD_CM)


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


_FOLDS: Final = [i for i, name in enumerate(FEATURES) if name.startswith("folds_")]
_CUT: Final = [i for i, name in enumerate(FEATURES) if name.startswith("cut_")]


def spread_terms(inputs: Array, estimates: Array) -> Array:
    """What makes an error larger: stoutness, folds of the clothes, arms that touch the body. (n, 5)."""
    return np.column_stack(
        [
            np.ones(len(inputs)),
            estimates[:, 1] / inputs[:, 0],
            estimates[:, 2] / inputs[:, 0],
            inputs[:, _FOLDS].sum(axis=1),
            inputs[:, _CUT].sum(axis=1) / 20,
        ]
    )


@dataclass(frozen=True, slots=True)
class Method:
    """Everything that was fitted. `steps` without and with the weight."""

    version: str
    height_only: Steps
    with_weight: Steps
    body_type_edges: Mapping[str, Mapping[str, float]]

    def measure(
        self, silhouette: Array, height_cm: float, weight_kg: float | None = None
    ) -> dict[Measured, Measurement]:
        """Measurements of one person by name (`MEASURED`). `silhouette` (features,)."""
        steps = self.height_only if weight_kg is None else self.with_weight
        weight = None if weight_kg is None else np.array([weight_kg])
        inputs = inputs_of(silhouette[None], weight)
        values = steps.estimate(inputs, np.array([height_cm]), weight)
        spreads = steps.spreads(inputs, values)
        return {
            name: Measurement(float(value), float(spread))
            for name, value, spread in zip(MEASURED, values[0], spreads[0], strict=True)
        }


def load_method() -> Method:
    """The method that ships with this package. Raises ValueError when the file belongs to other code."""
    return method_from(json.loads(files("wearon_sizing").joinpath("method.json").read_text()))


def method_from(document: Mapping[str, Any]) -> Method:
    if tuple(document["features"]) != FEATURES:
        raise ValueError(
            "method.json was fitted on other features than this code measures; run make calibrate"
        )

    def steps(part: Mapping[str, Any], inputs: Sequence[str]) -> Steps:
        def linear(entry: Mapping[str, Any]) -> Linear:
            slopes = np.array([entry["slopes"][name] for name in inputs], dtype=np.float64)
            return Linear(np.array(entry["intercept"], dtype=np.float64), slopes)

        return Steps(
            linear(part["widths"]),
            np.array(part["population"], dtype=np.float64),
            linear(part["rest"]),
            np.array(part["spread"], dtype=np.float64),
        )

    return Method(
        version=str(document["version"]),
        height_only=steps(document["height_only"], FEATURES),
        with_weight=steps(document["with_weight"], (*FEATURES, *WEIGHT_TERMS)),
        body_type_edges=document["body_types"],
    )
