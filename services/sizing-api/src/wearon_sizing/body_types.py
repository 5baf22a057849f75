"""A word for a build, from two ratios that differ between people more than between photos of one person.

Waist girth over height tells the slim from the broad, chest over waist the athletic from the average. The
edges are quartiles of ANSUR II (in `method.json`), of the shopper's own sex where it is known, else of all.
"""

from __future__ import annotations

from collections.abc import Mapping

from wearon_contracts.sizing import BodyType, Gender


def body_type(
    height_cm: float,
    chest_cm: float,
    waist_cm: float,
    gender: Gender | None,
    edges: Mapping[str, Mapping[str, float]],
) -> BodyType:
    """The word for these girths. `edges`: per group `female`, `male`, `all` the quartiles used below."""
    group = edges[gender.value if gender in (Gender.FEMALE, Gender.MALE) else "all"]
    stoutness = waist_cm / height_cm
    if stoutness >= group["waist_per_height_upper"]:
        return BodyType.BROAD
    if chest_cm / waist_cm >= group["chest_per_waist_upper"]:
        return BodyType.ATHLETIC
    if stoutness < group["waist_per_height_lower"]:
        return BodyType.SLIM
    return BodyType.AVERAGE
