"""Colours of profiles and of what PNG and AVIF say of them, beside libvips."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import pyvips  # type: ignore[import-untyped]
from hostile.images import png, png_chunk
from PIL import Image

from wearon_service_kit.images.colour import Primaries, profile_of_code_points, profile_of_gamma
from wearon_service_kit.images.decode import open_rgb

SIDE = 64
LEVELS = np.linspace(0, 255, SIDE).astype(np.uint8)
TOLERANCE = 3  # of 255, beside libvips

P3 = Primaries(0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
ADOBE = Primaries(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB = Primaries(0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)


def chunk_of(primaries: Primaries) -> bytes:
    p = primaries
    values = (p.white_x, p.white_y, p.red_x, p.red_y, p.green_x, p.green_y, p.blue_x, p.blue_y)
    chunk: bytes = png_chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))
    return chunk


def profile_chunk(profile: bytes) -> bytes:
    chunk: bytes = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))
    return chunk


def gamma_chunk(gamma: float) -> bytes:
    chunk: bytes = png_chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    return chunk


def grey_profile(gamma: float) -> bytes:
    made = profile_of_gamma(1 / gamma, None, grey=True)
    assert made is not None
    return bytes(made)


def p3_profile() -> bytes:
    made = profile_of_code_points(12, 13, grey=False)[1]
    assert made is not None
    return bytes(made)


def p3_to_srgb(samples: np.ndarray) -> np.ndarray:
    """Display P3 by its definition (the matrix of CSS Color 4): libvips' own is 5 levels off."""
    matrix = [
        [1.22494018, -0.22494018, 0],
        [-0.04205695, 1.04205695, 0],
        [-0.01963755, -0.07863605, 1.0982736],
    ]
    values = samples / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = (light @ np.array(matrix).T).clip(0, 1)
    return np.asarray(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def rows(samples: np.ndarray, depth: int) -> bytes:
    """PNG rows, each with filter 0, of samples (height, width, channels) of 0 to 255."""
    values = samples.astype(">u2") * 257 if depth == 16 else samples.astype(np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in values)


def picture(colour: int) -> np.ndarray:
    """Grey levels, or three slopes that cross; alpha falls from opaque to clear down the picture."""
    across = np.broadcast_to(LEVELS, (SIDE, SIDE))
    down = across.T
    grey = [across] if colour in (0, 4) else [across, down, (255 - across // 2 - down // 2).astype(np.uint8)]
    return np.stack([*grey, 255 - down] if colour in (4, 6) else grey, axis=-1)


def by_vips(data: bytes) -> np.ndarray:
    """Converted to sRGB by its embedded profile, then laid onto white."""
    image = pyvips.Image.new_from_buffer(data, "").icc_transform("srgb", embedded=True, depth=8)
    if image.hasalpha():
        image = image.flatten(background=255)
    return np.asarray(image.cast("uchar"), dtype=np.int16)


def opened(data: bytes) -> np.ndarray:
    return np.asarray(open_rgb(data, max_side=SIDE), dtype=np.int16)


@pytest.mark.parametrize("gamma", [1.5, 1.8, 2.6])
@pytest.mark.parametrize(("colour", "depth"), [(0, 8), (0, 16), (4, 8), (4, 16)])
def test_grey_png_uses_its_grey_profile(colour: int, depth: int, gamma: float) -> None:
    profile = grey_profile(gamma)
    data = png(
        SIDE, SIDE, profile_chunk(profile), depth=depth, colour=colour, pixels=rows(picture(colour), depth)
    )
    found = opened(data)
    assert np.abs(found - by_vips(data)).max() <= TOLERANCE
    plain = opened(png(SIDE, SIDE, depth=depth, colour=colour, pixels=rows(picture(colour), depth)))
    assert np.abs(found - plain).max() > TOLERANCE, "the profile makes a difference"


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_png_with_a_transparent_level_uses_its_grey_profile(depth: int) -> None:
    profile = grey_profile(1.8)
    level = int(LEVELS[20]) * (257 if depth == 16 else 1)
    transparent = png_chunk(b"tRNS", struct.pack(">H", level))
    data = png(SIDE, SIDE, profile_chunk(profile), transparent, depth=depth, pixels=rows(picture(0), depth))
    found = opened(data)
    assert np.abs(found - by_vips(data)).max() <= TOLERANCE
    assert found[0, 20].tolist() == [255, 255, 255]


def test_only_the_very_level_that_a_16_bit_grey_png_names_is_transparent() -> None:
    levels = np.arange(SIDE * SIDE, dtype=">u2").reshape(SIDE, SIDE)  # 0 to 4095: 16 of 255 at most
    transparent = png_chunk(b"tRNS", struct.pack(">H", 300))
    pixels = b"".join(b"\0" + row.tobytes() for row in levels)
    found = opened(png(SIDE, SIDE, transparent, depth=16, pixels=pixels))
    assert np.argwhere(found.min(axis=-1) > 16).tolist() == [[300 // SIDE, 300 % SIDE]]
    assert found[300 // SIDE, 300 % SIDE].tolist() == [255, 255, 255]


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour", [2, 6])
def test_display_p3_by_code_points_without_a_profile(colour: int, depth: int) -> None:
    pixels = rows(picture(colour), depth)
    plain = png(SIDE, SIDE, depth=depth, colour=colour, pixels=pixels)
    code_points = png_chunk(b"cICP", bytes([12, 13, 0, 1]))
    wrong = gamma_chunk(1.0)  # the code points come first
    data = png(SIDE, SIDE, code_points, wrong, depth=depth, colour=colour, pixels=pixels)
    # In 16 bits libvips is up to 10 levels off: there lcms interpolates a coarse table.
    eight_bits = rows(picture(colour), 8)
    with_profile = png(SIDE, SIDE, profile_chunk(p3_profile()), colour=colour, pixels=eight_bits)
    assert np.abs(opened(data) - by_vips(with_profile)).max() <= TOLERANCE
    if colour == 2:
        assert np.abs(opened(data) - p3_to_srgb(picture(2))).max() <= 1
    assert np.abs(opened(data) - opened(plain)).max() > 20


@pytest.mark.parametrize("primaries", [SRGB, P3, ADOBE, None])
@pytest.mark.parametrize("gamma", [1 / 1.8, 1 / 2.6, 1.0 / 1.4])
def test_gamma_and_primaries_are_honoured(gamma: float, primaries: Primaries | None) -> None:
    """libvips reads neither chunk: it gets a profile that says the same."""
    chunks = [gamma_chunk(gamma), *([] if primaries is None else [chunk_of(primaries)])]
    profile = profile_of_gamma(gamma, primaries, grey=False)
    assert profile is not None
    pixels = rows(picture(2), 8)
    data = png(SIDE, SIDE, *chunks, colour=2, pixels=pixels)
    with_profile = png(SIDE, SIDE, profile_chunk(profile), colour=2, pixels=pixels)
    assert np.abs(opened(data) - by_vips(with_profile)).max() <= TOLERANCE
    if primaries in (SRGB, None):
        # From light to sRGB by IEC 61966-2-1.
        light = (LEVELS / 255) ** (1 / gamma)
        expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        grey = opened(png(SIDE, SIDE, *chunks, pixels=rows(picture(0), 8)))[0, :, 0]
        assert np.abs(grey - expected).max() <= TOLERANCE


@pytest.mark.parametrize(
    "chunks",
    [
        [gamma_chunk(0.45455)],
        [gamma_chunk(0.45455), chunk_of(SRGB)],
        [png_chunk(b"sRGB", b"\0"), gamma_chunk(1.0)],
        [png_chunk(b"cICP", bytes([1, 13, 0, 1])), gamma_chunk(1.0)],
        [gamma_chunk(0)],
        [gamma_chunk(1000)],
        [gamma_chunk(0.3), png_chunk(b"cHRM", bytes(32))],
    ],
)
def test_what_means_srgb_or_nothing_changes_nothing(chunks: list[bytes]) -> None:
    pixels = rows(picture(2), 8)
    found = opened(png(SIDE, SIDE, *chunks, colour=2, pixels=pixels))
    assert np.array_equal(found, picture(2).astype(np.int16))


@pytest.mark.parametrize("bits", [13, 16, 18])
def test_every_curve_leaves_black_black_and_white_white(bits: int) -> None:
    pixels = rows(picture(2) // 255 * 255, 8)
    found = opened(png(SIDE, SIDE, png_chunk(b"cICP", bytes([9, bits, 0, 1])), colour=2, pixels=pixels))
    assert found.min() == 0
    assert found.max() == 255


def test_avif_in_display_p3_without_a_profile() -> None:
    output = io.BytesIO()
    Image.fromarray(picture(2)).save(output, "AVIF", quality=100, subsampling="4:4:4")
    data = output.getvalue()
    place = data.index(b"colrnclx") + 8
    p3 = data[:place] + struct.pack(">HH", 12, 13) + data[place + 4 :]
    with Image.open(io.BytesIO(data)) as plain:
        expected = p3_to_srgb(np.asarray(plain))
    assert np.abs(opened(p3) - expected).max() <= TOLERANCE
