"""What a provider sends back is looked at before it is delivered."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image

from wearon_generator.answer_check import SHORTEST_SIDE, why_unusable

SIZE = (1024, 1536)
FORMATS = ["JPEG", "PNG", "WEBP"]


def _picture(format_: str, size: tuple[int, int] = SIZE, *, quality: int = 85, detail: int = 8) -> bytes:
    """One with as much detail as a photo; `detail`: pixels per grain."""
    grain = Image.effect_noise((size[0] // detail, size[1] // detail), 60)
    encoded = io.BytesIO()
    grain.resize(size, Image.Resampling.BICUBIC).convert("RGB").save(encoded, format_, quality=quality)
    return encoded.getvalue()


def _one_colour(format_: str, colour: tuple[int, int, int]) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", SIZE, colour).save(encoded, format_)
    return encoded.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
def test_whole_picture_is_accepted(format_: str) -> None:
    assert why_unusable(_picture(format_)) is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("detail", [4, 64])
def test_cut_off_picture_is_refused(format_: str, share: float, detail: int) -> None:
    data = _picture(format_, detail=detail)
    assert why_unusable(data[: int(len(data) * share)]) is not None


def test_large_cut_off_picture_is_refused() -> None:
    data = _picture("JPEG", (2048, 2048), quality=95, detail=2)
    assert len(data) > 1024 * 1024
    assert why_unusable(data) is None
    assert why_unusable(data[:-70_000]) == "cut off"


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("size", [(511, 1536), (1024, 256), (1, 1)])
def test_picture_under_512_pixels_is_refused(format_: str, size: tuple[int, int]) -> None:
    encoded = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(encoded, format_)
    problem = why_unusable(encoded.getvalue())
    assert problem is not None
    assert "pixels" in problem


@pytest.mark.parametrize("format_", FORMATS)
def test_picture_of_512_pixels_is_delivered(format_: str) -> None:
    assert why_unusable(_picture(format_, (SHORTEST_SIDE, SHORTEST_SIDE))) is None


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_picture_of_a_single_colour_is_refused(format_: str, colour: tuple[int, int, int]) -> None:
    assert why_unusable(_one_colour(format_, colour)) == "of a single colour"


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff picture", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBP", b"<html>"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert why_unusable(data) is not None


def test_check_of_an_ordinary_answer_takes_less_than_half_the_cpu_of_decoding_it() -> None:
    """A ratio, because the same core is at times 1.6 times as slow."""
    data = _picture("JPEG", quality=45, detail=4)
    assert 150 * 1024 < len(data) < 256 * 1024
    checking, decoding = [], []
    for _ in range(20):
        began = time.thread_time()
        why_unusable(data)
        between = time.thread_time()
        Image.open(io.BytesIO(data)).load()
        checking.append(between - began)
        decoding.append(time.thread_time() - between)
    # The least: whoever else uses the same core slows it down.
    assert min(checking) < 0.5 * min(decoding)
