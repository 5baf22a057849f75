"""The torso without the arms: a small picture of it for the network, and widths from what the network says.

Pure: takes arrays, returns arrays. The network (`parts_net.py`) sees an upright, centred crop in which every
body is equally tall, and says for each pixel how much of it is arm, the rest of the body, and under clothes.
It separates what the pose model's mask of 256 pixels runs together: an arm that hangs close to the torso. So
that it knows skin in any light, it is shown how much each pixel looks like the person's own face.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wearon_sizing.silhouette import (
    ARM_CHAINS,
    HIP_L,
    HIP_R,
    Array,
    Frame,
    Person,
    middle,
)

CROP: Final = 144
"""Pixels on each side of the crop."""
LAYERS: Final = 6
HEIGHT_IN_CROP: Final = 283.333
"""Pixels that the whole body would take; 0.6 cm each for somebody of 170 cm."""
SHOULDERS_IN_CROP: Final = 16.667
"""The crop's row of the line between the shoulders; it reaches down to half the thigh."""
# Nose, eyes and mouth.
FACE: Final = (0, 1, 2, 3, 4, 5, 6, 9, 10)
UNKNOWN_FACE: Final = (128.0, 128.0, 128.0)
# A colour looks like the face's when, in logarithms, its hue and its brightness are about this near.
HUE_SPREAD: Final = 0.15
BRIGHTNESS_SPREAD: Final = 0.6
DARKEST: Final = 20.0
"""Added to colours of 0 to 255 before their logarithm is taken, so that noise in the dark counts little."""
PARTS: Final = 3
ARM, BODY, COVERED = range(PARTS)
"""What the network says of each pixel, 0 to 1: arm, the rest of the body, clothes."""
# Levels across the torso, 0 the shoulder line to 1 the hip line.
ROWS: Final = np.linspace(0.1, 1.3, 25)
# The weighted mean of a row and its neighbours, 1.5 % of the torso: single rows are noise.
NEIGHBOURHOOD: Final = np.array([1, 4, 6, 4, 1], np.float32) / 16
# An arm this near the torso's edge touches it.
TOUCH_PIXELS: Final = 3


@dataclass(frozen=True, slots=True)
class TorsoProfile:
    """Along ROWS, in cm: `halves` (n, 2), how far the body without arms reaches to the left and to the right
    of the line from the shoulders to the hips; `arms` (n,) the width of both arms together; `touching` (n, 2)
    whether an arm lies at the left and at the right edge; `edges` (n, 2) from the crop's middle;
    `arms_covered` (n,) the share of the arms under clothes, 0 to 1."""

    halves: Array
    arms: Array
    touching: NDArray[np.bool_]
    edges: Array
    arms_covered: Array

    @property
    def widths(self) -> Array:
        """(n,) of the body without arms."""
        widths: Array = self.halves.sum(axis=1)
        return widths


def crop_matrix(person: Person, frame: Frame) -> Array:
    """(2, 3): picture pixels to crop pixels."""
    scale = HEIGHT_IN_CROP / (frame.bottom - frame.top)
    hips = frame.place(middle(person.points, HIP_L, HIP_R)[None])[0]
    axes = np.stack([frame.across, frame.down]) * scale
    shift = np.array([CROP / 2 - scale * hips[0] / 2, SHOULDERS_IN_CROP]) - axes @ frame.origin
    return np.column_stack([axes, shift])


def net_input(picture: NDArray[np.uint8], person: Person, matrix: Array) -> NDArray[np.float32]:
    """The layers of one person in `picture` (RGB). `matrix`: the `crop_matrix`."""

    def crop(values: cv2.typing.MatLike) -> cv2.typing.MatLike:
        return cv2.warpAffine(values, matrix, (CROP, CROP), flags=cv2.INTER_LINEAR)

    return layers_of(
        np.asarray(crop(picture), np.float32),
        np.asarray(crop(person.mask), np.float32),
        person.points @ matrix[:, :2].T + matrix[:, 2],
        face_colour(picture, person.points),
    )


def layers_of(
    colours: NDArray[np.float32], mask: NDArray[np.float32], points: Array, face: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(LAYERS, CROP, CROP): colours from -0.5 to 0.5, the mask, where the bones of the arms run, and how much
    a pixel looks like the face (all 0 to 1). Of the crop: `colours` (CROP, CROP, 3) 0 to 255, `mask`
    (CROP, CROP) 0 to 1, `points` (33, 2) in its pixels; `face` (3,) 0 to 255."""
    layers = np.empty((LAYERS, CROP, CROP), np.float32)
    layers[:3] = colours.transpose(2, 0, 1) / np.float32(255) - np.float32(0.5)
    layers[3] = mask
    layers[4] = arm_lines(points) / np.float32(255)
    layers[5] = likeness_to_face(colours, face)
    return layers


def face_colour(picture: NDArray[np.uint8], points: Array) -> NDArray[np.float32]:
    """(3,) 0 to 255: the middle colour around nose and eyes. `points` (33, 2) pixels of the picture."""
    face = points[list(FACE)]
    centre = face.mean(axis=0)
    reach = max(1.5, 0.5 * float(np.abs(face - centre).max()))
    corners = np.round([centre - reach, centre + reach + 1]).astype(int)
    (left, top), (right, bottom) = np.clip(corners, 0, picture.shape[1::-1])
    patch = picture[top:bottom, left:right].reshape(-1, 3)
    return np.asarray(np.median(patch, axis=0) if len(patch) else UNKNOWN_FACE, np.float32)


def likeness_to_face(colours: NDArray[np.float32], face: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, columns) 0 to 1. `colours` (rows, columns, 3) and `face` (3,) 0 to 255."""
    # Three planes: sums over an axis of three are slow.
    red, green, blue = cv2.split(cv2.log(colours + np.float32(DARKEST)) - np.log(face + np.float32(DARKEST)))
    brighter = (red + green + blue) / 3
    hue = red * red + green * green + blue * blue - 3 * brighter * brighter
    likeness: NDArray[np.float32] = np.exp(
        -hue / np.float32(2 * HUE_SPREAD**2) - brighter**2 / np.float32(2 * BRIGHTNESS_SPREAD**2)
    )
    return likeness


def arm_lines(points: Array) -> NDArray[np.uint8]:
    """(CROP, CROP) 0 to 255: thick lines from the shoulders to the fingers. `points` (33, 2) crop pixels."""
    lines = np.zeros((CROP, CROP), np.uint8)
    for chain in ARM_CHAINS:
        joints = np.round(np.clip(points[list(chain)], -CROP, 2 * CROP)).astype(np.int32)
        cv2.polylines(lines, [joints.reshape(-1, 1, 2)], False, 255, 7)
    return np.asarray(cv2.GaussianBlur(lines, (7, 7), 0), np.uint8)


def whole_parts(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """(PARTS, CROP, CROP) from what the network says: (4 * PARTS, CROP / 2, CROP / 2), of each part the four
    pixels of every square of 2 × 2, row by row."""
    half = CROP // 2
    four = squares.reshape(PARTS, 2, 2, half, half).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(four).reshape(PARTS, CROP, CROP)


def measure_torso(parts: NDArray[np.float32], frame: Frame, hips: float) -> TorsoProfile:
    """`parts` (PARTS, CROP, CROP): how much of each pixel is arm, the rest of the body, and under clothes;
    `hips`: how far their middle lies across from that of the shoulders, in pixels of the picture."""
    scale = HEIGHT_IN_CROP / (frame.bottom - frame.top)
    cm, torso = frame.cm / scale, frame.torso * scale
    at = np.round(SHOULDERS_IN_CROP + ROWS * torso).astype(int)
    rows = np.clip(at[:, None] + np.arange(-2, 3), 0, CROP - 1)
    arm, body, covered = np.einsum("prnc,n->prc", parts[:, rows], NEIGHBOURHOOD).astype(np.float64)
    solid = body > 0.5
    first = np.where(solid.any(axis=1), solid.argmax(axis=1), CROP // 2)
    last = np.where(solid.any(axis=1), CROP - 1 - solid[:, ::-1].argmax(axis=1), CROP // 2)
    columns = np.arange(CROP)
    near_left = (columns < first[:, None]) & (columns >= first[:, None] - TOUCH_PIXELS)
    near_right = (columns > last[:, None]) & (columns <= last[:, None] + TOUCH_PIXELS)
    touching = np.stack([((arm > 0.5) & near).any(axis=1) for near in (near_left, near_right)], axis=1)
    # An arm before the body hides it; what lies between two edges of the body belongs to it.
    inside = (columns >= first[:, None]) & (columns <= last[:, None])
    solid_body = np.maximum(body, arm * inside)
    # The crop's middle lies between shoulders and hips.
    middles = CROP / 2 + (np.clip(ROWS, 0, 1) - 0.5) * hips * scale
    left = (solid_body * np.clip(middles[:, None] - columns, 0, 1)).sum(axis=1)
    return TorsoProfile(
        halves=np.stack([left, solid_body.sum(axis=1) - left], axis=1) * cm,
        arms=arm.sum(axis=1) * cm,
        touching=touching,
        edges=np.stack([first - CROP / 2, last + 1 - CROP / 2], axis=1) * cm,
        # One pixel more, so that nothing seen is nothing covered.
        arms_covered=(covered * arm).sum(axis=1) / (arm.sum(axis=1) + 1),
    )
