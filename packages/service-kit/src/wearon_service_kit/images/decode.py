"""Opens pictures from strangers and makes them small: the one place that decodes.

Only the plugins of the three formats are called, not `Image.open`, so no other format and no second picture
of a file is ever touched, and the size is read from the header before anything is decoded. At the limit of 50
megapixels this takes (measured with Pillow 13.0): a baseline JPEG 25 MB, a progressive one 300 MB, a PNG
270 MB, a WebP 770 MB, since libwebp's animation decoder and Pillow hold two copies each. Pictures that need
over 128 MB are therefore decoded one at a time in a process, however many threads call.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from PIL import ExifTags, Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.errors import ImageError, ImageRefused
from wearon_service_kit.images.formats import ImageFormat, sniff

__all__ = ["MAX_PIXELS", "ImageError", "ImageRefused", "PreparedImage", "open_rgb", "prepare_jpeg"]

MAX_PIXELS: Final = 50_000_000
_MAX_SIDE: Final = (
    65_535  # JPEG's own limit; per row of a PNG that is one pixel wide, Pillow needs 12 bytes more
)
_JPEG_QUALITY: Final = 90
# Normal files have at most about a dozen scans and one profile. Each scan of a progressive JPEG passes over
# the whole picture (3 ms at 50 MP) and takes 75 bytes, each profile of a PNG may inflate to 1 MB from 1 kB.
_MAX_JPEG_SCANS: Final = 256
_MAX_PNG_PROFILES: Final = 2
_MAX_PROFILE_BYTES: Final = 4 * 1024 * 1024
_HEAVY_BYTES: Final = 128 * 1024 * 1024
_BYTES_PER_PIXEL: Final[dict[ImageFormat, int]] = {"JPEG": 6, "PNG": 4, "WEBP": 16}
# Pictures are averaged down to no less than this many times the final size, which is fast, then resampled.
_REDUCING_GAP: Final = 3.0
_STRIP_PIXELS: Final = 1 << 20

_OPENERS: Final[dict[ImageFormat, Callable[[io.BytesIO], ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
}
_PROFILE_SPACES: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_heavy = threading.Lock()


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A JPEG without metadata, in sRGB; `width` and `height` in pixels as seen."""

    jpeg: bytes
    width: int
    height: int


def prepare_jpeg(data: bytes, *, max_side: int = 1024) -> PreparedImage:
    """The picture in `data` as a JPEG whose longest side is at most `max_side` pixels; see `open_rgb`."""
    image = open_rgb(data, max_side=max_side)
    output = io.BytesIO()
    image.save(output, "JPEG", quality=_JPEG_QUALITY)
    return PreparedImage(output.getvalue(), image.width, image.height)


def open_rgb(data: bytes, *, max_side: int) -> Image.Image:
    """The picture in `data` (JPEG, PNG or WebP; of an animation the first frame) as 8-bit RGB.

    EXIF orientation is applied, then all metadata is dropped; colours are converted from an embedded profile
    to sRGB (a profile that cannot be used is ignored); transparency is laid onto white; the longest side
    becomes at most `max_side` pixels, never more than it was. Blocks for up to about a second: call it in a
    thread.

    Raises ImageRefused: IMAGE_EMPTY, IMAGE_TYPE_REFUSED, IMAGE_TOO_MANY_PIXELS (over 50 megapixels or 65,535
    pixels on a side) or IMAGE_DAMAGED, whatever else is wrong with it, cut off included.
    """
    if not data:
        raise ImageRefused(ErrorCode.IMAGE_EMPTY)
    format_ = sniff(data)
    if format_ is None:
        raise ImageRefused(ErrorCode.IMAGE_TYPE_REFUSED)
    try:
        return _open(data, format_, max_side)
    except ImageRefused:
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused(ErrorCode.IMAGE_TOO_MANY_PIXELS) from error
    except (
        Exception
    ) as error:  # Pillow raises anything: OSError, SyntaxError, struct.error, EOFError, KeyError
        raise ImageRefused(ErrorCode.IMAGE_DAMAGED, type(error).__name__) from error


def _open(data: bytes, format_: ImageFormat, max_side: int) -> Image.Image:
    _check_file(data, format_)
    if format_ == "WEBP":  # opening one allocates its canvas
        _check_size(*_webp_size(data))
    with _OPENERS[format_](io.BytesIO(data)) as image:
        _check_size(*image.size)
        with _turn(format_, image.width * image.height):
            small = _shrink(image, max_side, depth=data[24] if format_ == "PNG" else 8)
        profile = image.info.get("icc_profile")
        orientation = _orientation(image.info.get("exif"))
    if orientation in _UPRIGHT:
        small = small.transpose(_UPRIGHT[orientation])
    small = _to_srgb(small, profile) if profile else small.convert("RGB")
    small.info.clear()  # Pillow would write a comment found there into a new JPEG
    return small


def _check_file(data: bytes, format_: ImageFormat) -> None:
    """What Pillow forgives and we do not: a file without its end, and parts in absurd numbers."""
    if format_ == "JPEG":
        # From the end, where it is in a good file.
        whole = data.rfind(b"\xff\xd9") > data.find(b"\xff\xda")
        absurd = data.count(b"\xff\xda") > _MAX_JPEG_SCANS
    elif format_ == "PNG":
        whole = b"IEND\xaeB`\x82" in data
        absurd = data.count(b"iCCP") > _MAX_PNG_PROFILES
    else:
        whole = len(data) >= 8 + int.from_bytes(data[4:8], "little")
        absurd = False
    if not whole or absurd:
        raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "cut off" if not whole else "too many parts")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > _MAX_SIDE:
        raise ImageRefused(ErrorCode.IMAGE_TOO_MANY_PIXELS, f"{width} x {height}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    chunk, head = data[12:16], data[20:30]
    if len(head) < 10:
        raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "cut off")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "no picture chunk")


def _turn(format_: ImageFormat, pixels: int) -> AbstractContextManager[object]:
    return _heavy if pixels * _BYTES_PER_PIXEL[format_] > _HEAVY_BYTES else nullcontext()


def _shrink(image: ImageFile, max_side: int, *, depth: int) -> Image.Image:
    """Decoded at its final size, still on its side; RGB, L or CMYK. `depth`: bits per sample in the file."""
    whole = image.size
    scale = min(1.0, max_side / max(whole))
    target = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # libjpeg can leave out the detail while decoding: a half, a quarter or an eighth, at least `target`.
    drafted = image.draft(None, target)
    box = drafted[1] if drafted else (0.0, 0.0, float(image.width), float(image.height))
    image.load()
    if image.mode not in _PROFILE_SPACES or image.has_transparency_data:
        _scale_transparent_colour(image, depth)
        return _flatten_and_resize(image, target)
    if image.size == target:
        return image.copy()
    # What libjpeg has reduced has lost the detail that Lanczos keeps: the same within 1 dB in half the time.
    resampling = Image.Resampling.LANCZOS if image.size == whole else Image.Resampling.BILINEAR
    return image.resize(target, resampling, box, _REDUCING_GAP)


def _flatten_and_resize(image: ImageFile, target: tuple[int, int]) -> Image.Image:
    """RGB on white, strip by strip, so that the whole is never held a second time at full size."""
    width, height = image.size
    across = max(1, int(width / target[0] / _REDUCING_GAP))
    down = max(1, int(height / target[1] / _REDUCING_GAP))
    rows = max(1, _STRIP_PIXELS // (width * down)) * down
    canvas = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top in range(0, height, rows):
        strip = _flatten(image.crop((0, top, width, min(top + rows, height))))
        canvas.paste(strip.reduce((across, down)), (0, top // down))
    if canvas.size == target:
        return canvas
    box = (0.0, 0.0, width / across, height / down)
    return canvas.resize(target, Image.Resampling.LANCZOS, box)


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """A PNG may name one colour as transparent; Pillow scales the samples to 8 bits, but not that colour."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(sample >> 8 for sample in key)
    elif isinstance(key, int) and image.mode in ("L", "I;16"):
        image.info["transparency"] = round(key * 255 / (2**depth - 1))


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":  # Pillow's own conversion clips instead of scaling
        image = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def _orientation(exif: bytes | None) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the EXIF data is broken, as browsers do."""
    if not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load(exif)
        return int(tags.get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converted after shrinking, so it costs a few milliseconds."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile[:_MAX_PROFILE_BYTES]))
        if source.profile.xcolor_space.strip() == _PROFILE_SPACES[image.mode]:
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        pass
    return image.convert("RGB")
