"""Measuring in a drawn person whose every width is known."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wearon_sizing.pose import main_body
from wearon_sizing.silhouette import (
    FEATURES,
    TORSO_ROWS,
    Array,
    Person,
    measure_silhouette,
    without_leaks,
)

ROWS, COLUMNS = 600, 400
HEIGHT_CM = 250.0  # of a figure 500 pixels high: half a centimetre per pixel
MIRRORED = [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9] + [joint + (1 if joint % 2 else -1) for joint in range(11, 33)]


def figure(torso_width: int = 80) -> Person:
    """Head, a torso of `torso_width` pixels, two legs, two thin arms away from it; 500 pixels high."""
    mask = np.zeros((ROWS, COLUMNS), dtype=np.float32)
    mask[50:120, 180:220] = 1
    half = torso_width // 2
    mask[120:320, 200 - half : 200 + half] = 1
    mask[320:550, 200 - half : 195] = 1
    mask[320:550, 205 : 200 + half] = 1
    points = np.zeros((33, 2))
    points[:11] = (200, 80)
    left = {11: (235, 125), 13: (300, 200), 15: (340, 260), 19: (350, 275), 23: (220, 305)}
    legs = {25: (222, 420), 27: (222, 530), 29: (222, 545), 31: (224, 545)}
    for joint, (x, y) in {**left, **legs}.items():
        points[joint] = (x, y)
        points[joint + 1] = (399 - x, y)
    points[[17, 21]], points[[18, 22]] = (350, 275), (49, 275)
    for chain in ((11, 13, 15), (12, 14, 16)):
        line = points[list(chain)].round().astype(np.int32)
        cv2.polylines(mask, [line], isClosed=False, color=1, thickness=14)
    world = np.zeros((33, 3))
    return Person(points, np.ones(33), world, mask)


def torso_width(person: Person, row: float) -> float:
    silhouette = measure_silhouette(person, HEIGHT_CM)
    return float(silhouette.torso[int(np.argmin(np.abs(TORSO_ROWS - row)))].sum())


def rotated(person: Person, degrees: float) -> Person:
    matrix = cv2.getRotationMatrix2D((COLUMNS / 2, ROWS / 2), degrees, 1.0)
    mask = cv2.warpAffine(person.mask, matrix, (COLUMNS, ROWS))
    points: Array = person.points @ matrix[:, :2].T + matrix[:, 2]
    return dataclasses.replace(person, mask=mask, points=points)


@pytest.mark.parametrize("pixels", [60, 80, 110])
def test_the_height_gives_the_scale_and_the_mask_the_width(pixels: int) -> None:
    person = figure(pixels)
    assert measure_silhouette(person, HEIGHT_CM).frame.cm == pytest.approx(0.5, rel=0.005)
    assert torso_width(person, 0.8) == pytest.approx(pixels / 2, abs=0.6)


def test_a_tilted_picture_gives_the_same_widths() -> None:
    straight, tilted = (measure_silhouette(p, HEIGHT_CM).values for p in (figure(), rotated(figure(), 6)))
    widths = [i for i, name in enumerate(FEATURES) if name.startswith("torso_") and float(name[6:]) > 0.5]
    assert np.abs(straight[widths] - tilted[widths]).max() < 1.0


def test_a_mirrored_picture_gives_the_same_numbers() -> None:
    person = rotated(figure(), 4)
    points = person.points[MIRRORED].copy()
    points[:, 0] = COLUMNS - 1 - points[:, 0]
    mirrored = dataclasses.replace(person, points=points, mask=np.ascontiguousarray(person.mask[:, ::-1]))
    one, other = (measure_silhouette(each, HEIGHT_CM).values for each in (person, mirrored))
    assert np.allclose(one, other, atol=1e-6)


def test_an_arm_that_touches_the_torso_is_cut_off_at_its_bone() -> None:
    person = figure()
    points = person.points.copy()
    points[[13, 15, 19]] = [(255, 200), (258, 260), (258, 275)]
    mask = person.mask.copy()
    mask[120:300, 240:275] = 1
    silhouette = measure_silhouette(dataclasses.replace(person, points=points, mask=mask), HEIGHT_CM)
    row = int(np.argmin(np.abs(TORSO_ROWS - 0.6)))
    assert 40 < silhouette.torso[row].sum() < 50


def test_an_outline_that_jumps_into_the_background_is_held_back() -> None:
    edges = np.full((47, 2), 15.0)
    edges[30:36, 0] = 22.0
    assert without_leaks(edges)[30:33, 0].tolist() == [15.8, 16.6, 17.400000000000002]
    assert (without_leaks(edges)[:, 1] == 15.0).all()


def test_islands_do_not_count_as_body() -> None:
    mask: NDArray[np.float32] = figure().mask.copy()
    mask[580:598, 10:60] = 1
    assert not main_body(mask)[575:].any()
    assert (main_body(mask)[:560] == mask[:560]).all()


def test_every_measured_number_has_a_unique_name() -> None:
    assert len(measure_silhouette(figure(), HEIGHT_CM).values) == len(FEATURES) == len(set(FEATURES))
