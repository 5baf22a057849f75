"""What a photo must show before anything is measured in it. Pure; each refusal has one code.

The thresholds were set on the training renders: loose enough to let all but a handful of them pass, with the
nine unusable photographs on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wearon_contracts.errors import ErrorCode
from wearon_sizing.silhouette import (
    ANKLE_L,
    ANKLE_R,
    ANKLES,
    ELBOW_L,
    ELBOW_R,
    HEEL_L,
    HEEL_R,
    HIP_L,
    HIP_R,
    HIPS,
    INDEX_L,
    INDEX_R,
    KNEE_L,
    KNEE_R,
    KNEES,
    SHOULDER_L,
    SHOULDER_R,
    SHOULDERS,
    TOE_L,
    TOE_R,
    WRIST_L,
    WRIST_R,
    Array,
    Person,
    lean,
    middle,
)

HEAD: Final = [*range(11)]
FEET: Final = [ANKLE_L, ANKLE_R, HEEL_L, HEEL_R, TOE_L, TOE_R]
TRUNK_AND_LEGS: Final = [SHOULDER_L, SHOULDER_R, HIP_L, HIP_R, KNEE_L, KNEE_R, ANKLE_L, ANKLE_R]
LEGS: Final = [KNEE_L, KNEE_R, ANKLE_L, ANKLE_R]
SIDES: Final = ((SHOULDER_L, HIP_L, KNEE_L, ANKLE_L), (SHOULDER_R, HIP_R, KNEE_R, ANKLE_R))
ARMS: Final = [ELBOW_L, ELBOW_R, WRIST_L, WRIST_R]

# A second person counts from this share of the first one's height on; a passer-by far away does not.
SECOND_PERSON_SHARE: Final = 0.35
DARKEST_HIGHLIGHT: Final = 60.0  # of 255; see `highlight`
LEAST_SHARPNESS: Final = 0.3  # see `sharpness`
LEAST_HEIGHT_PIXELS: Final = 190  # of the person, in a picture of 640
TRUNK_VISIBILITY: Final = 0.5  # MediaPipe's, 0 to 1
# Dark trousers before a dark floor: joints of people who stand in full view go down to 0.32.
HIDDEN_VISIBILITY: Final = 0.25
ARM_VISIBILITY: Final = 0.3
# The mask of a head close to the picture's edge spills over to it; a head that is cut off is wider there.
MOST_CROWN_PER_SHOULDERS: Final = 0.12
MOST_YAW_DEGREES: Final = 45.0
LEAST_BACK_YAW_DEGREES: Final = 135.0  # profiles reach 125 (370 training renders)
LEAST_SHOULDERS_PER_TORSO: Final = 0.45
# A phone on the floor makes legs long and torsos short: up to 2.5 among people who stand.
LEGS_PER_TORSO: Final = (0.95, 2.7)
LEAST_KNEE_DEGREES: Final = 155.0
LEAST_HIP_DEGREES: Final = 150.0
# Somebody who sits before the camera has straight legs in the picture, but short thighs, and the landmarker
# puts the knees in front. People who stand, also in long skirts and with a phone on the floor, keep 0.79 of a
# calf (0.94 among the world landmarks), 0.60 of a torso, 137° at the hips and 129° at the knees (1,299
# training renders).
LEAST_THIGH_PER_CALF: Final = 0.7
LEAST_THIGH_PER_TORSO: Final = 0.59
LEAST_WORLD_THIGH_PER_CALF: Final = 0.92
LEAST_WORLD_HIP_DEGREES: Final = 120.0
LEAST_WORLD_KNEE_DEGREES: Final = 115.0
MOST_TILT_DEGREES: Final = 12.0
LYING_DEGREES: Final = 60.0
MOST_STRIDE_PER_LEG: Final = 0.75
# Somebody who holds a thing before the belly bends the elbows further; people who let their arms hang keep
# 154° and more on photographs.
LEAST_ELBOW_DEGREES: Final = 145.0
# A camera that looks up at the body from so far below that nothing measured teaches what it does to widths:
# the world landmarks of an upright person lean by this many degrees. Renders with a phone on the floor, 1.5 m
# away, reach -9.
LEAST_LEAN_DEGREES: Final = -14.0
# In profile the shoulders lie behind each other: narrower than this share of the torso.
MOST_PROFILE_SHOULDERS_PER_TORSO: Final = 0.55
LEAST_PROFILE_YAW_DEGREES: Final = 50.0


def angle(a: Array, b: Array, c: Array) -> float:
    """Degrees between the lines b-a and b-c; 180 is straight."""
    u, v = a - b, c - b
    cosine = float(u @ v) / max(float(np.linalg.norm(u) * np.linalg.norm(v)), 1e-9)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def highlight(picture: NDArray[np.uint8]) -> float:
    """How bright the brightest twentieth of the picture is, 0 to 255."""
    red, green, blue = cv2.split(np.ascontiguousarray(picture[::4, ::4]))
    return quantile(cv2.max(cv2.max(red, green), blue), 0.95)


def quantile(values: cv2.typing.MatLike, share: float) -> float:
    """The value that this share of them stays below, without sorting them all."""
    flat = values.ravel()
    rank = int(share * (flat.size - 1))
    return float(np.partition(flat, rank)[rank])


def sharpness(picture: NDArray[np.uint8]) -> float:
    """How much of its strongest edges a slight blur takes away: 0.5 to 0.75 for sharp ones whatever their
    contrast, near 0 when they were blurred already."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    before, after = _slopes(grey), _slopes(cv2.blur(grey, (9, 9)))
    strong = after >= quantile(after[::3, ::3], 0.98)
    # A blurred edge is wider: what it was is the steepest slope nearby.
    steepest = cv2.dilate(before, np.ones((7, 7), np.uint8))[strong].mean()
    return float(1 - after[strong].mean() / max(float(steepest), 1e-6))


def _slopes(grey: cv2.typing.MatLike) -> NDArray[np.float32]:
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axis, ksize=3) for axis in ((1, 0), (0, 1)))
    return cv2.magnitude(across, down).astype(np.float32, copy=False)


def extent(person: Person) -> float:
    """Height of the person's landmarks in pixels."""
    return float(np.ptp(person.points[:, 1]))


def around(person: Person, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of the picture that holds the person's landmarks."""
    left, top = np.maximum(person.points.min(axis=0) - 8, 0).astype(int)
    right, bottom = np.maximum(person.points.max(axis=0) + 8, 0).astype(int)
    part = picture[top:bottom, left:right]
    return part if min(part.shape[:2]) > 16 else picture


def by_size(people: Sequence[Person]) -> list[Person]:
    """The tallest in the picture first."""
    return sorted(people, key=extent, reverse=True)


def who_counts(people: Sequence[Person]) -> list[Person]:
    """The largest person first, without passers-by far away."""
    sized = by_size(people)
    return [person for person in sized if extent(person) >= SECOND_PERSON_SHARE * extent(sized[0])]


def height_of_mask(person: Person) -> int:
    """Rows between the mask's first and last one; 0 for an empty mask."""
    rows = np.flatnonzero((person.mask > 0.5).any(axis=1))
    return int(np.ptp(rows)) if len(rows) else 0


def tilt(person: Person) -> float:
    """Degrees by which the line from shoulders to ankles leans to a side of the picture."""
    across, down = middle(person.points, *ANKLES) - middle(person.points, *SHOULDERS)
    return math.degrees(math.atan2(abs(across), down))


def refuse_picture(picture: NDArray[np.uint8], people: Sequence[Person]) -> ErrorCode | None:
    """What is wrong with the light, or with the focus where the person is."""
    if highlight(picture) < DARKEST_HIGHLIGHT:
        return ErrorCode.TOO_DARK
    if sharpness(around(people[0], picture) if people else picture) < LEAST_SHARPNESS:
        return ErrorCode.BLURRED
    return None


def refuse_people(people: Sequence[Person]) -> ErrorCode | None:
    """Whether there is exactly one person, whole and upright and facing the camera."""
    if not people:
        return ErrorCode.NO_PERSON
    person, *others = who_counts(people)
    if others:
        return ErrorCode.SEVERAL_PEOPLE
    return (
        refuse_missing(person)
        or refuse_lying(person)
        or refuse_size(person)
        or refuse_stance(person)
        or refuse_edges(person)
        or refuse_hidden(person)
        or refuse_arms(person)
        or refuse_camera(person)
    )


def refuse_missing(person: Person) -> ErrorCode | None:
    """Whether the detector had to guess at parts beyond the picture; a guessed stance means nothing."""
    rows, columns = person.mask.shape
    x, y = person.points.T
    if (y[HEAD] < 0).any():
        return ErrorCode.HEAD_OUTSIDE_FRAME
    legs_seen = (person.visibility[LEGS] >= TRUNK_VISIBILITY).all()
    touches = (person.mask[-1] > 0.5).any()
    if (y[FEET] > rows - 1).any() or (touches and not legs_seen):
        return ErrorCode.FEET_OUTSIDE_FRAME
    if ((x[TRUNK_AND_LEGS] < 0) | (x[TRUNK_AND_LEGS] > columns - 1)).any():
        return ErrorCode.LIMBS_HIDDEN
    return None


def refuse_lying(person: Person) -> ErrorCode | None:
    """Whether the picture lies on its side; it says nothing else then, not even how large the person is."""
    return ErrorCode.LEANING if tilt(person) > LYING_DEGREES else None


def refuse_size(person: Person) -> ErrorCode | None:
    """Whether the person is large enough; of a small one even the stance is a guess."""
    return ErrorCode.PERSON_TOO_SMALL if height_of_mask(person) < LEAST_HEIGHT_PIXELS else None


def refuse_edges(person: Person) -> ErrorCode | None:
    """Whether the body ends inside the picture on all sides."""
    first, last = person.mask[0] > 0.5, person.mask[-1] > 0.5
    shoulders = float(np.linalg.norm(person.points[SHOULDER_L] - person.points[SHOULDER_R]))
    if first.sum() > MOST_CROWN_PER_SHOULDERS * shoulders:
        return ErrorCode.HEAD_OUTSIDE_FRAME
    if last.any():
        return ErrorCode.FEET_OUTSIDE_FRAME
    # A hand that leaves the picture at its side takes nothing along that is measured; an elbow does.
    x = person.points[[ELBOW_L, ELBOW_R], 0]
    if (x < 0).any() or (x > len(first) - 1).any():
        return ErrorCode.LIMBS_HIDDEN
    return None


def refuse_hidden(person: Person) -> ErrorCode | None:
    """Whether the joints that are measured from can be seen."""
    trunk, arms = person.visibility[TRUNK_AND_LEGS], person.visibility[ARMS]
    if (trunk < HIDDEN_VISIBILITY).any() or (arms < ARM_VISIBILITY).any():
        return ErrorCode.LIMBS_HIDDEN
    return None


def yaw(person: Person) -> float:
    """How far the shoulders are turned away from the camera, in degrees; 0 faces it, 180 faces away."""
    left, right = person.world[SHOULDER_L], person.world[SHOULDER_R]
    return abs(math.degrees(math.atan2(left[2] - right[2], left[0] - right[0])))


def sharpest_angles(points: Array) -> tuple[float, float]:
    """At the hips and at the knees in degrees; 180 is straight. `points` (33, 2 or 3)."""
    hips, knees = zip(
        *(
            (angle(points[s], points[h], points[k]), angle(points[h], points[k], points[a]))
            for s, h, k, a in SIDES
        ),
        strict=True,
    )
    return min(hips), min(knees)


def bones_of_trunk_and_legs(points: Array) -> tuple[float, float, float]:
    """Lengths of torso, thigh and calf between the middles of the joints. `points` (33, 2 or 3)."""
    shoulders, hips, knees, ankles = (middle(points, *pair) for pair in (SHOULDERS, HIPS, KNEES, ANKLES))
    torso, thigh, calf = (
        float(np.linalg.norm(lower - upper))
        for upper, lower in ((shoulders, hips), (hips, knees), (knees, ankles))
    )
    return torso, thigh, calf


def bent(person: Person) -> bool:
    """Whether hips or knees are bent in the picture."""
    hip, knee = sharpest_angles(person.points)
    return hip < LEAST_HIP_DEGREES or knee < LEAST_KNEE_DEGREES


def sits_before_camera(person: Person) -> bool:
    """Whether the thighs point at the camera."""
    torso, thigh, calf = bones_of_trunk_and_legs(person.points)
    _, world_thigh, world_calf = bones_of_trunk_and_legs(person.world)
    hip, knee = sharpest_angles(person.world)
    return (
        thigh < LEAST_THIGH_PER_CALF * calf
        or thigh < LEAST_THIGH_PER_TORSO * torso
        or world_thigh < LEAST_WORLD_THIGH_PER_CALF * world_calf
        or hip < LEAST_WORLD_HIP_DEGREES
        or knee < LEAST_WORLD_KNEE_DEGREES
    )


def refuse_stance(person: Person) -> ErrorCode | None:
    """Whether the person stands upright and faces the camera."""
    p = person.points
    shoulders, hips, ankles = (middle(p, *pair) for pair in (SHOULDERS, HIPS, ANKLES))
    # In a profile it is chance which shoulder lies further left.
    reversed_sides = p[SHOULDER_L, 0] < p[SHOULDER_R, 0] and p[HIP_L, 0] < p[HIP_R, 0]
    if reversed_sides and yaw(person) > LEAST_BACK_YAW_DEGREES:
        return ErrorCode.FACING_AWAY
    torso = max(float(np.linalg.norm(hips - shoulders)), 1.0)
    legs = float(np.linalg.norm(ankles - hips))
    if (
        not LEGS_PER_TORSO[0] <= legs / torso <= LEGS_PER_TORSO[1]
        or bent(person)
        or sits_before_camera(person)
    ):
        return ErrorCode.SEATED_OR_BENT
    if np.linalg.norm(p[ANKLE_L] - p[ANKLE_R]) > MOST_STRIDE_PER_LEG * legs:
        return ErrorCode.SEATED_OR_BENT
    wide_enough = np.linalg.norm(p[SHOULDER_L] - p[SHOULDER_R]) / torso >= LEAST_SHOULDERS_PER_TORSO
    if yaw(person) > MOST_YAW_DEGREES or not wide_enough:
        return ErrorCode.TURNED
    return ErrorCode.LEANING if tilt(person) > MOST_TILT_DEGREES else None


def refuse_arms(person: Person) -> ErrorCode | None:
    """Whether both arms hang beside the body: not above the shoulders, not bent, no hand before the torso."""
    p = person.points
    if (p[[WRIST_L, WRIST_R], 1] < p[[SHOULDER_L, SHOULDER_R], 1].mean()).any():
        return ErrorCode.ARMS_RAISED
    for wrist, index in ((WRIST_L, INDEX_L), (WRIST_R, INDEX_R)):
        hand = (p[wrist] + p[index]) / 2
        inner, outer = sorted((p[HIP_L, 0], p[HIP_R, 0]))
        if inner < hand[0] < outer:
            return ErrorCode.ARMS_COVER_TORSO
    for shoulder, elbow, wrist in ((SHOULDER_L, ELBOW_L, WRIST_L), (SHOULDER_R, ELBOW_R, WRIST_R)):
        if angle(p[shoulder], p[elbow], p[wrist]) < LEAST_ELBOW_DEGREES:
            return ErrorCode.ARMS_BENT
    return None


def lean_of_camera(person: Person) -> float:
    """Degrees by which an upright body seems to lean: about 12 for a camera at chest height, below 2.5 for a
    phone on the floor or a chair."""
    return lean(person.world, SHOULDERS, ANKLES)


def refuse_camera(person: Person) -> ErrorCode | None:
    """Whether the camera's height can be allowed for."""
    return ErrorCode.CAMERA_TOO_LOW if lean_of_camera(person) < LEAST_LEAN_DEGREES else None


def refuse_side_people(people: Sequence[Person]) -> ErrorCode | None:
    """Whether there is exactly one person, whole, upright and in profile."""
    if not people:
        return ErrorCode.NO_PERSON
    person, *others = who_counts(people)
    if others:
        return ErrorCode.SEVERAL_PEOPLE
    return refuse_missing(person) or refuse_size(person) or refuse_profile(person) or refuse_edges(person)


def refuse_profile(person: Person) -> ErrorCode | None:
    """Whether the person stands upright and shows one side."""
    if tilt(person) > MOST_TILT_DEGREES:
        return ErrorCode.LEANING
    p = person.points
    shoulders, hips = (middle(p, *pair) for pair in (SHOULDERS, HIPS))
    torso = max(float(np.linalg.norm(hips - shoulders)), 1.0)
    width = float(np.linalg.norm(p[SHOULDER_L] - p[SHOULDER_R])) / torso
    turned = min(yaw(person), 180 - yaw(person))
    if width > MOST_PROFILE_SHOULDERS_PER_TORSO or turned < LEAST_PROFILE_YAW_DEGREES:
        return ErrorCode.NOT_IN_PROFILE
    return ErrorCode.SEATED_OR_BENT if bent(person) else None
