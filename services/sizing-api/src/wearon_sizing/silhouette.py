"""From one detected person to a row of numbers: widths of the body and lengths of its bones.

Pure: takes arrays, returns arrays. Everything is measured along lines laid into the soft segmentation mask,
with the mask's values added up along the line, so an edge is placed more finely than a pixel. Left and right
are always averaged, so a mirrored photo gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOSE, EYE_L, EYE_R, EAR_L, EAR_R, MOUTH_L, MOUTH_R = 0, 3, 6, 7, 8, 9, 10
SHOULDER_L, SHOULDER_R, ELBOW_L, ELBOW_R, WRIST_L, WRIST_R, INDEX_L, INDEX_R = 11, 12, 13, 14, 15, 16, 19, 20
HIP_L, HIP_R, KNEE_L, KNEE_R, ANKLE_L, ANKLE_R = 23, 24, 25, 26, 27, 28
HEEL_L, HEEL_R, TOE_L, TOE_R = 29, 30, 31, 32
SHOULDERS, HIPS, KNEES, ANKLES = (
    (SHOULDER_L, SHOULDER_R),
    (HIP_L, HIP_R),
    (KNEE_L, KNEE_R),
    (ANKLE_L, ANKLE_R),
)
ARM_CHAINS: Final = ((SHOULDER_L, ELBOW_L, WRIST_L, INDEX_L), (SHOULDER_R, ELBOW_R, WRIST_R, INDEX_R))

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


@dataclass(frozen=True, slots=True)
class Person:
    """One detected person. `points` (33, 2) pixels, `visibility` (33,) 0 to 1, `world`
    (33, 3) metres around the hips, `mask` (rows, columns) 0 to 1, without islands; `parts` what
    `parts_net.PartsNet` says of the torso's crop, once it was asked."""

    points: Array
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
    """(2,): half-way between two landmarks of `points` (33, 2)."""
    centre: Array = (points[left] + points[right]) / 2
    return centre


def lean(world: Array, upper: tuple[int, int], lower: tuple[int, int]) -> float:
    """Degrees by which the line between two pairs of joints leans away from the camera's plane. A camera that
    looks up from below makes an upright body lean. `world` (33, 3) in metres."""
    line = (world[list(lower)] - world[list(upper)]).mean(axis=0)
    return math.degrees(math.atan2(line[2], line[1]))


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


def sample(mask: NDArray[np.float32], x: Array, y: Array) -> NDArray[np.float32]:
    """Bilinear values of a mask at pixel coordinates (rows, columns); nothing lies outside the picture."""
    places = x.astype(np.float32), y.astype(np.float32)
    values = cv2.remap(mask, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0.0)
    return np.asarray(values, np.float32)


def reach(values: NDArray[np.float32]) -> Array:
    """How far the body goes on along the last axis, in steps: the sum of the values up to the first gap."""
    gaps = values <= 0.5
    solid = np.where(gaps.any(axis=-1), gaps.argmax(axis=-1), values.shape[-1])
    near = np.arange(values.shape[-1]) < solid[..., None] + 3
    total: Array = (values * near).sum(axis=-1, dtype=np.float64)
    return total


def halves(mask: NDArray[np.float32], centres: Array, across: Array, *, limits: Array, cm: float) -> Array:
    """Distance in cm from each centre (n, 2) to the body's edge on either side: (n, 2).

    `across` (2,) or (n, 2): unit vectors. `limits` (n, 2): where to stop at the latest, in cm to the minus
    and to the plus side. `cm` per pixel.
    """
    count = len(centres)
    steps = np.arange(0, limits.max() + STEP_CM / 2, STEP_CM)
    both = np.stack([-steps, steps]) / cm  # minus side, plus side
    x, y = (
        (centres[:, None, None, axis] + both * across[..., axis].reshape(-1, 1, 1)).reshape(2 * count, -1)
        for axis in (0, 1)
    )
    values = sample(mask, x, y).reshape(count, 2, len(steps))
    values[steps > limits[:, :, None]] = 0
    # The first column lies on the centre line and belongs half to either side.
    reached: Array = (reach(values) - values[:, :, 0] / 2) * STEP_CM
    return reached


def without_leaks(torso: Array) -> Array:
    """The half widths (n, 2) with sudden jumps outward held down."""
    held = torso.copy()
    for row in range(LEAK_ROW, len(held)):
        held[row] = np.minimum(held[row], held[row - 1] + LEAK_CM)
    return held


def arm_limits(placed: Array, frame: Frame, rows: Array, centre: Array) -> Array:
    """How far from the centre line the bones of the arms cross the rows, in cm to either side (n, 2).

    An arm that touches the torso is cut off there. Infinite where no arm crosses. `placed` (33, 2) landmarks
    in body coordinates, `rows` and `centre` (n,) pixels."""
    limits = np.full((len(rows), 2), np.inf)
    for chain in ARM_CHAINS:
        arm = placed[list(chain)]
        order = np.argsort(arm[:, 1])
        x = np.interp(rows, arm[order, 1], arm[order, 0]) - centre
        crosses = (rows >= arm[0, 1]) & (rows <= arm[:, 1].max() + 0.15 * frame.torso)
        side = int(arm[1:3, 0].mean() > centre.mean())
        limits[crosses, side] = np.maximum(np.abs(x[crosses]), 1.0) * frame.cm
    return limits


def centre_line(placed: Array, frame: Frame, rows: Array) -> Array:
    """Where the middle of the body lies (pixels across) at `rows` pixels below the shoulder line."""
    hip_x = float(placed[[HIP_L, HIP_R], 0].mean())
    line: Array = np.clip(rows / frame.torso, 0, 1) * hip_x
    return line


def limb_halves(person: Person, frame: Frame) -> dict[str, Array]:
    """By limb, half widths (sides, n, 2) in cm across its bone at LIMB_ROWS; the outer side first."""
    rows = len(LIMB_ROWS)
    ends = [(pair, half_cm) for _, *pairs, half_cm in LIMBS for pair in pairs]
    upper, lower = (person.points[[pair[end] for pair, _ in ends]] for end in (0, 1))
    bones = lower - upper
    along = bones / np.maximum(np.linalg.norm(bones, axis=1), 1.0)[:, None]
    across = np.stack([along[:, 1], -along[:, 0]], axis=1)
    centres = upper[:, None] + LIMB_ROWS[None, :, None] * bones[:, None]
    limits = np.repeat([half_cm for _, half_cm in ends], 2 * rows).reshape(-1, 2)
    found = halves(
        person.mask, centres.reshape(-1, 2), np.repeat(across, rows, axis=0), limits=limits, cm=frame.cm
    ).reshape(len(LIMBS), 2, rows, 2)
    # The right limb's outer side is where the left one's inner side is.
    found[:, 1] = found[:, 1, :, ::-1]
    return {name: found[index] for index, (name, *_) in enumerate(LIMBS)}


def body_widths(person: Person, frame: Frame, placed: Array) -> Array:
    """Width in cm of everything between the arms at BODY_ROWS."""
    down = frame.top + BODY_ROWS * (frame.bottom - frame.top)
    centre = centre_line(placed, frame, down)
    limits = arm_limits(placed, frame, down, centre)
    steps = np.arange(-45.0, 45.1, 2 * STEP_CM)
    across = centre[:, None] + steps / frame.cm
    x = frame.origin[0] + down[:, None] * frame.down[0] + across * frame.across[0]
    y = frame.origin[1] + down[:, None] * frame.down[1] + across * frame.across[1]
    between = (steps > -limits[:, :1]) & (steps < limits[:, 1:])
    widths: Array = (sample(person.mask, x, y) * between).sum(axis=1, dtype=np.float64) * 2 * STEP_CM
    return widths


@dataclass(frozen=True, slots=True)
class Silhouette:
    """What was measured in the picture, in cm. `values` in the order of `FEATURES`; half widths (n, 2) of the
    torso at TORSO_ROWS: as `seen`, and `torso` without leaks; `arms` (n, 2), how far the bones of the arms
    lie from the middle there; half widths of the `limbs` by name (sides, n, 2); `body` (n,) widths at
    BODY_ROWS."""

    frame: Frame
    values: Array
    seen: Array
    torso: Array
    arms: Array
    limbs: Mapping[str, Array]
    body: Array


def measure_silhouette(person: Person, height_cm: float) -> Silhouette:
    """Every width and length of one person whose height is known, in cm."""
    frame = lay_frame(person, height_cm)
    placed = frame.place(person.points)
    down = TORSO_ROWS * frame.torso
    centre = centre_line(placed, frame, down)
    centres = frame.origin + down[:, None] * frame.down + centre[:, None] * frame.across
    arms = arm_limits(placed, frame, down, centre)
    seen = halves(person.mask, centres, frame.across, limits=np.minimum(arms, TORSO_HALF_CM), cm=frame.cm)
    torso = without_leaks(seen)
    limbs, body = limb_halves(person, frame), body_widths(person, frame, placed)
    measured = _Measured(height_cm, (placed * frame.cm).tolist(), frame, torso, body, limbs)
    values = np.concatenate([values_of(measured) for _, values_of in _FEATURES])
    return Silhouette(frame, values, seen, torso, arms, limbs, body)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Everything that features are taken from, in cm: `points` (33, 2) landmarks in body coordinates, `torso`
    (n, 2) half widths without leaks, `body` (n,) widths, half widths of `limbs` by name (sides, n, 2)."""

    height_cm: float
    points: Sequence[Sequence[float]]
    frame: Frame
    torso: Array
    body: Array
    limbs: Mapping[str, Array]

    def apart(self, *pairs: tuple[int, int]) -> float:
        """Distance between two landmarks in cm; of several pairs, such as left and right, the mean."""
        return sum(math.dist(self.points[a], self.points[b]) for a, b in pairs) / len(pairs)

    def below(self, *landmarks: int) -> float:
        """How far below the shoulder line landmarks are, in cm; of several, the mean."""
        return sum(self.points[each][1] for each in landmarks) / len(landmarks)


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
)
FEATURES: Final = tuple(name for names, _ in _FEATURES for name in names)
