"""From one detected person to a row of numbers: widths of the body, lengths of its bones, folds of its cloth.

Pure: takes arrays, returns arrays. Everything is measured along lines laid into the soft segmentation mask,
with the mask's values added up along the line, so an edge is placed more finely than a pixel. Left and right
are always averaged, so a mirrored photo gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOSE, EYE_L, EYE_R, EAR_L, EAR_R, MOUTH_L, MOUTH_R = 0, 3, 6, 7, 8, 9, 10
SHOULDER_L, SHOULDER_R, ELBOW_L, ELBOW_R, WRIST_L, WRIST_R, INDEX_L, INDEX_R = 11, 12, 13, 14, 15, 16, 19, 20
HIP_L, HIP_R, KNEE_L, KNEE_R, ANKLE_L, ANKLE_R = 23, 24, 25, 26, 27, 28

# Rows across the torso, 0 shoulder line to 1 hip line; across the body, 0 crown to 1 soles; across a limb,
# 0 its upper joint to 1 its lower one.
TORSO_ROWS = np.linspace(0.0, 1.15, 47)
BODY_ROWS = np.linspace(0.02, 0.98, 49)
LIMB_ROWS = np.linspace(0.1, 1.0, 19)

STEP_CM = 0.25
TORSO_HALF_CM = 40.0
LIMBS: Final = (
    ("upper_arm", (SHOULDER_L, ELBOW_L), (SHOULDER_R, ELBOW_R), 14.0),
    ("forearm", (ELBOW_L, WRIST_L), (ELBOW_R, WRIST_R), 11.0),
    ("thigh", (HIP_L, KNEE_L), (HIP_R, KNEE_R), 18.0),
    ("calf", (KNEE_L, ANKLE_L), (KNEE_R, ANKLE_R), 14.0),
)
# From this row on (below the armpits) an edge that moves outward by more than LEAK_CM from one row to the
# next is not the body's: the mask has run over into the background there.
LEAK_ROW, LEAK_CM = 17, 0.8
# A torso edge nearer than this to the bone of an arm was cut off there.
CUT_CM = 0.6
# Rows between the points whose second differences tell how folded an outline is.
FOLD_SPACINGS: Final = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Person:
    """One detected person. `points` (33, 2) pixels, `depth` (33,) pixels, `visibility` (33,) 0 to 1, `world`
    (33, 3) metres around the hips, `mask` (rows, columns) 0 to 1, without islands; `parts` what
    `parts_net.PartsNet` says of the torso's crop, once it was asked."""

    points: Array
    depth: Array
    visibility: Array
    world: Array
    mask: NDArray[np.float32]
    parts: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """The body's own coordinates in the picture: `origin` between the shoulders, `down` and `across` unit
    vectors (pixels), `torso` shoulder line to hip line, `top` and `bottom` the ends of the mask along `down`
    (all pixels from the origin), `cm` centimetres per pixel."""

    origin: Array
    down: Array
    across: Array
    torso: float
    top: float
    bottom: float
    cm: float

    def place(self, points: Array) -> Array:
        """Picture coordinates (n, 2) to body coordinates (n, 2): across and down, in pixels."""
        return np.stack([(points - self.origin) @ self.across, (points - self.origin) @ self.down], axis=-1)


def middle(points: Array, left: int, right: int) -> Array:
    centre: Array = (points[left] + points[right]) / 2
    return centre


def lay_frame(person: Person, height_cm: float) -> Frame:
    """Straighten the body by the line from its shoulders to its ankles and scale it by the mask's height."""
    p = person.points
    origin = middle(p, SHOULDER_L, SHOULDER_R)
    down = middle(p, ANKLE_L, ANKLE_R) - origin
    down = down / np.linalg.norm(down)
    across = np.array([down[1], -down[0]])
    body = person.mask > 0.5
    rows = np.flatnonzero(body.any(axis=1))
    # The outermost pixel of a straightened body is the first or the last of its row.
    first = body[rows].argmax(axis=1)
    last = body.shape[1] - 1 - body[rows, ::-1].argmax(axis=1)
    columns = np.concatenate([first, last])
    ends = (columns - origin[0]) * down[0] + (np.tile(rows, 2) - origin[1]) * down[1]
    top, bottom = float(ends.min()) - 0.5, float(ends.max()) + 0.5
    torso = float((middle(p, HIP_L, HIP_R) - origin) @ down)
    return Frame(origin, down, across, torso, top, bottom, height_cm / (bottom - top))


def sample(padded: NDArray[np.float32], x: Array, y: Array) -> Array:
    """Bilinear values of a mask at its pixel coordinates.

    `padded`: the mask with a border of one pixel of nothing, which is what lies outside the picture.
    """
    height, width = padded.shape
    x = np.clip(x + 1, 0, width - 1.001).astype(np.float32)
    y = np.clip(y + 1, 0, height - 1.001).astype(np.float32)
    x0, y0 = x.astype(np.int32), y.astype(np.int32)
    fx, fy = x - x0, y - y0
    flat, at = padded.ravel(), y0 * width + x0
    upper = flat[at] * (1 - fx) + flat[at + 1] * fx
    lower = flat[at + width] * (1 - fx) + flat[at + width + 1] * fx
    values: Array = (upper * (1 - fy) + lower * fy).astype(np.float64)
    return values


def reach(values: Array) -> Array:
    """How far the body goes on along the last axis, in steps: the sum of the values up to the first gap."""
    gaps = values <= 0.5
    solid = np.where(gaps.any(axis=-1), gaps.argmax(axis=-1), values.shape[-1])
    near = np.arange(values.shape[-1]) < solid[..., None] + 3
    total: Array = (values * near).sum(axis=-1)
    return total


def halves(
    padded: NDArray[np.float32],
    centres: Array,
    across: Array,
    *,
    half_cm: float,
    cm: float,
    limits: Array | None = None,
) -> Array:
    """Distance in cm from each centre (n, 2) to the body's edge on either side: (n, 2).

    `limits` (n, 2): where to stop at the latest, in pixels to the minus and to the plus side.
    """
    steps = np.arange(0, half_cm + STEP_CM / 2, STEP_CM) / cm
    both = np.stack([-steps, steps])  # minus side, plus side
    values = sample(
        padded,
        centres[:, None, None, 0] + both[None] * across[0],
        centres[:, None, None, 1] + both[None] * across[1],
    )
    if limits is not None:
        values = np.where(steps < limits[:, :, None], values, 0.0)
    # The first column lies on the centre line and belongs half to either side.
    reached: Array = (reach(values) - values[:, :, 0] / 2) * STEP_CM
    return reached


def without_leaks(torso: Array) -> Array:
    """The half widths (n, 2) with sudden jumps outward held down."""
    held = torso.copy()
    for row in range(LEAK_ROW, len(held)):
        held[row] = np.minimum(held[row], held[row - 1] + LEAK_CM)
    return held


def arm_limits(person: Person, frame: Frame, rows: Array, centre: Array) -> Array:
    """How far from the centre line the bones of the arms cross the rows, in pixels to either side (n, 2).

    An arm that touches the torso is cut off there. Infinite where no arm crosses."""
    limits = np.full((len(rows), 2), np.inf)
    for chain in ((SHOULDER_L, ELBOW_L, WRIST_L, INDEX_L), (SHOULDER_R, ELBOW_R, WRIST_R, INDEX_R)):
        placed = frame.place(person.points[list(chain)])
        order = np.argsort(placed[:, 1])
        x = np.interp(rows, placed[order, 1], placed[order, 0]) - centre
        crosses = (rows >= placed[0, 1]) & (rows <= placed[:, 1].max() + 0.15 * frame.torso)
        side = int(placed[1:3, 0].mean() > centre.mean())
        limits[crosses, side] = np.maximum(np.abs(x[crosses]), 1.0)
    return limits


def centre_line(person: Person, frame: Frame, down: Array) -> Array:
    """Where the middle of the body lies (pixels across) at `down` pixels below the shoulder line."""
    hip_x = float(frame.place(middle(person.points, HIP_L, HIP_R)[None])[0, 0])
    line: Array = np.clip(down / frame.torso, 0, 1) * hip_x
    return line


def limb_halves(
    padded: NDArray[np.float32], frame: Frame, upper: Array, lower: Array, half_cm: float
) -> Array:
    """Half widths (n, 2) in cm across the bone between two joints."""
    along = (lower - upper) / max(float(np.linalg.norm(lower - upper)), 1.0)
    centres = upper + LIMB_ROWS[:, None] * (lower - upper)
    return halves(padded, centres, np.array([along[1], -along[0]]), half_cm=half_cm, cm=frame.cm)


def body_widths(person: Person, padded: NDArray[np.float32], frame: Frame) -> Array:
    """Width in cm of everything between the arms at BODY_ROWS."""
    down = frame.top + BODY_ROWS * (frame.bottom - frame.top)
    centre = centre_line(person, frame, down)
    limits = arm_limits(person, frame, down, centre)
    steps = np.arange(-45.0, 45.1, 2 * STEP_CM) / frame.cm
    across = centre[:, None] + steps[None]
    x = frame.origin[0] + down[:, None] * frame.down[0] + across * frame.across[0]
    y = frame.origin[1] + down[:, None] * frame.down[1] + across * frame.across[1]
    between = (steps[None] > -limits[:, :1]) & (steps[None] < limits[:, 1:])
    widths: Array = (sample(padded, x, y) * between).sum(axis=1) * 2 * STEP_CM
    return widths


def folds(profile: Array) -> list[float]:
    """How folded an outline is: the mean size of its second differences at three spacings, in cm.

    `profile` (..., n, edges). Skin and tight clothing run smoothly, loose clothing hangs in folds; this is
    what tells how much of a width is cloth.
    """
    return [
        float(
            np.minimum(
                np.abs(profile[..., : -2 * s, :] - 2 * profile[..., s:-s, :] + profile[..., 2 * s :, :]), 3.0
            ).mean()
        )
        for s in FOLD_SPACINGS
    ]


@dataclass(frozen=True, slots=True)
class Silhouette:
    """What was measured in the picture. `values` in the order of `FEATURES`; `torso` (n, 2) half widths in cm
    at TORSO_ROWS; `cut` (n, 2) where an arm ended the row."""

    frame: Frame
    values: Array
    torso: Array
    cut: NDArray[np.bool_]


def measure_silhouette(person: Person, height_cm: float) -> Silhouette:
    """Every width, length and fold of one person whose height is known, in cm."""
    frame = lay_frame(person, height_cm)
    padded = np.pad(person.mask, 1)

    down = TORSO_ROWS * frame.torso
    centre = centre_line(person, frame, down)
    centres = frame.origin + down[:, None] * frame.down + centre[:, None] * frame.across
    limits = arm_limits(person, frame, down, centre)
    seen = halves(padded, centres, frame.across, half_cm=TORSO_HALF_CM, cm=frame.cm, limits=limits)
    cut = limits * frame.cm - seen < CUT_CM
    torso = without_leaks(seen)

    limbs = {}
    for name, left, right, half_cm in LIMBS:
        one, other = (
            limb_halves(padded, frame, person.points[upper], person.points[lower], half_cm)
            for upper, lower in (left, right)
        )
        limbs[name] = np.stack([one, other[:, ::-1]])
    body = body_widths(person, padded, frame)

    measured = _Measured(height_cm, person.points, frame, torso, seen, cut, body, limbs)
    values = np.concatenate([values_of(measured) for _, values_of in _FEATURES])
    return Silhouette(frame, values, torso, cut)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Everything that features are taken from; half widths and widths in cm.

    `torso` (n, 2) without leaks, `seen` the same with them, `cut` where an arm ended the row; `limbs` by name
    (sides, n, 2).
    """

    height_cm: float
    points: Array
    frame: Frame
    torso: Array
    seen: Array
    cut: NDArray[np.bool_]
    body: Array
    limbs: Mapping[str, Array]

    def apart(self, *pairs: tuple[int, int]) -> float:
        """Distance between two landmarks in cm; of several pairs, such as left and right, the mean."""
        p = self.points
        return float(np.mean([np.linalg.norm(p[a] - p[b]) for a, b in pairs])) * self.frame.cm

    def below(self, *landmarks: int) -> float:
        """How far below the shoulder line landmarks are, in cm; of several, the mean."""
        return float(self.frame.place(self.points[list(landmarks)])[:, 1].mean()) * self.frame.cm


_BONES: Final[Mapping[str, Callable[[_Measured], float]]] = {
    "shoulders": lambda m: m.apart((SHOULDER_L, SHOULDER_R)),
    "hips": lambda m: m.apart((HIP_L, HIP_R)),
    "torso": lambda m: m.frame.torso * m.frame.cm,
    "upper_arm": lambda m: m.apart((SHOULDER_L, ELBOW_L), (SHOULDER_R, ELBOW_R)),
    "forearm": lambda m: m.apart((ELBOW_L, WRIST_L), (ELBOW_R, WRIST_R)),
    "thigh": lambda m: m.apart((HIP_L, KNEE_L), (HIP_R, KNEE_R)),
    "calf": lambda m: m.apart((KNEE_L, ANKLE_L), (KNEE_R, ANKLE_R)),
    "ears": lambda m: m.apart((EAR_L, EAR_R)),
    "eyes": lambda m: m.apart((EYE_L, EYE_R)),
    "mouth": lambda m: m.apart((MOUTH_L, MOUTH_R)),
    "ankles_apart": lambda m: m.apart((ANKLE_L, ANKLE_R)),
    "knees_apart": lambda m: m.apart((KNEE_L, KNEE_R)),
    "elbows_apart": lambda m: m.apart((ELBOW_L, ELBOW_R)),
    "wrists_apart": lambda m: m.apart((WRIST_L, WRIST_R)),
    "nose_down": lambda m: m.below(NOSE),
    "crown_up": lambda m: -m.frame.top * m.frame.cm,
    "knees_down": lambda m: m.below(KNEE_L, KNEE_R),
    "ankles_down": lambda m: m.below(ANKLE_L, ANKLE_R),
}
# Parts whose outline shows folds, and the rows of it that do.
_CLOTHED: Final[Mapping[str, Callable[[_Measured], Array]]] = {
    "torso": lambda m: m.seen[16:45],
    "legs": lambda m: np.concatenate([m.limbs["thigh"][:, 6:], m.limbs["calf"]], axis=1),
    "arms": lambda m: np.concatenate([m.limbs["upper_arm"][:, 4:], m.limbs["forearm"]], axis=1),
    "body": lambda m: m.body[25:48, None],
}
# Rows of the torso in which arms may cut the outline off.
_CUT_BANDS: Final = {
    "chest": slice(8, 18),
    "waist": slice(18, 26),
    "belly": slice(26, 36),
    "hip": slice(36, 47),
}


def _limb_widths(limb: str, measured: _Measured) -> Array:
    widths: Array = measured.limbs[limb].mean(axis=0).sum(axis=1)[1::3]
    return widths


def _limb_half_widths(limb: str, measured: _Measured) -> Array:
    halves: Array = measured.limbs[limb].mean(axis=0)[2::4].ravel()
    return halves


# Each group of features once: their names, and where their values come from, in cm.
_FEATURES: Final[Sequence[tuple[Sequence[str], Callable[[_Measured], Sequence[float] | Array]]]] = (
    (["height"], lambda m: [m.height_cm]),
    ([f"torso_{row:.2f}" for row in TORSO_ROWS[::2]], lambda m: m.torso[::2].sum(axis=1)),
    ([f"body_{row:.2f}" for row in BODY_ROWS], lambda m: m.body),
    *(([f"{limb}_{row:.2f}" for row in LIMB_ROWS[1::3]], partial(_limb_widths, limb)) for limb, *_ in LIMBS),
    *(
        (
            [f"{limb}_{row:.2f}_{side}" for row in LIMB_ROWS[2::4] for side in ("outer", "inner")],
            partial(_limb_half_widths, limb),
        )
        for limb in ("upper_arm", "thigh")
    ),
    ([f"bone_{bone}" for bone in _BONES], lambda m: [length(m) for length in _BONES.values()]),
    (
        [f"folds_{part}_{spacing}" for part in _CLOTHED for spacing in FOLD_SPACINGS],
        lambda m: [size for outline in _CLOTHED.values() for size in folds(outline(m))],
    ),
    (
        [f"cut_{band}" for band in _CUT_BANDS],
        lambda m: [float(m.cut[rows].sum()) for rows in _CUT_BANDS.values()],
    ),
)
FEATURES: Final = tuple(name for names, _ in _FEATURES for name in names)
