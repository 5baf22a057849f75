"""What is said to a shopper, from what is known of the body: with a photo or without one, the same steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wearon_contracts.sizing import BodyType, Gender
from wearon_sizing.body_types import body_type
from wearon_sizing.population import (
    OUTSIDE_POPULATION,
    Population,
    Posterior,
    PosteriorLength,
    outside_population,
)
from wearon_sizing.sizes import SizeAdvice, advise
from wearon_sizing.sizing import MENS_SIZES, WEIGHT_HELPS, Assessment, Shopper


@dataclass(frozen=True, slots=True)
class Estimate:
    """All that an answer says but the sizes of a chart. `photo_trust` 0 to 1; 0 without a photo."""

    body: Posterior
    photo_trust: float
    advice: SizeAdvice
    body_type: BodyType
    warnings: list[str]
    inputs_used: list[str]


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
        photo_trust=0.0,
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


def with_photo(assessment: Assessment) -> Estimate:
    """What the photo adds."""
    return Estimate(
        body=assessment.body,
        photo_trust=assessment.photo_trust,
        advice=assessment.advice,
        body_type=assessment.body_type,
        warnings=assessment.warnings,
        inputs_used=assessment.inputs_used,
    )
