"""What is said to a shopper of whom there is no photo."""

from __future__ import annotations

from collections.abc import Mapping

from wearon_sizing.population import Population
from wearon_sizing.sizing import WEIGHT_HELPS, Estimate, Shopper, said_by, size_and_shape


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
    said, left_out = said_by(shopper)
    advice, shape = size_and_shape(body, shopper, body_type_edges)
    return Estimate(body, 0.0, advice, shape, warnings + left_out, inputs + said)
