"""What is said to a shopper, from what is known of the body: with a photo or without one, the same steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from wearon_contracts.sizing import BodyType, Gender, Measured
from wearon_sizing.body_types import body_type
from wearon_sizing.population import LENGTHS, Population, Posterior, outside_population
from wearon_sizing.sizes import SizeAdvice, advise
from wearon_sizing.sizing import MENS_SIZES, Assessment, Shopper

OUTSIDE_POPULATION: Final = (
    "Hardly anybody of this height and weight was measured, so the ranges may be too narrow."
)
WEIGHT_HELPS: Final = "With the weight this would be far more certain."


@dataclass(frozen=True, slots=True)
class Estimate:
    """Everything that an answer says, but for the sizes of a chart."""

    body: Posterior
    advice: SizeAdvice
    body_type: BodyType
    warnings: list[str]
    inputs_used: list[str]


@dataclass(frozen=True, slots=True)
class PosteriorLength:
    """One length of a posterior, as `sizes` asks for it."""

    body: Posterior
    name: Measured

    def below(self, edge_cm: float) -> float:
        """The probability that it is smaller than `edge_cm`."""
        return self.body.below(self.name, edge_cm)


def without_photo(
    shopper: Shopper, population: Population, body_type_edges: Mapping[str, Mapping[str, float]]
) -> Estimate:
    """What height, and weight and sex as far as they are known, say of a body."""
    body = population.without_photo(shopper.height_cm, shopper.weight_kg, shopper.gender)
    warnings, inputs = [], ["height_cm"]
    if shopper.weight_kg is not None:
        inputs.append("weight_kg")
    else:
        warnings.append(WEIGHT_HELPS)
    if shopper.gender in (Gender.FEMALE, Gender.MALE):
        inputs.append("gender")
    else:
        warnings.append(MENS_SIZES)
    if shopper.fit is not None:
        inputs.append("fit_preference")
    if outside_population(shopper.height_cm, shopper.weight_kg):
        warnings.append(OUTSIDE_POPULATION)
    return Estimate(
        body=body,
        advice=advise(PosteriorLength(body, "chest_cm"), shopper.gender, shopper.fit),
        body_type=body_type(
            shopper.height_cm,
            body.value("chest_cm"),
            body.value("waist_cm"),
            shopper.gender,
            body_type_edges,
        ),
        warnings=warnings,
        inputs_used=inputs,
    )


def with_photo(assessment: Assessment, shopper: Shopper, population: Population) -> Estimate:
    """What the photo shows; the inseam, which it does not measure, follows from the rest of what is known."""
    known = population.without_photo(shopper.height_cm, shopper.weight_kg, shopper.gender)
    mean, spread = known.mean.copy(), np.sqrt(np.diag(known.covariance))
    correlations = known.covariance / np.outer(spread, spread)
    for name, measurement in assessment.measurements.items():
        mean[LENGTHS.index(name)] = measurement.value
        spread[LENGTHS.index(name)] = measurement.spread
    covariance = correlations * np.outer(spread, spread)
    return Estimate(
        body=Posterior(np.ones(1), mean[None], covariance[None]),
        advice=assessment.advice,
        body_type=assessment.body_type,
        warnings=assessment.warnings,
        inputs_used=assessment.inputs_used,
    )
