"""Opening pictures: every kind comes out right, small, upright and without metadata; the rest is refused."""

from __future__ import annotations

import io
import itertools
import random
import struct
import subprocess
import sys
import threading
import zlib
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
        ("AVIF", "RGB", {"quality": 90}),
        ("AVIF", "RGBA", {"quality": 90}),
        ("AVIF", "RGB", {"quality": 90, "subsampling": "4:4:4"}),
    ],
)
@pytest.mark.parametrize("size", [(64, 48), (1500, 1100)])
def test_pictures_keep_their_colours_in_every_format_and_mode(
    format_: str, mode: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    image = open_rgb(encoded(quadrants(size, mode), format_, **options), max_side=256)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert max(image.size) == min(256, max(size))
    assert close(corners(image), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize(("format_", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "1")])
@pytest.mark.parametrize("size", [(64, 48), (1500, 1100)])
def test_grey_pictures_become_rgb_with_the_same_levels(
    format_: str, mode: str, size: tuple[int, int]
) -> None:
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
def test_levels_of_few_bits_are_scaled_to_the_whole_range(depth: int) -> None:
    image = open_rgb(png(1, 2, depth=depth, pixels=b"\0\xff\0\0"), max_side=64)
    assert [pixel(image, 0, y)[0] for y in range(2)] == [255, 0]


# Transparency


@pytest.mark.parametrize("size", [(40, 30), (2000, 1500), (5000, 400), (400, 5000)])
@pytest.mark.parametrize(
    ("format_", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("AVIF", "RGBA")]
)
def test_transparency_becomes_white(format_: str, mode: str, size: tuple[int, int]) -> None:
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, size[0] // 2, size[1] // 2))
    image.paste((0, 0, 0, 128), (size[0] // 2, 0, size[0], size[1] // 2))
    opened = open_rgb(encoded(image.convert(mode), format_, lossless=True, quality=95), max_side=500)
    assert close(corners(opened), [(0, 0, 0), (127, 127, 127), WHITE, WHITE], 6 if format_ == "AVIF" else 3)


def test_picture_flattened_in_strips_has_no_seams() -> None:
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


def test_transparent_entries_of_a_palette_become_white() -> None:
    palette = png_chunk(b"PLTE", bytes([200, 30, 30, 30, 160, 60, 0, 0, 0]))
    for alphas, expected in ((b"\xff\x00", [RED, WHITE, (0, 0, 0)]), (b"\x00", [WHITE, GREEN, (0, 0, 0)])):
        data = png(3, 1, palette, png_chunk(b"tRNS", alphas), colour=3, pixels=b"\0\0\1\2")
        image = open_rgb(data, max_side=64)
        assert [pixel(image, x, 0) for x in range(3)] == expected


# Animation


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "AVIF"])
def test_of_an_animation_only_the_first_frame(format_: str) -> None:
    frames = [quadrants(), *(Image.new("RGB", (64, 48), (n, n, n)) for n in (0, 80, 160))]
    data = encoded(
        frames[0], format_, save_all=True, append_images=frames[1:], duration=50, lossless=True, quality=95
    )
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


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
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


OPEN_AS_A_SERVICE = """
import sys
from wearon_service_kit.images.decode import open_rgb
from wearon_service_kit.logs import configure_logging
configure_logging("test", "INFO", "json")
open_rgb(sys.stdin.buffer.read(), max_side=64)
"""


# Pillow reads an AVIF's notes when it writes them, too.
@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_thousands_of_broken_notes_are_not_logged(format_: str) -> None:
    count = 5000 if format_ == "JPEG" else 60_000
    # Each says that 64 kB of its own stand somewhere.
    notes = b"".join(struct.pack(">HHII", number + 1000, 7, 64_000, 8) for number in range(count))
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", count) + notes + bytes(4)
    data = encoded(quadrants(), format_, exif=exif)
    # In a process of its own, since pytest has filters for warnings too.
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AS_A_SERVICE], input=data, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
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
        prepared = prepare_jpeg(data, min_side=48)
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


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
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
    prepared = prepare_jpeg(encoded(Image.new("RGB", size, RED), format_), min_side=1)
    assert (prepared.width, prepared.height) == expected
    with Image.open(io.BytesIO(prepared.jpeg)) as made:
        assert (made.format, made.mode, made.size) == ("JPEG", "RGB", expected)
        assert close([pixel(made, 0, 0)], [RED])


@pytest.mark.parametrize("size", [(10_000, 5_000), (8160, 6144), (8192, 6144)])
def test_what_phones_call_fifty_megapixels_is_opened(size: tuple[int, int]) -> None:
    assert max(open_rgb(encoded(Image.new("1", size), "PNG"), max_side=64).size) == 64


@pytest.mark.parametrize("size", [(10_000, 5_034), (8192, 6145), (65_536, 2)])
def test_more_than_fifty_megapixels_are_refused(size: tuple[int, int]) -> None:
    assert damaged(encoded(Image.new("1", size), "PNG")) == ErrorCode.IMAGE_TOO_MANY_PIXELS


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("size", [(63, 640), (640, 63), (1, 1), (3000, 40)])
def test_under_64_pixels_on_a_side_is_refused_before_anything_is_paid(
    format_: str, size: tuple[int, int]
) -> None:
    with pytest.raises(ImageRefused) as caught:
        prepare_jpeg(encoded(Image.new("RGB", size, RED), format_))
    assert caught.value.code == ErrorCode.IMAGE_TOO_SMALL


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_64_pixels_on_a_side_are_enough(format_: str) -> None:
    assert prepare_jpeg(encoded(Image.new("RGB", (64, 64), RED), format_)).width == 64


def test_reduced_decoding_looks_like_full_decoding() -> None:
    """A photo-like picture, once through JPEG at reduced scale, once resampled from all of its pixels."""
    noise = Image.frombytes("RGB", (60, 40), random.Random(1).randbytes(60 * 40 * 3))
    scene = noise.resize((3000, 2000), Image.Resampling.BICUBIC)
    data = encoded(scene, "JPEG", quality=92)
    with Image.open(io.BytesIO(data)) as whole:
        expected = whole.convert("RGB").resize((640, 427), Image.Resampling.LANCZOS)
    assert difference(open_rgb(data, max_side=640), expected) < 2.0


def test_thin_lines_stay_sharp_in_a_picture_decoded_at_half_its_size() -> None:
    scene = Image.new("RGB", (1500, 2000), WHITE)
    draw, throw = ImageDraw.Draw(scene), random.Random(1)
    for _ in range(1000):
        x, y = throw.randrange(1500), throw.randrange(2000)
        end = (x + throw.gauss(0, 100), y + throw.gauss(0, 100))
        draw.line((x, y, *end), fill=throw.choice([RED, GREEN, BLUE]), width=throw.randint(1, 4))
    expected = scene.resize((384, 512), Image.Resampling.LANCZOS)
    assert difference(open_rgb(encoded(scene, "JPEG", quality=92), max_side=512), expected) < 3.5


def test_a_picture_that_need_not_be_sharp_is_the_same_but_softer() -> None:
    # Lines two pixels apart: as fine as the smaller picture can show.
    scene = Image.new("RGB", (480, 640), WHITE)
    for x in range(0, 480, 4):
        scene.paste(BLUE, (x, 0, x + 2, 640))
    data = encoded(scene, "JPEG", quality=95, subsampling=0)
    sharp, soft = (open_rgb(data, max_side=480, sharp=choice) for choice in (True, False))
    assert soft.size == sharp.size == (360, 480)
    assert difference(sharp, soft) < 30
    contrasts = [sum(ImageStat.Stat(image).stddev) for image in (sharp, soft)]
    assert contrasts[1] < 0.98 * contrasts[0]


# Truncation and rubbish


PICTURES = {
    "jpeg": photo("JPEG"),
    "progressive": photo("JPEG", progressive=True),
    "jpeg-large": photo("JPEG", (1800, 1300)),
    "png": photo("PNG"),
    "png-rgba": encoded(quadrants(mode="RGBA"), "PNG"),
    "jpeg-restarts": photo("JPEG", restart_marker_rows=1),
    "jpeg-even": encoded(Image.new("RGB", (512, 512), WHITE), "JPEG", optimize=True),
    "jpeg-grey": encoded(quadrants((300, 200), "L"), "JPEG"),
    "jpeg-cmyk": encoded(quadrants((300, 200), "CMYK"), "JPEG"),
    "webp": photo("WEBP"),
    "webp-lossless": photo("WEBP", lossless=True),
    "webp-animated": encoded(
        quadrants(), "WEBP", save_all=True, append_images=[quadrants().rotate(180)], duration=100
    ),
    "avif": photo("AVIF"),
    "exif-icc": encoded(
        quadrants(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(40), icc_profile=srgb_profile()
    ),
    "png-profile": encoded(quadrants(mode="P"), "PNG", icc_profile=srgb_profile(), transparency=0),
}


def end_of(data: bytes) -> int:
    """Where the last byte of the pixels is, whatever closes the file behind it."""
    if data.startswith(b"\xff\xd8"):
        return data.rindex(b"\xff\xd9") - 1
    return data.rindex(b"IEND") - 5 if b"IEND" in data else len(data) - 1


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_cut_off_anywhere_is_refused(name: str) -> None:
    data = PICTURES[name]
    end = end_of(data)
    # The last few bytes of a JPEG are the last few blocks of its last row.
    places = {1, 2, 11, 12, 13, 30, end - 12} | {end * n // 40 for n in range(1, 40)}
    if not data.startswith(b"\xff\xd8"):
        places |= {end - 4, end - 1, end}
    refusals = (ErrorCode.IMAGE_DAMAGED, ErrorCode.IMAGE_TYPE_REFUSED)
    for place in places:
        assert damaged(data[:place]) in refusals, place
        for closing in (b"\xff\xd9", b"\0\0\0\0IEND\xaeB`\x82") if 30 < place < end - 12 else ():
            assert damaged(data[:place] + closing) in refusals, (place, closing)


@pytest.mark.parametrize("name", [name for name in PICTURES if "webp" not in name and "avif" not in name])
@pytest.mark.parametrize(
    "after", [b"", b"\xff" * 9 + b"\xd9", b"\0\0\xff\xd8\xff\xe1 a trailer", bytes(5000), b"SEFH" * 9]
)
def test_a_whole_picture_without_its_end_is_opened(name: str, after: bytes) -> None:
    """As some cameras leave it, also before a trailer of their own."""
    data = PICTURES[name]
    opened = open_rgb(data[: end_of(data) + 1] + after, max_side=1024)
    assert opened.tobytes() == open_rgb(data, max_side=1024).tobytes()


@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
@pytest.mark.parametrize("colour", [0, 2])
@pytest.mark.parametrize("rows", [1, 30, 47])
def test_png_whose_pixels_end_in_good_order_but_too_early_is_refused(
    size: tuple[int, int], colour: int, rows: int
) -> None:
    row = b"\0" + bytes([200]) * (size[0] * (3 if colour else 1))
    assert damaged(png(*size, colour=colour, pixels=row * rows)) == ErrorCode.IMAGE_DAMAGED
    black = bytes(len(row)) * size[1]
    assert open_rgb(png(*size, colour=colour, pixels=black), max_side=64).getextrema() == ((0, 0),) * 3


def test_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    data = photo("JPEG", progressive=True)
    starts = [n for n in range(len(data) - 1) if data[n : n + 2] == b"\xff\xda"]
    for start in starts[1:]:
        assert damaged(data[:start] + b"\xff\xd9") == ErrorCode.IMAGE_DAMAGED


def test_bytes_after_the_end_are_ignored() -> None:
    for data in PICTURES.values():
        assert open_rgb(data + b"\0trailing" * 100, max_side=64).mode == "RGB"


# Broken notes in good pictures


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    "segment",
    [
        jpeg_segment(0xE0, b"JFIF\0"), jpeg_segment(0xE0, b"JFIF\0\1"), jpeg_segment(0xE0, b""),
        jpeg_segment(0xE1, b"Exif\0"), jpeg_segment(0xE1, b"Exif\0\0MM"),
        jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/"), jpeg_segment(0xE2, b"ICC_PROFILE\0"),
        jpeg_segment(0xE2, b"ICC_PROFILE\0\1\2junk"), jpeg_segment(0xE2, b"MPF\0II"),
        jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03"), jpeg_segment(0xEE, b"Adobe"),
        jpeg_segment(0xFE, b""), b"\xff\xff\xff",
    ],
)  # fmt: skip
def test_broken_segment_does_not_spoil_a_jpeg(segment: bytes) -> None:
    data = photo("JPEG")
    expected = open_rgb(data, max_side=1024).tobytes()
    assert open_rgb(data[:2] + segment + data[2:], max_side=1024).tobytes() == expected
    without_jfif = data[:2] + segment + data[20:]
    assert open_rgb(without_jfif, max_side=1024).tobytes() == expected


def test_jfif_segment_of_five_bytes_is_no_reason_to_refuse() -> None:
    data = photo("JPEG")
    assert data[6:11] == b"JFIF\0"
    assert open_rgb(data[:4] + b"\0\7JFIF\0" + data[20:], max_side=1024).size == (320, 240)


ANCILLARY = [
    b"iCCP", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"cHRM", b"gAMA", b"sRGB", b"cICP", b"eXIf", b"tIME",
    b"bKGD", b"hIST", b"sBIT", b"sPLT", b"tRNS", b"oFFs", b"acTL", b"fcTL", b"meTa", b"vpAg",
]  # fmt: skip


@pytest.mark.parametrize("name", ANCILLARY)
@pytest.mark.parametrize("size", [0, 1, 3, 4, 9, 31, 33, 300])
def test_broken_ancillary_chunk_does_not_spoil_a_png(name: bytes, size: int) -> None:
    """With a wrong checksum, an odd size, or in the wrong place."""
    data = photo("PNG")
    expected = open_rgb(data, max_side=1024).tobytes()
    chunk = png_chunk(name, b"\x9c" * size)
    for broken in (chunk, chunk[:-1] + b"\x55"):
        assert open_rgb(data[:33] + broken + data[33:], max_side=1024).tobytes() == expected
        assert open_rgb(data[:-12] + broken + data[-12:], max_side=1024).tobytes() == expected


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_wrong_checksum_of_what_pixels_are_made_of_is_refused(name: bytes) -> None:
    data = bytearray(encoded(quadrants(mode="P"), "PNG"))
    start = data.index(name)
    size = struct.unpack(">I", data[start - 4 : start])[0]
    data[start + 4 + size] ^= 1
    assert damaged(bytes(data)) == ErrorCode.IMAGE_DAMAGED


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3_000_000))),
        png_chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(3_000_000))),
        png_chunk(b"iTXt", b"t\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        png_chunk(b"tEXt", b"t\0" + bytes(3_000_000)),
        png_chunk(b"iCCP", b"p\0\0" + random.Random(1).randbytes(3_000_000)),
    ],
)
def test_png_with_a_note_of_three_megabytes_is_opened_without_it(chunk: bytes) -> None:
    data = photo("PNG")
    assert (
        open_rgb(data[:33] + chunk + data[33:], max_side=1024).tobytes()
        == open_rgb(data, max_side=1024).tobytes()
    )


def test_empty_files_and_other_formats_are_refused_by_code() -> None:
    assert damaged(b"") == ErrorCode.IMAGE_EMPTY
    assert damaged(encoded(quadrants(), "GIF")) == ErrorCode.IMAGE_GIF
    for format_ in ("BMP", "TIFF", "PPM", "ICO", "JPEG2000"):
        assert damaged(encoded(quadrants(), format_)) == ErrorCode.IMAGE_TYPE_REFUSED


def opens_or_is_refused(data: bytes) -> None:
    try:
        prepared = prepare_jpeg(data, max_side=128, min_side=1)
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
def test_png_with_any_further_chunk_is_opened_or_refused(
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
