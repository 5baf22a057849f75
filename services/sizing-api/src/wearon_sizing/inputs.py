"""The row of numbers that a photo comes down to: what the estimate is made from. Pure.

Widths in cm along the torso without the arms and along the whole body, widths of limbs, distances of joints,
how far the arms touch and how much of them is under clothes, and the pose's own geometry, which tells from
what height the camera looks. Folds of the outline are left out: on real photographs they do not tell cloth
from skin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from wearon_sizing.silhouette import (
    ANKLES,
    EAR_L,
    EAR_R,
    FEATURES,
    HEEL_L,
    HEEL_R,
    HIPS,
    KNEES,
    MOUTH_L,
    MOUTH_R,
    NOSE,
    SHOULDERS,
    TOE_L,
    TOE_R,
    Array,
    Frame,
    Person,
    Silhouette,
    lean,
    measure_silhouette,
)
from wearon_sizing.torso import ROWS, TorsoProfile, measure_torso

# Levels between which an arm may touch: armpit to ribs, waist, hips.
TOUCH_BANDS: Final = (slice(2, 8), slice(8, 13), slice(13, len(ROWS)))
GEOMETRY: Final = (
    "lean",
    "lean_torso",
    "lean_thighs",
    "lean_calves",
    "legs",
    "torso",
    "head",
    "thighs",
    "calves",
    "below_ankles",
    "toes_below_heels",
    "toes_below_ankles",
    "ears_above_nose",
    "mouth_below_nose",
    "share_of_picture",
    "middle_of_picture",
    "shoulders_in_picture",
)
INPUTS: Final = (
    *FEATURES,
    *(f"free_{row:.2f}" for row in ROWS),
    *(f"arms_{row:.2f}" for row in ROWS),
    *(f"touch_{band}" for band in ("chest", "waist", "hip")),
    *(f"arms_covered_{row:.2f}" for row in ROWS),
    *GEOMETRY,
)
SIDE_INPUTS: Final = (
    *INPUTS,
    *(f"{edge}_{row:.2f}" for edge in ("front", "back", "arm_at_front", "arm_at_back") for row in ROWS),
)
"""In profile an arm often hides one edge of the torso, so how far the body reaches forward and backward count
apart."""
TOUCHED: Final = slice(INPUTS.index("touch_chest"), INPUTS.index("touch_hip") + 1)


@dataclass(frozen=True, slots=True)
class Reading:
    """`values` in the order of `INPUTS`; `profile` in the order of `SIDE_INPUTS`, for a side photo; and what
    they were taken from, for pictures of an explanation."""

    values: Array
    profile: Array
    silhouette: Silhouette
    torso: TorsoProfile


def read_photo(person: Person, height_cm: float) -> Reading:
    """Everything measured of one person, front or side. Raises ValueError when nobody asked the network what
    is arm (`Person.parts`)."""
    if person.parts is None:
        raise ValueError("the person has no part map")
    silhouette = measure_silhouette(person, height_cm)
    placed = silhouette.frame.place(person.points)
    torso = measure_torso(person.parts, silhouette.frame, float(placed[list(HIPS), 0].mean()))
    values = np.concatenate(
        [
            silhouette.values,
            torso.widths,
            torso.arms,
            [float(torso.touching[band].mean()) for band in TOUCH_BANDS],
            torso.arms_covered,
            geometry(person, silhouette.frame, height_cm),
        ]
    )
    # The edge in front first.
    order = [0, 1] if faces_left(placed) else [1, 0]
    edges = [torso.halves[:, order].T.ravel(), torso.touching[:, order].T.ravel()]
    return Reading(values, np.concatenate([values, *edges]), silhouette, torso)


def faces_left(placed: Array) -> bool:
    """Whether nose and toes point to the left in the picture. `placed` (33, 2) in body coordinates."""
    nose = placed[NOSE, 0] - placed[[EAR_L, EAR_R], 0].mean()
    toes = placed[[TOE_L, TOE_R], 0].mean() - placed[[HEEL_L, HEEL_R], 0].mean()
    return bool(nose + toes < 0)


def geometry(person: Person, frame: Frame, height_cm: float) -> Array:
    """Angles in degrees, lengths as shares of the body's height, in the order of GEOMETRY."""
    below = frame.place(person.points)[:, 1] * frame.cm / height_cm
    top, bottom = frame.top * frame.cm / height_cm, frame.bottom * frame.cm / height_cm
    hip, knee, ankle, heel, toe, ear, mouth = (
        float(below[list(pair)].mean())
        for pair in (
            HIPS,
            KNEES,
            ANKLES,
            (HEEL_L, HEEL_R),
            (TOE_L, TOE_R),
            (EAR_L, EAR_R),
            (MOUTH_L, MOUTH_R),
        )
    )
    nose = float(below[NOSE])
    rows, columns = person.mask.shape
    centre = np.array([columns / 2, rows / 2]) - frame.origin
    shoulder_row = float(person.points[list(SHOULDERS), 1].mean())
    return np.array(
        [
            lean(person.world, SHOULDERS, ANKLES),
            lean(person.world, SHOULDERS, HIPS),
            lean(person.world, HIPS, KNEES),
            lean(person.world, KNEES, ANKLES),
            ankle - hip,
            hip,
            -top,
            knee - hip,
            ankle - knee,
            bottom - ankle,
            toe - heel,
            toe - ankle,
            ear - nose,
            mouth - nose,
            (frame.bottom - frame.top) / max(rows, columns),
            float(centre @ frame.down) * frame.cm / height_cm - top,
            (shoulder_row - rows / 2) / rows,
        ]
    )
