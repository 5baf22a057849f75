"""What is known of a body before any photo is looked at: how girths follow from height, sex and weight.

One Gaussian mixture says everything that is not certain. Its parts are the two sexes, as far as the sex is
not known, times seven degrees of stoutness, as far as the weight is not known. Within a part the five lengths
are normally distributed around a straight line in height and stoutness `sqrt(weight / height)` (the radius of
a cylinder of that height and weight, but for a constant; girths of measured people follow it without a bend).

The numbers are in `population.json`, written by tools/fit_population.py: lines and covariances from ANSUR II
(6,068 US soldiers), the spread of stoutness and the hips of heavy bodies also from NHANES (8,302 US adults).
Adults only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from wearon_contracts.sizing import Gender, Measured

Array = NDArray[np.float64]

LENGTHS: Final[tuple[Measured, ...]] = get_args(Measured)
SEXES: Final = (Gender.FEMALE, Gender.MALE)
HEIGHTS_CM: Final = (140.0, 205.0)
BODY_MASS_INDICES: Final = (15.5, 55.0)
"""Nobody in the two surveys' bulk lies outside these; there the straight lines are drawn on, not measured."""

OUTSIDE_POPULATION: Final = (
    "Hardly anybody of this build was measured, so the ranges may be too narrow. Please check what was given:"
    " the height in centimetres, the weight in kilograms."
)

HALVINGS: Final = 36
"""From 24 standard deviations down to less than a millionth of a millimetre."""

# Seven points and weights of Gauss and Hermite's rule: the mean over a normal distribution, exact up to the
# thirteenth power.
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_SHARES: Final = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()


@dataclass(frozen=True)
class Posterior:
    """What is known of the five lengths (`LENGTHS`, cm) of one person: a mixture of normal distributions.

    `weights` (k,) add up to 1, `means` (k, 5) in cm, `covariances` (k, 5, 5) in cm².
    """

    weights: Array
    means: Array
    covariances: Array

    @cached_property
    def mean(self) -> Array:
        """(5,) in cm."""
        mean: Array = self.weights @ self.means
        return mean

    @cached_property
    def covariance(self) -> Array:
        """(5, 5) in cm²."""
        apart = self.means - self.mean
        between = np.einsum("k,ki,kj->ij", self.weights, apart, apart)
        covariance: Array = between + np.einsum("k,kij->ij", self.weights, self.covariances)
        return covariance

    def value(self, name: Measured) -> float:
        """The expected length in cm."""
        return float(self.mean[LENGTHS.index(name)])

    def spread(self, name: Measured) -> float:
        """Its standard deviation in cm."""
        index = LENGTHS.index(name)
        return math.sqrt(self.covariance[index, index])

    def below(self, name: Measured, edge_cm: float) -> float:
        """The probability that the length is smaller than `edge_cm`."""
        return _below(self._parts(name), edge_cm)

    def _parts(self, name: Measured) -> list[tuple[float, float, float]]:
        """Weight, mean and standard deviation of each part of the mixture for one length."""
        index = LENGTHS.index(name)
        spreads = np.sqrt(self.covariances[:, index, index])
        return list(zip(self.weights.tolist(), self.means[:, index].tolist(), spreads.tolist(), strict=True))

    def quantile(self, name: Measured, share: float) -> float:
        """The length in cm that this share of such people stays below. `share` between 0 and 1."""
        parts, middle, reach = self._parts(name), self.value(name), 12 * self.spread(name)
        low, high = middle - reach, middle + reach
        for _ in range(HALVINGS):
            between = (low + high) / 2
            if _below(parts, between) < share:
                low = between
            else:
                high = between
        return (low + high) / 2

    def interval(self, name: Measured, share: float = 0.8) -> tuple[float, float]:
        """Holds the true length with probability `share`; as likely to lie above as below."""
        tail = (1 - share) / 2
        return self.quantile(name, tail), self.quantile(name, 1 - tail)

    def widened(self, by: Array) -> Posterior:
        """The same means, and one more doubt about all lengths together: standard deviations `by` (5,) cm."""
        return Posterior(self.weights, self.means, self.covariances + np.outer(by, by))


def _below(parts: Sequence[tuple[float, float, float]], edge_cm: float) -> float:
    """The share of a mixture of normal distributions (weights, means, standard deviations) below an edge."""
    return sum(
        weight * (0.5 + 0.5 * math.erf((edge_cm - mean) / (spread * math.sqrt(2))))
        for weight, mean, spread in parts
    )


@dataclass(frozen=True, slots=True)
class PosteriorLength:
    """One length of a posterior, as `sizes` asks for it."""

    body: Posterior
    name: Measured

    def below(self, edge_cm: float) -> float:
        """The probability that it is smaller than `edge_cm`."""
        return self.body.below(self.name, edge_cm)


def mixed(weights: Sequence[float] | Array, parts: Sequence[Posterior]) -> Posterior:
    """One mixture of several, in proportion to `weights`."""
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    return Posterior(
        np.concatenate([share * part.weights for share, part in zip(shares, parts, strict=True)]),
        np.concatenate([part.means for part in parts]),
        np.concatenate([part.covariances for part in parts]),
    )


def stoutness(height_cm: float, weight_kg: float) -> float:
    """Square root of kg per cm; 0.6 for the slim, 0.85 for the heavy."""
    return math.sqrt(weight_kg / height_cm)


@dataclass(frozen=True, slots=True)
class SexModel:
    """The people of one sex. Heights (cm) are normal; the logarithm of stoutness is normal around a line in
    height; `intercept`, `per_height`, `per_stoutness` (5,) give the lengths in cm; `covariance` (5, 5) of
    what that leaves, at `usual_stoutness`; `growth` (5,): by how much of itself a standard deviation grows
    with each unit of stoutness; `hip_beyond` cm of hip for every kg/m² beyond `beyond_bmi`."""

    height_mean: float
    height_spread: float
    log_stoutness: tuple[float, float]
    log_stoutness_spread: float
    intercept: Array
    per_height: Array
    per_stoutness: Array
    usual_stoutness: float
    covariance: Array
    growth: Array
    beyond_bmi: float
    hip_beyond: float

    def log_stoutness_at(self, height_cm: float) -> float:
        """The mean logarithm of stoutness of people of this height."""
        intercept, slope = self.log_stoutness
        return intercept + slope * height_cm

    def log_likelihood(self, height_cm: float, weight_kg: float | None) -> float:
        """How well somebody of this sex fits, up to a constant."""
        z = (height_cm - self.height_mean) / self.height_spread
        total = -0.5 * z * z - math.log(self.height_spread)
        if weight_kg is not None:
            gap = math.log(stoutness(height_cm, weight_kg)) - self.log_stoutness_at(height_cm)
            z = gap / self.log_stoutness_spread
            total += -0.5 * z * z - math.log(self.log_stoutness_spread)
        return total

    def people(self, height_cm: float, weight_kg: float | None) -> Posterior:
        """Those of this height and, where known, this weight."""
        if weight_kg is not None:
            shares, stout = np.ones(1), np.array([stoutness(height_cm, weight_kg)])
        else:
            shares = _SHARES
            stout = np.exp(self.log_stoutness_at(height_cm) + self.log_stoutness_spread * _NODES)
        means = self.intercept + self.per_height * height_cm + self.per_stoutness * stout[:, None]
        bmi = stout**2 * 1e4 / height_cm
        means[:, LENGTHS.index("hip_cm")] += self.hip_beyond * np.maximum(bmi - self.beyond_bmi, 0)
        scale = np.clip(1 + self.growth * (stout - self.usual_stoutness)[:, None], 0.6, 2.0)
        return Posterior(shares, means, self.covariance * scale[:, :, None] * scale[:, None, :])


@dataclass(frozen=True, slots=True)
class Population:
    """Both sexes."""

    sexes: Mapping[Gender, SexModel]

    def without_photo(
        self, height_cm: float, weight_kg: float | None = None, gender: Gender | None = None
    ) -> Posterior:
        """The lengths of an adult of whom this much is known. A `gender` of `other` counts as unknown."""
        likely = self.sex_shares(height_cm, weight_kg, gender)
        return mixed(list(likely.values()), [self.sexes[sex].people(height_cm, weight_kg) for sex in likely])

    def sex_shares(
        self, height_cm: float, weight_kg: float | None, gender: Gender | None
    ) -> dict[Gender, float]:
        """How likely each sex is; only the one that was given, if it was."""
        if gender is not None and gender in self.sexes:
            return {gender: 1.0}
        logs = {sex: model.log_likelihood(height_cm, weight_kg) for sex, model in self.sexes.items()}
        top = max(logs.values())
        total = sum(math.exp(log - top) for log in logs.values())
        return {sex: math.exp(log - top) / total for sex, log in logs.items()}


def outside_population(height_cm: float, weight_kg: float | None) -> bool:
    """Whether hardly anybody measured was so short, tall, light or heavy."""
    if not HEIGHTS_CM[0] <= height_cm <= HEIGHTS_CM[1]:
        return True
    if weight_kg is None:
        return False
    bmi = weight_kg / height_cm**2 * 1e4
    return not BODY_MASS_INDICES[0] <= bmi <= BODY_MASS_INDICES[1]


def load_population() -> Population:
    """The population that ships with this package."""
    return population_from(json.loads(files("wearon_sizing").joinpath("population.json").read_text()))


def population_from(document: Mapping[str, Any]) -> Population:
    """Raises ValueError when the document describes other lengths than this code."""
    if tuple(document["lengths"]) != LENGTHS:
        raise ValueError("population.json describes other lengths; run tools/fit_population.py")

    def model(part: Mapping[str, Any]) -> SexModel:
        intercept, slope = part["log_stoutness"]
        return SexModel(
            height_mean=part["height_mean"],
            height_spread=part["height_spread"],
            log_stoutness=(intercept, slope),
            log_stoutness_spread=part["log_stoutness_spread"],
            intercept=np.array(part["intercept"]),
            per_height=np.array(part["per_height"]),
            per_stoutness=np.array(part["per_stoutness"]),
            usual_stoutness=part["usual_stoutness"],
            covariance=np.array(part["covariance"]),
            growth=np.array(part["growth"]),
            beyond_bmi=part["beyond_bmi"],
            hip_beyond=part["hip_beyond"],
        )

    return Population(sexes={sex: model(document["sexes"][sex.value]) for sex in SEXES})
