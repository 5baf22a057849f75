"""What the network is shown of a torso, and what it says of one."""

from __future__ import annotations

import numpy as np
import pytest

from wearon_sizing.inputs import read_photo
from wearon_sizing.pose import Landmarker
from wearon_sizing.torso import ROWS, UNKNOWN_FACE, face_colour, likeness_to_face

from .studio import SITTERS, Sitter, pixels

SKIN = np.array([190.0, 140.0, 115.0], np.float32)


def test_skin_looks_like_the_face_in_half_the_light_and_blue_cloth_of_the_same_brightness_does_not() -> None:
    colours = np.array([[SKIN, SKIN / 2, SKIN[::-1]]], np.float32)
    same, shaded, blue = likeness_to_face(colours, SKIN)[0]
    assert same == pytest.approx(1.0)
    assert shaded > 0.4
    assert blue < 0.1


def test_the_face_s_colour_is_the_middle_one_between_eyes_and_mouth() -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[15:35, 15:35] = SKIN.astype(np.uint8)
    points = np.full((33, 2), 25.0)
    points[[1, 4]] += [[6, -6], [-6, -6]]
    assert face_colour(picture, points) == pytest.approx(SKIN)
    assert face_colour(picture, points - 500) == pytest.approx(UNKNOWN_FACE)


def test_sleeves_are_told_from_bare_forearms(landmarker: Landmarker) -> None:
    def covered_below_the_elbow(sitter: Sitter) -> float:
        picture = pixels(sitter.picture)
        person = landmarker.with_parts(picture, landmarker.detect(picture)[0])
        covered = read_photo(person, sitter.height).torso.arms_covered
        return float(covered[np.abs(ROWS - 0.8).argmin()])

    _, _, long_sleeves, bare_forearms = SITTERS
    assert covered_below_the_elbow(long_sleeves) > 0.7
    assert covered_below_the_elbow(bare_forearms) < 0.3
