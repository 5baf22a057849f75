"""The whole way from a picture to an answer, without a network and without a web server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wearon_contracts.errors import ErrorCode
from wearon_contracts.sizing import BodyType, FitPreference, Gender, Measured
from wearon_sizing.body_types import body_type
from wearon_sizing.gates import by_size, refuse_people, refuse_picture, refuse_silhouette
from wearon_sizing.measuring import Measurement, Method
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import CUT_BANDS, Person, Silhouette, measure_silhouette
from wearon_sizing.sizes import SizeAdvice, advise

# Pictures are looked at with this many pixels on their long side; the detector itself sees 256.
LONG_SIDE: Final = 640
# Girths and breadth per height outside these were measured on nobody (ANSUR II, with a fifth to spare).
PLAUSIBLE_PER_HEIGHT: Final[dict[Measured, tuple[float, float]]] = {
    "chest_cm": (0.35, 1.0),
    "waist_cm": (0.28, 1.05),
    "hip_cm": (0.38, 1.0),
    "shoulder_cm": (0.14, 0.34),
}
# A weight that moves the chest by more than this many standard deviations does not belong to the photo.
WEIGHT_CONTRADICTS: Final = 4.0
MANY_ROWS_CUT: Final = 0.5

WEIGHT_NOT_USED: Final = "The weight does not fit the photo, so it was not used."
ARMS_TOUCH: Final = "The arms touch the body, which makes the measurements less certain."
MENS_SIZES: Final = "Sizes are those for men, because no other gender was given."


class PhotoRefusedError(Exception):
    """Nothing can be measured in this photo; `code` says why."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Shopper:
    """What the shopper says about themselves: cm and kg."""

    height_cm: float
    weight_kg: float | None = None
    gender: Gender | None = None
    fit: FitPreference | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """Everything that was found out. `measurements` by name, in cm."""

    measurements: dict[Measured, Measurement]
    advice: SizeAdvice
    body_type: BodyType
    warnings: list[str]
    inputs_used: list[str]
    silhouette: Silhouette


def find_person(landmarker: Landmarker, picture: NDArray[np.uint8]) -> Person:
    """The one person in `picture` (RGB). Raises PhotoRefusedError."""
    people = landmarker.detect(picture)
    refusal = refuse_photo(picture, people)
    if refusal:
        raise PhotoRefusedError(refusal)
    return by_size(people)[0]


def refuse_photo(picture: NDArray[np.uint8], people: Sequence[Person]) -> ErrorCode | None:
    """Why nobody can be measured in `picture` (RGB), with these `people`; None if somebody can."""
    # A photo that is too dark or blurred shows no person, or one whose pose cannot be trusted.
    return refuse_picture(picture, by_size(people)) or refuse_people(people)


def assess(person: Person, shopper: Shopper, method: Method) -> Assessment:
    """Measure and size one person. Raises PhotoRefusedError."""
    silhouette = measure_silhouette(person, shopper.height_cm)
    refusal = refuse_silhouette(silhouette)
    if refusal:
        raise PhotoRefusedError(refusal)
    warnings, inputs = [], ["image_url", "height_cm"]

    measurements = method.measure(silhouette.values, shopper.height_cm)
    if shopper.weight_kg is not None:
        weighed = method.measure(silhouette.values, shopper.height_cm, shopper.weight_kg)
        moved = abs(weighed["chest_cm"].value - measurements["chest_cm"].value)
        if moved > WEIGHT_CONTRADICTS * measurements["chest_cm"].spread:
            warnings.append(WEIGHT_NOT_USED)
        else:
            measurements = weighed
            inputs.append("weight_kg")
    for name, (least, most) in PLAUSIBLE_PER_HEIGHT.items():
        if not least <= measurements[name].value / shopper.height_cm <= most:
            raise PhotoRefusedError(ErrorCode.IMPLAUSIBLE_BODY)

    if shopper.gender in (Gender.FEMALE, Gender.MALE):
        inputs.append("gender")
    else:
        warnings.append(MENS_SIZES)
    if shopper.fit is not None:
        inputs.append("fit_preference")
    waist_rows = silhouette.cut[CUT_BANDS[1].start : CUT_BANDS[2].stop]
    if waist_rows.mean(axis=0).max() > MANY_ROWS_CUT:
        warnings.append(ARMS_TOUCH)
    chest, waist = measurements["chest_cm"], measurements["waist_cm"]
    return Assessment(
        measurements=measurements,
        advice=advise(chest, shopper.gender, shopper.fit),
        body_type=body_type(
            shopper.height_cm, chest.value, waist.value, shopper.gender, method.body_type_edges
        ),
        warnings=warnings,
        inputs_used=inputs,
        silhouette=silhouette,
    )
