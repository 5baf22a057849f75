"""Whether a photo will do, before anything is paid for it. Pure: a picture and the people in it go in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wearon_contracts.errors import ErrorCode
from wearon_contracts.sizing import BodySeen
from wearon_sizing.gates import (
    around,
    height_of_mask,
    highlight,
    refuse_picture,
    sharpness,
    who_counts,
    yaw,
)
from wearon_sizing.silhouette import (
    ANKLES,
    HIPS,
    KNEES,
    SHOULDERS,
    Person,
    middle,
)

# A joint counts as seen when the detector is this sure that it is neither hidden nor a guess.
SEEN_VISIBILITY: Final = 0.5
# From this share of the way from shoulders to hips on, a picture reaches down to the waist.
WAIST_SHARE: Final = 0.5
# Of the 640 pixels of the long side: a smaller person is drawn anew rather than dressed.
LEAST_TRY_ON_PIXELS: Final = 128
# A shoulder line turned by more than this shows the back; 90 is a profile.
MOST_TRY_ON_YAW_DEGREES: Final = 110.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What is in a picture. `people`: at most two are told apart. `light` and `sharpness`: 0 to 1."""

    people: int
    body: BodySeen
    light: float
    sharpness: float


def look(picture: NDArray[np.uint8], people: Sequence[Person]) -> Sight:
    """What `picture` (RGB) shows, of the largest of `people` where it is about a person."""
    counted = who_counts(people)
    part = around(counted[0], picture) if counted else picture
    return Sight(
        people=len(counted),
        body=body_seen(counted[0]) if counted else BodySeen.NONE,
        light=highlight(picture) / 255,
        sharpness=min(max(sharpness(part), 0.0), 1.0),
    )


def refuse_try_on(picture: NDArray[np.uint8], people: Sequence[Person]) -> ErrorCode | None:
    """Why nobody can be dressed in `picture`; None if somebody can."""
    counted = who_counts(people)
    refusal = refuse_picture(picture, counted)
    if refusal or not counted:
        return refusal or ErrorCode.NO_PERSON
    if len(counted) > 1:
        return ErrorCode.SEVERAL_PEOPLE
    person = counted[0]
    if body_seen(person) is BodySeen.HEAD_AND_SHOULDERS:
        return ErrorCode.UPPER_BODY_OUTSIDE_FRAME
    if height_of_mask(person) < LEAST_TRY_ON_PIXELS:
        return ErrorCode.PERSON_TOO_SMALL
    return ErrorCode.FACING_AWAY if yaw(person) > MOST_TRY_ON_YAW_DEGREES else None


def body_seen(person: Person) -> BodySeen:
    """How far down the person is inside the picture."""
    for joints, seen in (
        (ANKLES, BodySeen.WHOLE),
        (KNEES, BodySeen.KNEES_UP),
        (HIPS, BodySeen.HIPS_UP),
    ):
        if _inside(person, *joints):
            return seen
    shoulder, hip = (middle(person.points, *pair)[1] for pair in (SHOULDERS, HIPS))
    bottom = person.mask.shape[0] - 1
    if hip > shoulder and (bottom - shoulder) / (hip - shoulder) >= WAIST_SHARE:
        return BodySeen.WAIST_UP
    return BodySeen.HEAD_AND_SHOULDERS


def _inside(person: Person, *joints: int) -> bool:
    """Whether one of the joints is seen inside the picture; the other one may be behind something."""
    rows, columns = person.mask.shape
    x, y = person.points[list(joints)].T
    inside = (x >= 0) & (x <= columns - 1) & (y >= 0) & (y <= rows - 1)
    return bool((inside & (person.visibility[list(joints)] >= SEEN_VISIBILITY)).any())
