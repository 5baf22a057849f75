"""Opens pictures from strangers and makes them small: the one place that decodes.

Only the plugins of the four formats are called, not `Image.open`, so no other format and no second picture of
a file is ever touched, and the size is read from the header before anything is decoded. At the limit of 50
megapixels this takes (measured with Pillow 13.0): a baseline JPEG 25 MB, a progressive one 300 MB, a PNG
270 MB, an AVIF 430 to 560 MB, a WebP 600 MB (libwebp's animation decoder holds two copies, Pillow one).
Pictures that need over 128 MB are therefore decoded one at a time in a process, however many threads call;
`memory_needed` tells callers beforehand, and `child.prepare_in_child` opens one in a process of its own.
"""

from __future__ import annotations

import io
import itertools
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from PIL import AvifImagePlugin, ExifTags, Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.colour import to_srgb
from wearon_service_kit.images.errors import ImageError, ImageRefused
from wearon_service_kit.images.formats import ImageFormat, refusal_of, sniff
from wearon_service_kit.images.jpeg_file import jpeg_bytes_per_pixel, read_jpeg
from wearon_service_kit.images.png_file import read_png
from wearon_service_kit.images.webp_avif import avif_profile, webp_size

__all__ = ["MAX_PIXELS", "ImageError", "ImageRefused", "PreparedImage", "open_rgb", "prepare_jpeg"]

MAX_PIXELS: Final = 8192 * 6144  # what phones call 50 megapixels is 8160 × 6144 and 8192 × 6144 too
MIN_SIDE: Final = 64  # pixels; on less there is nothing to see, but it would be paid for
_MAX_SIDE: Final = (
    65_535  # JPEG's own limit; per row of a PNG that is one pixel wide, Pillow needs 12 bytes more
)
_JPEG_QUALITY: Final = 90  # of the prepared pictures; no loss that a person sees
HEAVY_BYTES: Final = 128 * 1024 * 1024  # a picture whose decoding takes more is opened by a child process
# Upper bounds, from measurements of the kinds that take most: RGBA; 10 bits without subsampling, and alpha.
_BYTES_PER_PIXEL: Final[dict[ImageFormat, int]] = {"JPEG": 8, "PNG": 6, "WEBP": 13, "AVIF": 17}
_SMALL_COPIES: Final = 48 * 1024 * 1024  # reduced pictures on the way to the final size
# Pictures are averaged down to no less than this many times the final size, which is fast, then resampled.
_REDUCING_GAP: Final = 3.0
_WHOLE_FILE: Final = 1 << 30  # bytes that Pillow hands its decoder at a time: more than any file has
_STRIP_PIXELS: Final = 1 << 20  # reduced at a time, so that a copy of the whole is never made
# As much as fits into a JPEG. Other kinds can hold more; the orientation stands in the first few bytes.
_EXIF_BYTES: Final = 65_536

# Each thread of the AV1 decoder holds frames of its own, and there may be as many as the machine has cores.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Pillow warns of every broken note, and a small picture can hold 65,000: 20 s and 21 MB of log.
warnings.filterwarnings("ignore", module=r"PIL\.")

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


def prepare_jpeg(data: bytes, *, max_side: int = 1024, min_side: int = MIN_SIDE) -> PreparedImage:
    """The picture in `data` as a JPEG whose longest side is at most `max_side` pixels; see `open_rgb`.

    One under `min_side` pixels wide or high is refused with IMAGE_TOO_SMALL.
    """
    image = open_rgb(data, max_side=max_side, min_side=min_side)
    output = io.BytesIO()
    image.save(output, "JPEG", quality=_JPEG_QUALITY)
    return PreparedImage(output.getvalue(), image.width, image.height)


def memory_needed(data: bytes) -> int:
    """Bytes that opening the picture in `data` takes at its height, beside `data`, as its header says.

    What is no picture, or too large to be opened, needs none.
    """
    format_ = sniff(data)
    try:
        if format_ == "JPEG":
            pixels, per_pixel = jpeg_bytes_per_pixel(data)
        elif format_ is None:
            return 0
        else:
            width, height = _SIZE_READERS[format_](data)
            pixels, per_pixel = width * height, _BYTES_PER_PIXEL[format_]
    except Exception:  # opening it will say what is wrong
        return 0
    return pixels * per_pixel + 2 * len(data) + _SMALL_COPIES if 0 < pixels <= MAX_PIXELS else 0


def open_rgb(data: bytes, *, max_side: int, min_side: int = 1, sharp: bool = True) -> Image.Image:
    """The picture in `data` (JPEG, PNG, WebP or AVIF; of an animation the first frame) as 8-bit RGB.

    EXIF orientation is applied, then all metadata is dropped; colours are converted to sRGB from an embedded
    profile or what else the file says of them (a profile that cannot be used is ignored); transparency is
    laid onto white; the longest side becomes at most `max_side` pixels, never more than it was. Not `sharp`:
    edges are a little softer, and a small picture takes half as long. Blocks for up to about a second (an
    AVIF of 50 megapixels: four): call it in a thread.

    Raises ImageRefused: IMAGE_EMPTY; IMAGE_TYPE_REFUSED and its kin; IMAGE_TOO_MANY_PIXELS (over 50
    megapixels or 65,535 pixels on a side); IMAGE_TOO_SMALL (under `min_side` pixels on a side); or
    IMAGE_DAMAGED, whatever else is wrong with it, cut off included; or IMAGE_TOO_HEAVY when memory runs out.
    """
    format_ = sniff(data)
    if format_ is None:
        raise refusal_of(data)
    try:
        return _OPENERS[format_](data, _Sizes(max_side, min_side, sharp=sharp))
    except ImageRefused:
        raise
    except MemoryError as error:
        raise ImageRefused(ErrorCode.IMAGE_TOO_HEAVY) from error
    except Image.DecompressionBombError as error:
        raise ImageRefused(ErrorCode.IMAGE_TOO_MANY_PIXELS) from error
    except (
        Exception
    ) as error:  # Pillow raises anything: OSError, SyntaxError, struct.error, EOFError, KeyError
        raise ImageRefused(ErrorCode.IMAGE_DAMAGED, type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class _Sizes:
    """`largest`: of the picture's longest side afterwards; `smallest`: of its shortest before. In pixels.
    `sharp`: whether edges are worth the time of the better resampling."""

    largest: int
    smallest: int
    sharp: bool

    def check(self, width: int, height: int) -> None:
        """Raises ImageRefused for a file with a picture of that size."""
        if width * height > MAX_PIXELS or max(width, height) > _MAX_SIDE:
            raise ImageRefused(ErrorCode.IMAGE_TOO_MANY_PIXELS, f"{width} x {height}")
        if 0 < min(width, height) < self.smallest:
            raise ImageRefused(ErrorCode.IMAGE_TOO_SMALL, f"{width} x {height}")


def _open_jpeg(data: bytes, sizes: _Sizes) -> Image.Image:
    file = read_jpeg(data)
    with JpegImageFile(io.BytesIO(file.data)) as image:
        sizes.check(*image.size)
        with _turn("JPEG", image.width * image.height):
            small = _shrink(image, sizes)
            if file.probe is not None:
                image.close()
                with JpegImageFile(io.BytesIO(file.probe)) as probe:
                    if ImageChops.difference(small, _shrink(probe, sizes)).getbbox() is not None:
                        raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "cut off")
    return _finish(small, file.exif, file.profile)


def _open_png(data: bytes, sizes: _Sizes) -> Image.Image:
    file = read_png(data)
    sizes.check(file.width, file.height)
    with PngImageFile(io.BytesIO(file.data)) as image, _turn("PNG", image.width * image.height):
        _load(image)
        # What is missing has stayed as it was made: zero. Counting takes as long as decoding.
        last = image.crop((0, image.height - 1, *image.size)).tobytes()
        if (file.interlaced or last.count(0) == len(last)) and not file.rows_are_whole():
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "cut off")
        small = _shrink(image, sizes, depth=file.depth, grey=file.grey)
    return _finish(small, file.exif, file.profile)


class _FrugalWebP(WebPImageFile):
    """Lets go of the decoder, 8 bytes a pixel, before Pillow makes a picture of the first frame."""

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


def _open_webp(data: bytes, sizes: _Sizes) -> Image.Image:
    sizes.check(*webp_size(data))  # before opening, which allocates the canvas
    with _FrugalWebP(io.BytesIO(data)) as image:
        sizes.check(*image.size)
        with _turn("WEBP", image.width * image.height):
            small = _shrink(image, sizes)
        return _finish(small, image.info.get("exif"), image.info.get("icc_profile"))


def _open_avif(data: bytes, sizes: _Sizes) -> Image.Image:
    with AvifImagePlugin.AvifImageFile(io.BytesIO(data)) as image:
        sizes.check(*image.size)
        with _turn("AVIF", image.width * image.height):
            small = _shrink(image, sizes)
        return _finish(small, image.info.get("exif"), image.info.get("icc_profile") or avif_profile(data))


_OPENERS: Final[dict[ImageFormat, Callable[[bytes, _Sizes], Image.Image]]] = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "WEBP": _open_webp,
    "AVIF": _open_avif,
}


def _png_size(data: bytes) -> tuple[int, int]:
    file = read_png(data)
    return file.width, file.height


def _avif_size(data: bytes) -> tuple[int, int]:
    with AvifImagePlugin.AvifImageFile(io.BytesIO(data)) as image:  # reads the boxes, not the pixels
        return image.size


_SIZE_READERS: Final[dict[ImageFormat, Callable[[bytes], tuple[int, int]]]] = {
    "PNG": _png_size,
    "WEBP": webp_size,
    "AVIF": _avif_size,
}


def _finish(image: Image.Image, exif: bytes | None, profile: bytes | None) -> Image.Image:
    """Upright, in sRGB, without metadata; after shrinking, so it costs a few milliseconds."""
    orientation = _orientation(exif)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image = to_srgb(image, profile)
    image.info.clear()  # Pillow would write a comment found there into a new JPEG
    return image


def _turn(format_: ImageFormat, pixels: int) -> AbstractContextManager[object]:
    return _heavy if pixels * _BYTES_PER_PIXEL[format_] > HEAVY_BYTES else nullcontext()


def _load(image: ImageFile) -> None:
    """Decode in one go.

    By itself Pillow gives a decoder 64 KB at a time, and after each piece the thread has to get Python's lock
    back from the event loop: under load a photo waits longer for that than it decodes.
    """
    image.decodermaxblock = _WHOLE_FILE
    image.load()


def _shrink(image: ImageFile, sizes: _Sizes, *, depth: int = 8, grey: bool = False) -> Image.Image:
    """Decoded at its final size, still on its side; L, LA, RGB, RGBA or CMYK. `depth`: bits a sample.

    `grey`: Pillow opens grey with alpha and 16 bits as if it had colours.
    """
    whole = image.size
    scale = min(1.0, sizes.largest / max(whole))
    target = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # libjpeg can leave out the detail while decoding: a half, a quarter or an eighth, at least `target`.
    drafted = image.draft(None, target)
    box = drafted[1] if drafted else (0.0, 0.0, float(image.width), float(image.height))
    _load(image)
    if image.mode not in ("L", "RGB", "CMYK") or image.has_transparency_data:
        _scale_transparent_colour(image, depth)
        return _unify_and_resize(image, target, grey=grey)
    if image.size == target:
        return image.copy()
    # Lanczos would be sharper at edges, by 4 to 5 dB, but takes twice the time (`bench --only images`).
    lanczos = sizes.sharp and image.size == whole
    resampling = Image.Resampling.LANCZOS if lanczos else Image.Resampling.HAMMING
    return image.resize(target, resampling, box, _REDUCING_GAP)


def _unify_and_resize(image: ImageFile, target: tuple[int, int], *, grey: bool) -> Image.Image:
    """L, LA, RGB or RGBA, strip by strip, so that the whole is never held a second time at full size."""
    width, height = image.size
    across = max(1, int(width / target[0] / _REDUCING_GAP))
    down = max(1, int(height / target[1] / _REDUCING_GAP))
    rows = max(1, _STRIP_PIXELS // (width * down)) * down
    pieces = (
        _unify(image.crop((0, top, width, min(top + rows, height))), grey=grey).reduce((across, down))
        for top in range(0, height, rows)
    )
    first = next(pieces)
    canvas = Image.new(first.mode, (-(-width // across), -(-height // down)))
    for number, piece in enumerate(itertools.chain([first], pieces)):
        canvas.paste(piece, (0, number * rows // down))
    if canvas.size == target:
        return canvas
    box = (0.0, 0.0, width / across, height / down)
    return canvas.resize(target, Image.Resampling.LANCZOS, box)


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """A PNG may name one colour as transparent; Pillow scales the samples to 8 bits, but not that colour."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(sample >> 8 for sample in key)
    elif isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = round(key * 255 / (2**depth - 1))


def _unify(image: Image.Image, *, grey: bool) -> Image.Image:
    """Grey stays grey, so that a profile for grey fits."""
    if image.mode == "I;16":
        return _unify_16_bit_grey(image)
    grey = grey or image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        return image.convert("LA" if grey else "RGBA")
    return image.convert("L" if grey else "RGB")


def _unify_16_bit_grey(image: Image.Image) -> Image.Image:
    """Some 256 of its levels become one of L, of which only the very one that is named is transparent."""
    # Pillow's own conversion clips instead of scaling.
    grey = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.info.pop("transparency", None)
        alpha = [255] * 65_536
        alpha[key] = 0
        grey.putalpha(image.convert("I").point(alpha, "L"))
    return grey


def _orientation(exif: bytes | None) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the EXIF data is broken, as browsers do."""
    if not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load(exif[:_EXIF_BYTES])
        return int(tags.get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
