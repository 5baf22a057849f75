"""Opening pictures: every kind comes out right, small, upright and without metadata; the rest is refused."""

from __future__ import annotations

import io
import itertools
import random
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hostile import photo
from hostile.images import png, png_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageStat, PngImagePlugin

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.decode import ImageRefused, open_rgb, prepare_jpeg

RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 160, 60), (30, 60, 200), (255, 255, 255)
Corner = tuple[int, int, int]


def quadrants(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    """Red above left, green above right, blue below left, white below right: shows every turn and mirror."""
    image = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), RED)
    draw.rectangle((width // 2, 0, width, height // 2 - 1), GREEN)
    draw.rectangle((0, height // 2, width // 2 - 1, height), BLUE)
    return image.convert(mode, palette=Image.Palette.ADAPTIVE)


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    output = io.BytesIO()
    image.save(output, format_, **options)
    return output.getvalue()


def corners(image: Image.Image) -> list[Corner]:
    """The colours at the centres of the quadrants, row by row."""
    spots = [(x * image.width // 4, y * image.height // 4) for y in (1, 3) for x in (1, 3)]
    return [pixel(image, *spot) for spot in spots]


def pixel(image: Image.Image, x: int, y: int) -> Corner:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value[0], value[1], value[2]


def close(found: list[Corner], expected: list[Corner], tolerance: int = 12) -> bool:
    return all(
        abs(a - b) <= tolerance
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference per sample, 0 to 255."""
    stat = ImageStat.Stat(ImageChops.difference(one, other))
    return sum(stat.mean) / 3


def damaged(data: bytes) -> ErrorCode:
    with pytest.raises(ImageRefused) as caught:
        open_rgb(data, max_side=1024)
    return caught.value.code


# Formats and modes


@pytest.mark.parametrize(
    ("format_", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}),
        ("JPEG", "RGB", {"quality": 95, "subsampling": 0}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGB", {"quality": 95}),
        ("WEBP", "RGBA", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("size", [(64, 48), (1500, 1100)])
def test_colours_survive(format_: str, mode: str, options: dict[str, object], size: tuple[int, int]) -> None:
    image = open_rgb(encoded(quadrants(size, mode), format_, **options), max_side=256)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert max(image.size) == min(256, max(size))
    assert close(corners(image), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize(("format_", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "1")])
@pytest.mark.parametrize("size", [(64, 48), (1500, 1100)])
def test_greyscale(format_: str, mode: str, size: tuple[int, int]) -> None:
    ramp = Image.linear_gradient("L").resize(size)
    image = open_rgb(encoded(ramp.convert(mode), format_), max_side=256)
    assert image.mode == "RGB"
    if mode != "1":
        assert difference(image, ramp.resize(image.size).convert("RGB")) < 3
    assert pixel(image, 5, 0)[0] < 20 < 235 < pixel(image, 5, image.height - 1)[0]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = [0, 1000, 16448, 32896, 49344, 65535]
    grey = png(6, 1, depth=16, colour=0, pixels=b"\0" + b"".join(struct.pack(">H", v) for v in values))
    image = open_rgb(grey, max_side=64)
    assert [pixel(image, x, 0)[0] for x in range(6)] == [0, 4, 64, 128, 192, 255]
    colour = png(2, 1, depth=16, colour=2, pixels=b"\0" + struct.pack(">6H", 65535, 0, 32896, 0, 65535, 257))
    image = open_rgb(colour, max_side=64)
    assert [pixel(image, x, 0) for x in range(2)] == [(255, 0, 128), (0, 255, 1)]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_are_scaled(depth: int) -> None:
    image = open_rgb(png(1, 2, depth=depth, pixels=b"\0\xff\0\0"), max_side=64)
    assert [pixel(image, 0, y)[0] for y in range(2)] == [255, 0]


# Transparency


@pytest.mark.parametrize("size", [(40, 30), (2000, 1500), (5000, 400), (400, 5000)])
@pytest.mark.parametrize(("format_", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA")])
def test_transparency_becomes_white(format_: str, mode: str, size: tuple[int, int]) -> None:
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, size[0] // 2, size[1] // 2))
    image.paste((0, 0, 0, 128), (size[0] // 2, 0, size[0], size[1] // 2))
    opened = open_rgb(encoded(image.convert(mode), format_, lossless=True), max_side=500)
    assert close(corners(opened), [(0, 0, 0), (127, 127, 127), WHITE, WHITE], 3)


def test_strips_leave_no_seams() -> None:
    """A picture that is flattened in several strips, none of which ends where a reduced pixel does."""
    size = (3001, 2503)
    ramp = Image.linear_gradient("L").resize(size)
    flat = Image.merge("RGB", (ramp, ramp, ramp))
    clear = flat.copy()
    clear.putalpha(255)
    expected = open_rgb(encoded(flat, "PNG", compress_level=1), max_side=300)
    found = open_rgb(encoded(clear, "PNG", compress_level=1), max_side=300)
    assert difference(expected, found) < 0.6
    columns = [pixel(found, 150, y)[0] for y in range(found.height)]
    assert all(after >= before for before, after in itertools.pairwise(columns))


@pytest.mark.parametrize(
    ("depth", "colour", "key", "pixels"),
    [
        (8, 0, (100,), bytes([100, 50])),
        (4, 0, (7,), bytes([0x73])),
        (2, 0, (1,), bytes([0b01_10_0000])),
        (1, 0, (0,), bytes([0b01_000000])),
        (16, 0, (30000,), struct.pack(">2H", 30000, 20000)),
        (8, 2, (10, 20, 30), bytes([10, 20, 30, 40, 50, 60])),
        (16, 2, (30000, 20000, 10000), struct.pack(">6H", 30000, 20000, 10000, 1, 2, 3)),
    ],
)
def test_the_colour_a_png_calls_transparent_is_white_and_no_other(
    depth: int, colour: int, key: tuple[int, ...], pixels: bytes
) -> None:
    transparent = png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    image = open_rgb(png(2, 1, transparent, depth=depth, colour=colour, pixels=b"\0" + pixels), max_side=64)
    assert pixel(image, 0, 0) == WHITE
    if depth > 1:
        assert pixel(image, 1, 0) != WHITE


def test_palettes_with_transparent_entries() -> None:
    palette = png_chunk(b"PLTE", bytes([200, 30, 30, 30, 160, 60, 0, 0, 0]))
    for alphas, expected in ((b"\xff\x00", [RED, WHITE, (0, 0, 0)]), (b"\x00", [WHITE, GREEN, (0, 0, 0)])):
        data = png(3, 1, palette, png_chunk(b"tRNS", alphas), colour=3, pixels=b"\0\0\1\2")
        image = open_rgb(data, max_side=64)
        assert [pixel(image, x, 0) for x in range(3)] == expected


# Animation


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_of_an_animation_only_the_first_frame(format_: str) -> None:
    frames = [quadrants(), *(Image.new("RGB", (64, 48), (n, n, n)) for n in (0, 80, 160))]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert close(corners(open_rgb(data, max_side=64)), [RED, GREEN, BLUE, WHITE])


def test_of_a_jpeg_with_a_second_picture_only_the_first() -> None:
    second = Image.new("RGB", (2000, 2000))
    data = encoded(quadrants(), "MPO", save_all=True, append_images=[second], quality=95)
    image = open_rgb(data, max_side=1024)
    assert image.size == (64, 48)
    assert close(corners(image), [RED, GREEN, BLUE, WHITE])


# Orientation and metadata


TURNED = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(64, 48), (900, 700)])
def test_exif_orientation_is_applied(format_: str, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_rgb(encoded(quadrants(size), format_, exif=exif, quality=95), max_side=320)
    assert close(corners(image), TURNED[orientation])
    assert (image.height > image.width) == (orientation >= 5)
    assert max(image.size) == min(320, max(size))


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert close(corners(open_rgb(encoded(quadrants(), "PNG", exif=exif), max_side=64)), TURNED[1])


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(50), b"junk"]
)
def test_broken_exif_does_not_spoil_the_picture(exif: bytes) -> None:
    assert close(
        corners(open_rgb(encoded(quadrants(), "JPEG", exif=exif, quality=95), max_side=64)), TURNED[1]
    )


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_metadata_is_dropped(format_: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "SECRET-CAMERA"
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "SECRET-AUTHOR")
    options: dict[str, object] = {"exif": exif, "xmp": b"<x>SECRET-XMP</x>", "icc_profile": srgb_profile()}
    options |= {"comment": b"SECRET-COMMENT"} if format_ == "JPEG" else {"pnginfo": text}
    for size in ((64, 48), (1500, 1000)):
        data = encoded(quadrants(size), format_, **options)
        assert b"SECRET" in data
        prepared = prepare_jpeg(data)
        assert b"SECRET" not in prepared.jpeg
        assert b"Exif" not in prepared.jpeg
        assert b"ICC_PROFILE" not in prepared.jpeg
        assert open_rgb(data, max_side=64).info == {}


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """sRGB with the red and blue primaries exchanged, so that its use cannot be overlooked."""
    profile = bytearray(srgb_profile())
    tags = {
        bytes(profile[n : n + 4]): n
        for n in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)
    }
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_an_embedded_profile_is_converted_to_srgb(format_: str) -> None:
    data = encoded(quadrants(), format_, icc_profile=swapped_profile(), quality=95, lossless=True)
    found = corners(open_rgb(data, max_side=64))
    assert close(found, [RED[::-1], GREEN[::-1], BLUE[::-1], WHITE])


@pytest.mark.parametrize("profile", [b"junk", b"", srgb_profile()[:200], bytes(3000)])
def test_a_profile_that_cannot_be_used_is_ignored(profile: bytes) -> None:
    for image in (quadrants(), quadrants(mode="CMYK")):
        data = encoded(image, "JPEG", icc_profile=profile, quality=95)
        assert close(corners(open_rgb(data, max_side=64)), TURNED[1])
    data = encoded(quadrants(mode="L"), "PNG", icc_profile=srgb_profile())
    assert corners(open_rgb(data, max_side=64))[3] == WHITE, "a profile for another kind of picture"


# Size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (1, 1)),
        ((1024, 1024), (1024, 1024)),
        ((1025, 10), (1024, 10)),
        ((3000, 4000), (768, 1024)),
        ((4000, 3000), (1024, 768)),
        ((2048, 1), (1024, 1)),
        ((1, 3000), (1, 1024)),
        ((65535, 7), (1024, 1)),
    ],
)
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_the_longest_side_is_at_most_1024_and_nothing_grows(
    format_: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    if format_ == "JPEG" and max(size) > 65_500:
        size = (65_500, 7)
    prepared = prepare_jpeg(encoded(Image.new("RGB", size, RED), format_))
    assert (prepared.width, prepared.height) == expected
    with Image.open(io.BytesIO(prepared.jpeg)) as made:
        assert (made.format, made.mode, made.size) == ("JPEG", "RGB", expected)
        assert close([pixel(made, 0, 0)], [RED])


def test_fifty_megapixels_are_the_limit() -> None:
    assert open_rgb(encoded(Image.new("1", (10_000, 5_000)), "PNG"), max_side=64).size == (64, 32)
    assert damaged(encoded(Image.new("1", (10_000, 5_001)), "PNG")) == ErrorCode.IMAGE_TOO_MANY_PIXELS
    assert damaged(encoded(Image.new("1", (65_536, 2)), "PNG")) == ErrorCode.IMAGE_TOO_MANY_PIXELS


def test_reduced_decoding_looks_like_full_decoding() -> None:
    """A photo-like picture, once through JPEG at reduced scale, once resampled from all of its pixels."""
    noise = Image.frombytes("RGB", (60, 40), random.Random(1).randbytes(60 * 40 * 3))
    scene = noise.resize((3000, 2000), Image.Resampling.BICUBIC)
    data = encoded(scene, "JPEG", quality=92)
    with Image.open(io.BytesIO(data)) as whole:
        expected = whole.convert("RGB").resize((640, 427), Image.Resampling.LANCZOS)
    assert difference(open_rgb(data, max_side=640), expected) < 2.0


# Truncation and rubbish


PICTURES = {
    "jpeg": photo("JPEG"),
    "progressive": photo("JPEG", progressive=True),
    "jpeg-large": photo("JPEG", (1800, 1300)),
    "png": photo("PNG"),
    "png-rgba": encoded(quadrants(mode="RGBA"), "PNG"),
    "webp": photo("WEBP"),
    "webp-lossless": photo("WEBP", lossless=True),
    "webp-animated": encoded(
        quadrants(), "WEBP", save_all=True, append_images=[quadrants().rotate(180)], duration=100
    ),
    "exif-icc": encoded(
        quadrants(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(40), icc_profile=srgb_profile()
    ),
    "png-profile": encoded(quadrants(mode="P"), "PNG", icc_profile=srgb_profile(), transparency=0),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_cut_off_anywhere_is_refused(name: str) -> None:
    data = PICTURES[name]
    places = {1, 2, 11, 12, 13, 30, len(data) - 1, len(data) - 2} | {
        len(data) * n // 40 for n in range(1, 40)
    }
    for place in places:
        assert damaged(data[:place]) in (ErrorCode.IMAGE_DAMAGED, ErrorCode.IMAGE_TYPE_REFUSED), place


def test_bytes_after_the_end_are_ignored() -> None:
    for data in PICTURES.values():
        assert open_rgb(data + b"\0trailing" * 100, max_side=64).mode == "RGB"


def test_nothing_and_other_formats() -> None:
    assert damaged(b"") == ErrorCode.IMAGE_EMPTY
    for format_ in ("GIF", "BMP", "TIFF", "PPM", "ICO"):
        assert damaged(encoded(quadrants(), format_)) == ErrorCode.IMAGE_TYPE_REFUSED


def opens_or_is_refused(data: bytes) -> None:
    try:
        prepared = prepare_jpeg(data, max_side=128)
    except ImageRefused as error:
        assert error.code.startswith("image_")
    else:
        assert 1 <= max(prepared.width, prepared.height) <= 128


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8X"]),
    st.binary(max_size=400),
)
def test_random_bytes_raise_nothing_but_image_refused(start: bytes, rest: bytes) -> None:
    opens_or_is_refused(start + rest)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([data for name, data in PICTURES.items() if name != "jpeg-large"]),
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=4)), min_size=1, max_size=12),
    st.booleans(),
)
def test_mutated_pictures_raise_nothing_but_image_refused(
    data: bytes, changes: list[tuple[int, bytes]], in_the_head: bool
) -> None:
    mutated = bytearray(data)
    for place, piece in changes:
        start = place % (min(len(data), 700) if in_the_head else len(data))
        mutated[start : start + len(piece)] = piece
    opens_or_is_refused(bytes(mutated))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"IHDR"]
    ),
    st.binary(max_size=60),
    st.sampled_from([(8, 0), (8, 2), (8, 3), (8, 4), (8, 6), (16, 0), (16, 2), (16, 6), (1, 3), (4, 0)]),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_pngs_with_strange_chunks(
    kind: bytes, body: bytes, layout: tuple[int, int], width: int, height: int
) -> None:
    depth, colour = layout
    rows = (b"\0" + bytes(width * 8)) * height
    opens_or_is_refused(png(width, height, png_chunk(kind, body), depth=depth, colour=colour, pixels=rows))


# Many threads


def test_many_threads_at_once_and_the_largest_in_turn() -> None:
    """Pictures over the memory limit are decoded one after the other, small ones are not held up by them."""
    large = encoded(Image.new("RGB", (7000, 7000), RED), "PNG", compress_level=1)
    small = photo()
    order: list[str] = []
    note: Callable[[str], None] = order.append
    lock = threading.Lock()

    def work(name: str, data: bytes) -> tuple[int, int]:
        size = open_rgb(data, max_side=64).size
        with lock:
            note(name)
        return size

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(work, "large", large) for _ in range(3)]
        jobs += [pool.submit(work, "small", small) for _ in range(30)]
        sizes = [job.result(60) for job in jobs]
    assert sizes == [(64, 64)] * 3 + [(64, 48)] * 30
    assert order.index("small") < len(order) - 1 - order[::-1].index("large")
