"""What the photo check sees in renders that were made unfit in a known way, and how it answers over HTTP."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.sizing import BodySeen
from wearon_sizing.photo_check import look, refuse_try_on
from wearon_sizing.pose import Landmarker
from wearon_sizing.sizing import refuse_photo

from .studio import SITTERS, ImageHost, Service, Sitter, body_of, jpeg, pixels

E = ErrorCode
# Shares of the pictures' height at which all four sitters are cut there.
TO_THE_THIGHS, TO_THE_HIPS, TO_THE_WAIST, TO_THE_NECK = 0.55, 0.5, 0.4, 0.2


def upper(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.crop((0, 0, picture.width, round(picture.height * share)))


def beside_another(picture: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (picture.width * 2, picture.height))
    sheet.paste(picture, (0, 0))
    sheet.paste(SITTERS[1].picture.resize(picture.size), (picture.width, 0))
    return sheet


def far_away(picture: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", picture.size, picture.getpixel((2, 2)))
    sheet.paste(picture.resize((picture.width // 7, picture.height // 7)), (200, 250))
    return sheet


@pytest.mark.parametrize(
    ("make", "seen", "try_on", "sizing"),
    [
        (lambda picture: picture, BodySeen.WHOLE, None, None),
        (upper(TO_THE_THIGHS), BodySeen.HIPS_UP, None, E.FEET_OUTSIDE_FRAME),
        (upper(TO_THE_WAIST), BodySeen.WAIST_UP, None, E.FEET_OUTSIDE_FRAME),
        (upper(TO_THE_NECK), BodySeen.HEAD_AND_SHOULDERS, E.UPPER_BODY_OUTSIDE_FRAME, E.FEET_OUTSIDE_FRAME),
        (beside_another, BodySeen.WHOLE, E.SEVERAL_PEOPLE, E.SEVERAL_PEOPLE),
        (lambda picture: ImageEnhance.Brightness(picture).enhance(0.1), None, E.TOO_DARK, E.TOO_DARK),
        (lambda picture: picture.filter(ImageFilter.GaussianBlur(8)), None, E.BLURRED, E.BLURRED),
    ],
    ids=["whole", "thighs", "waist", "neck", "two people", "dark", "blurred"],
)
def test_a_photo_is_refused_for_what_is_wrong_with_it(
    landmarker: Landmarker,
    sitter: Sitter,
    make: Callable[[Image.Image], Image.Image],
    seen: BodySeen | None,
    try_on: ErrorCode | None,
    sizing: ErrorCode | None,
) -> None:
    picture = pixels(make(sitter.picture))
    people = landmarker.detect(picture)
    sight = look(picture, people)
    if seen is not None:
        assert sight.body is seen
    assert refuse_try_on(picture, people) is try_on
    assert refuse_photo(picture, people) is sizing
    assert (sight.people == 2) == (try_on is E.SEVERAL_PEOPLE)


def test_somebody_far_away_is_too_small_for_both(landmarker: Landmarker) -> None:
    picture = pixels(far_away(SITTERS[0].picture))
    people = landmarker.detect(picture)
    unfit = (E.PERSON_TOO_SMALL, E.NO_PERSON)
    assert refuse_try_on(picture, people) in unfit
    assert refuse_photo(picture, people) in unfit


def test_picture_without_anybody_is_refused_for_that(landmarker: Landmarker) -> None:
    # Stripes with sharp edges: nothing but the missing person is wrong with them.
    picture = np.zeros((640, 480, 3), np.uint8)
    picture[:, ::40] = 255
    people = landmarker.detect(picture)
    sight = look(picture, people)
    assert (sight.people, sight.body) == (0, BodySeen.NONE)
    assert refuse_try_on(picture, people) is refuse_photo(picture, people) is E.NO_PERSON


def test_a_usable_photo_is_answered_with_what_was_seen(service: Service, image_host: ImageHost) -> None:
    url = image_host.put("whole.jpg", SITTERS[0].jpeg)
    for purpose in ("try_on", "sizing"):
        response = service.client.post("/check-photo", json={"image_url": url, "purpose": purpose})
        answer = body_of(response)
        assert response.status_code == 200
        assert (answer["usable"], answer["code"], answer["sentence"]) == (True, None, "This photo will do.")
        assert (answer["seen"]["people"], answer["seen"]["body"]) == (1, "whole")
        assert 0.3 < answer["seen"]["light"] <= 1
        assert 0.3 < answer["seen"]["sharpness"] <= 1


def test_half_a_body_is_fine_for_a_try_on_and_not_for_sizing(service: Service, image_host: ImageHost) -> None:
    url = image_host.put("half.jpg", jpeg(upper(TO_THE_HIPS)(SITTERS[2].picture)))
    answers = {
        purpose: body_of(service.client.post("/check-photo", json={"image_url": url, "purpose": purpose}))
        for purpose in ("try_on", "sizing")
    }
    assert answers["try_on"]["usable"] is True
    assert answers["sizing"]["usable"] is False
    assert answers["sizing"]["code"] == "feet_outside_frame"
    assert answers["sizing"]["sentence"] == sentence(E.FEET_OUTSIDE_FRAME)


def test_what_is_no_picture_is_400_with_its_code(service: Service, image_host: ImageHost) -> None:
    url = image_host.put("text.jpg", b"no picture at all")
    response = service.client.post("/check-photo", json={"image_url": url, "purpose": "try_on"})
    answer = body_of(response)
    assert response.status_code == 400
    assert answer["code"].startswith("image_")
    assert "fallback" not in answer


@pytest.mark.parametrize(
    "body",
    [{}, {"image_url": "https://a.example/b.jpg"}, {"image_url": "https://a.example/b.jpg", "purpose": "x"}],
)
def test_an_invalid_check_is_422(service: Service, body: dict[str, str]) -> None:
    response = service.client.post("/check-photo", json=body)
    assert (response.status_code, body_of(response)["code"]) == (422, "request_invalid")
