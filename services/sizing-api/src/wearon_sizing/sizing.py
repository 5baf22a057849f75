"""The whole way from a picture to an answer; no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.sizing import BodyType, FitPreference, Gender, Measured
from wearon_service_kit.images.decode import open_rgb
from wearon_service_kit.images.errors import ImageRefused
from wearon_sizing.body_types import body_type
from wearon_sizing.gates import by_size, lean_of_camera, refuse_people, refuse_picture, refuse_side_people
from wearon_sizing.inputs import TOUCHED, Reading, read_photo
from wearon_sizing.measuring import Method, PhotoEstimate
from wearon_sizing.population import (
    OUTSIDE_POPULATION,
    Posterior,
    PosteriorLength,
    outside_population,
)
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import Person
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
LITTLE_TRUST: Final = 0.5  # `photo_trust` below which a side photo is suggested
# With arms along this share of the torso's edges, its width is what lies between them.
MANY_ROWS_TOUCHED: Final = 0.5
# Clothes this much wider than the body hide its shape, in cm of girth.
LOOSE_CM: Final = 12.0
LOW_CAMERA_DEGREES: Final = 2.5  # lean of the world landmarks below which a higher camera is suggested

WEIGHT_CONTRADICTS: Final = (
    "The weight and the photo do not fit together, so the ranges are wider. Please check weight and height."
)
MENS_SIZES: Final = "Sizes are those for men, because the gender is not given as female or male."
WEIGHT_HELPS: Final = "Giving the weight would help most."
TIGHTER_CLOTHES_HELP: Final = "Tighter clothes would help most: these hide the shape of the body."
ARMS_AWAY_HELP: Final = "Arms a little away from the body would help most."
HIGHER_CAMERA_HELPS: Final = "The phone at the height of the belly would help most: it looks up from below."
SIDE_PHOTO_HELPS: Final = "A second photo from the side would help most."
SIDE_NOT_USED: Final = "The side photo was not used. "


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
class Estimate:
    """All that an answer says but the sizes of a chart.

    `body`: the five lengths in cm. `photo_trust` 0 to 1: how much the photos could tell, compared with the
    best ones; 0 without a photo.
    """

    body: Posterior
    photo_trust: float
    advice: SizeAdvice
    body_type: BodyType
    warnings: list[str]
    inputs_used: list[str]


@dataclass(frozen=True, slots=True)
class Assessment(Estimate):
    """An estimate from a photo, and what was read from the photo."""

    reading: Reading


def open_photo(data: bytes) -> NDArray[np.uint8]:
    """Rows, columns, RGB of the picture in `data`, as it is measured. Raises ImageRefused."""
    return np.asarray(open_rgb(data, max_side=LONG_SIDE, sharp=False))


def find_person(landmarker: Landmarker, picture: NDArray[np.uint8]) -> Person:
    """The one person in `picture` (RGB), facing the camera. Raises PhotoRefusedError."""
    return find_person_among(landmarker.detect(picture), landmarker, picture)


def find_person_among(people: Sequence[Person], landmarker: Landmarker, picture: NDArray[np.uint8]) -> Person:
    """As `find_person`, of the `people` who were detected in `picture`."""
    refusal = refuse_photo(picture, people)
    if refusal:
        raise PhotoRefusedError(refusal)
    return landmarker.with_parts(picture, by_size(people)[0])


def find_side_person(landmarker: Landmarker, picture: NDArray[np.uint8]) -> Person:
    """The one person in `picture` (RGB), in profile. Raises PhotoRefusedError."""
    people = landmarker.detect(picture)
    refusal = refuse_picture(picture, by_size(people)) or refuse_side_people(people)
    if refusal:
        raise PhotoRefusedError(refusal)
    return landmarker.with_parts(picture, by_size(people)[0])


def side_person_or_code(landmarker: Landmarker, data: bytes) -> Person | ErrorCode:
    """The one person in the side photo whose file holds `data`, or why it cannot be used."""
    try:
        return find_side_person(landmarker, open_photo(data))
    except (ImageRefused, PhotoRefusedError) as refusal:
        return refusal.code


def refuse_photo(picture: NDArray[np.uint8], people: Sequence[Person]) -> ErrorCode | None:
    """Why nobody can be measured in `picture` (RGB), with these `people`; None if somebody can."""
    # A photo that is too dark or blurred shows no person, or one whose pose cannot be trusted.
    return refuse_picture(picture, by_size(people)) or refuse_people(people)


def assess(
    person: Person,
    shopper: Shopper,
    method: Method,
    side: Person | ErrorCode | None = None,
) -> Assessment:
    """Measure and size one person. `side`: the same one in profile, or why that photo cannot be used. Raises
    PhotoRefusedError."""
    reading = read_photo(person, shopper.height_cm)
    profile = read_photo(side, shopper.height_cm).profile if isinstance(side, Person) else None
    found = method.estimate(reading.values, shopper.height_cm, shopper.weight_kg, shopper.gender, profile)
    body = found.body
    for name, (least, most) in PLAUSIBLE_PER_HEIGHT.items():
        if not least <= body.value(name) / shopper.height_cm <= most:
            raise PhotoRefusedError(ErrorCode.IMPLAUSIBLE_BODY)

    inputs = ["image_url", "height_cm"]
    warnings = []
    if profile is not None:
        inputs.append("side_image_url")
    if shopper.weight_kg is not None:
        inputs.append("weight_kg")
    if found.contradicts:
        warnings.append(WEIGHT_CONTRADICTS)
    if isinstance(side, ErrorCode):
        warnings.append(SIDE_NOT_USED + sentence(side))
    said, left_out = said_by(shopper)
    warnings += left_out
    warnings.extend(_what_helps(person, reading, shopper, found, side_given=side is not None))
    advice, shape = size_and_shape(body, shopper, method.body_type_edges)
    return Assessment(body, found.trust, advice, shape, warnings, inputs + said, reading)


def said_by(shopper: Shopper) -> tuple[list[str], list[str]]:
    """What of a shopper's words is used beside height and weight, and warnings about what they leave out."""
    inputs, warnings = [], []
    if shopper.gender in (Gender.FEMALE, Gender.MALE):
        inputs.append("gender")
    else:
        warnings.append(MENS_SIZES)
    if shopper.fit is not None:
        inputs.append("fit_preference")
    if outside_population(shopper.height_cm, shopper.weight_kg):
        warnings.append(OUTSIDE_POPULATION)
    return inputs, warnings


def size_and_shape(
    body: Posterior, shopper: Shopper, body_type_edges: Mapping[str, Mapping[str, float]]
) -> tuple[SizeAdvice, BodyType]:
    """The size that fits a body, and the word for its shape."""
    chest, waist = body.value("chest_cm"), body.value("waist_cm")
    return (
        advise(PosteriorLength(body, "chest_cm"), shopper.gender, shopper.fit),
        body_type(shopper.height_cm, chest, waist, shopper.gender, body_type_edges),
    )


def _what_helps(
    person: Person, reading: Reading, shopper: Shopper, found: PhotoEstimate, *, side_given: bool
) -> list[str]:
    """The one thing that would make the next answer better by most, if anything would by much."""
    if shopper.weight_kg is None:
        return [WEIGHT_HELPS]
    if found.ease > LOOSE_CM:
        return [TIGHTER_CLOTHES_HELP]
    if reading.values[TOUCHED].mean() > MANY_ROWS_TOUCHED:
        return [ARMS_AWAY_HELP]
    if lean_of_camera(person) < LOW_CAMERA_DEGREES:
        return [HIGHER_CAMERA_HELPS]
    return [SIDE_PHOTO_HELPS] if not side_given and found.trust < LITTLE_TRUST else []
