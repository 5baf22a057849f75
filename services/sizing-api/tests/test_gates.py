"""What may not be measured, made from renders and judged by the real landmarker."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from wearon_contracts.errors import ErrorCode
from wearon_sizing.gates import refuse_people
from wearon_sizing.measuring import Method
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import (
    ANKLE_L,
    ANKLE_R,
    HIP_L,
    HIP_R,
    KNEE_L,
    KNEE_R,
    SHOULDER_L,
    SHOULDER_R,
)
from wearon_sizing.sizing import PhotoRefusedError, Shopper, assess, find_person, open_photo

from .studio import DRESS, PAIR, PAIR_SIDE, Sitter, pixels, with_forearm_turned

Change = Callable[[Image.Image], Image.Image]


def judge(landmarker: Landmarker, method: Method, picture: Image.Image, height: float) -> ErrorCode | None:
    """The code of the refusal, None when it was measured. The picture comes as the service decodes it."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    try:
        assess(find_person(landmarker, open_photo(file.getvalue())), Shopper(height), method)
    except PhotoRefusedError as refusal:
        return refusal.code
    return None


def body_rows(picture: Image.Image, landmarker: Landmarker) -> tuple[int, int]:
    """First and last row of the person in `picture`."""
    rows = np.flatnonzero((find_person(landmarker, pixels(picture)).mask > 0.5).any(axis=1))
    return int(rows[0]), int(rows[-1])


def test_good_photos_of_every_sitter_pass(landmarker: Landmarker, method: Method, sitter: Sitter) -> None:
    assert judge(landmarker, method, sitter.picture, sitter.height) is None


@pytest.mark.parametrize("share", [0.06, 0.12])
def test_a_head_that_is_cut_off(landmarker: Landmarker, method: Method, sitter: Sitter, share: float) -> None:
    top, bottom = body_rows(sitter.picture, landmarker)
    cut = sitter.picture.crop(
        (0, top + int(share * (bottom - top)), sitter.picture.width, sitter.picture.height)
    )
    assert judge(landmarker, method, cut, sitter.height) is ErrorCode.HEAD_OUTSIDE_FRAME


@pytest.mark.parametrize("share", [0.04, 0.15, 0.3])
def test_feet_that_are_cut_off(landmarker: Landmarker, method: Method, sitter: Sitter, share: float) -> None:
    top, bottom = body_rows(sitter.picture, landmarker)
    cut = sitter.picture.crop((0, 0, sitter.picture.width, bottom - int(share * (bottom - top))))
    assert judge(landmarker, method, cut, sitter.height) is ErrorCode.FEET_OUTSIDE_FRAME


def side_by_side(picture: Image.Image) -> Image.Image:
    pair = Image.new("RGB", (2 * picture.width, picture.height))
    pair.paste(picture, (0, 0))
    pair.paste(ImageOps.mirror(picture), (picture.width, 0))
    return pair


def small(picture: Image.Image) -> Image.Image:
    return ImageOps.contain(picture, (100, 100), Image.Resampling.LANCZOS)


def far_away(picture: Image.Image) -> Image.Image:
    wide = Image.new("RGB", (2400, 2400), (150, 160, 170))
    wide.paste(picture, (960, 900))
    return wide


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_profile_in_place_of_the_front_is_turned(
    landmarker: Landmarker, method: Method, *, mirrored: bool
) -> None:
    picture = ImageOps.mirror(PAIR_SIDE) if mirrored else PAIR_SIDE
    assert judge(landmarker, method, picture, PAIR.height) is ErrorCode.TURNED


@pytest.mark.parametrize("degrees", [90, 270])
def test_somebody_far_off_in_a_picture_on_its_side_is_told_of_the_side(
    landmarker: Landmarker, method: Method, degrees: int
) -> None:
    picture = ImageOps.expand(PAIR.picture, 60, (128, 128, 128)).rotate(degrees, expand=True)
    assert judge(landmarker, method, picture, PAIR.height) is ErrorCode.LEANING


def blank(picture: Image.Image) -> Image.Image:
    noise = np.random.default_rng(5).integers(60, 200, (64, 48, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(picture.size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (blank, {ErrorCode.NO_PERSON, ErrorCode.BLURRED}),
        (side_by_side, {ErrorCode.SEVERAL_PEOPLE}),
        (small, {ErrorCode.PERSON_TOO_SMALL}),
        (far_away, {ErrorCode.PERSON_TOO_SMALL, ErrorCode.NO_PERSON}),
        (lambda picture: ImageEnhance.Brightness(picture).enhance(0.12), {ErrorCode.TOO_DARK}),
        (lambda picture: picture.filter(ImageFilter.GaussianBlur(8)), {ErrorCode.BLURRED}),
        (lambda picture: picture.rotate(20, expand=True, fillcolor=(150, 160, 170)), {ErrorCode.LEANING}),
        (lambda picture: picture.rotate(90, expand=True), {ErrorCode.LEANING}),
        (lambda picture: picture.rotate(180), {ErrorCode.LEANING}),
    ],
    ids=[
        "nobody",
        "two",
        "100-pixels",
        "far-away",
        "dark",
        "blurred",
        "leaning",
        "on-its-side",
        "upside-down",
    ],
)
def test_changed_pictures_are_refused_for_what_was_changed(
    landmarker: Landmarker, method: Method, sitter: Sitter, change: Change, codes: set[ErrorCode]
) -> None:
    assert judge(landmarker, method, change(sitter.picture), sitter.height) in codes


@pytest.mark.parametrize(
    "change",
    [
        ImageOps.mirror,
        lambda picture: ImageEnhance.Brightness(picture).enhance(0.6),
        lambda picture: ImageEnhance.Color(picture).enhance(0.0),
        lambda picture: picture.rotate(4, fillcolor=(150, 160, 170)),
        lambda picture: picture.filter(ImageFilter.GaussianBlur(0.8)),
    ],
    ids=["mirrored", "dim", "grey", "slightly-tilted", "slightly-soft"],
)
def test_mirrored_dim_grey_or_slightly_tilted_photo_is_measured_almost_the_same(
    landmarker: Landmarker, method: Method, sitter: Sitter, change: Change
) -> None:
    shopper = Shopper(sitter.height)
    plain, changed = (
        assess(find_person(landmarker, pixels(picture)), shopper, method).body
        for picture in (sitter.picture, change(sitter.picture))
    )
    for name in ("chest_cm", "waist_cm", "hip_cm"):
        assert abs(plain.value(name) - changed.value(name)) < 4.0, name


@pytest.mark.parametrize(("degrees", "both"), [(100, False), (100, True), (55, True), (140, True)])
def test_hands_before_the_torso_and_bent_elbows_are_refused(
    landmarker: Landmarker, method: Method, sitter: Sitter, degrees: float, both: bool
) -> None:
    person = find_person(landmarker, pixels(sitter.picture))
    made = with_forearm_turned(sitter.picture, person, 0, degrees)
    if both:
        made = with_forearm_turned(made, person, 1, degrees)
    assert judge(landmarker, method, made, sitter.height) in {
        ErrorCode.ARMS_BENT,
        ErrorCode.ARMS_COVER_TORSO,
    }


def test_thighs_that_point_at_the_camera_are_sitting_though_the_legs_look_straight(
    landmarker: Landmarker, sitter: Sitter
) -> None:
    person = find_person(landmarker, pixels(sitter.picture))
    world = person.world.copy()
    # Knees half a metre in front of the hips, shins straight down.
    world[[KNEE_L, KNEE_R]] = world[[HIP_L, HIP_R]] + (0, 0.05, -0.5)
    world[[ANKLE_L, ANKLE_R]] = world[[KNEE_L, KNEE_R]] + (0, 0.45, 0)
    assert refuse_people([person]) is None
    assert refuse_people([replace(person, world=world)]) is ErrorCode.SEATED_OR_BENT


def test_thighs_much_shorter_than_the_calves_are_sitting(landmarker: Landmarker, sitter: Sitter) -> None:
    person = find_person(landmarker, pixels(sitter.picture))
    points = person.points.copy()
    points[[KNEE_L, KNEE_R]] -= 0.4 * (points[[KNEE_L, KNEE_R]] - points[[HIP_L, HIP_R]])
    assert refuse_people([replace(person, points=points)]) is ErrorCode.SEATED_OR_BENT


def test_thighs_much_shorter_than_the_torso_are_sitting_though_the_calves_look_short_too(
    landmarker: Landmarker, sitter: Sitter
) -> None:
    person = find_person(landmarker, pixels(sitter.picture))
    points = person.points.copy()
    hips = points[[HIP_L, HIP_R]]
    torso = hips.mean(axis=0) - points[[SHOULDER_L, SHOULDER_R]].mean(axis=0)
    points[[KNEE_L, KNEE_R]] = hips + 0.55 * torso
    points[[ANKLE_L, ANKLE_R]] = hips + 1.15 * torso
    assert refuse_people([replace(person, points=points)]) is ErrorCode.SEATED_OR_BENT


def test_thighs_that_the_landmarker_takes_for_shorter_than_the_calves_are_sitting(
    landmarker: Landmarker, sitter: Sitter
) -> None:
    person = find_person(landmarker, pixels(sitter.picture))
    world = person.world.copy()
    shorter = 0.25 * (world[[KNEE_L, KNEE_R]] - world[[HIP_L, HIP_R]])
    world[[KNEE_L, KNEE_R, ANKLE_L, ANKLE_R]] -= np.concatenate([shorter, shorter])
    assert refuse_people([replace(person, world=world)]) is ErrorCode.SEATED_OR_BENT


def test_a_long_dress_does_not_look_like_sitting(landmarker: Landmarker, method: Method) -> None:
    assert judge(landmarker, method, DRESS.picture, DRESS.height) is None
