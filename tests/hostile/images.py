"""Files that must be refused when they are opened, if not before. All of them begin like a picture."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from PIL import Image

from wearon_contracts.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class HostileImage:
    name: str
    content_type: str
    build: Callable[[], bytes]
    code: ErrorCode


def photo(format_: str = "JPEG", size: tuple[int, int] = (320, 240), **options: object) -> bytes:
    """A harmless picture with enough detail that a part of it is missed when it is cut off."""
    noise = random.Random(7).randbytes(40 * 30 * 3)
    image = Image.frombytes("RGB", (40, 30), noise).resize(size)
    output = io.BytesIO()
    image.save(output, format_, **options)
    return output.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0, pixels: bytes = b""
) -> bytes:
    """A PNG of its own chunks; `pixels` are the raw rows, each with its filter byte."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header claims other dimensions."""
    data = bytearray(photo("JPEG", (16, 16)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP of the extended form with a canvas of that size around a small lossy picture."""
    inner = photo("WEBP", (16, 16))[12:]
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return _riff((b"VP8X", b"\0\0\0\0" + sizes), (inner[:4], inner[8:]))


def webp_lossless(width: int, height: int) -> bytes:
    """The header of a lossless WebP of that size, and little else: 16384 is its largest side."""
    bits = (width - 1) | (height - 1) << 14
    return _riff((b"VP8L", b"\x2f" + struct.pack("<I", bits) + b"\x88\x88\x08" + b"\0" * 16))


def webp_lossy(width: int, height: int) -> bytes:
    data = bytearray(photo("WEBP", (16, 16)))
    data[26:30] = struct.pack("<HH", width, height)
    return bytes(data)


def _png_bomb() -> bytes:
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 << 20)) for _ in range(64)) + rows.flush()
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def _many_scans() -> bytes:
    data = photo("JPEG", (64, 64), progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * 5000 + b"\xff\xd9"


def _many_segments(segment: bytes) -> bytes:
    """A megabyte of them before the picture."""
    data = photo("JPEG", (64, 64))
    return data[:2] + segment * (2**20 // len(segment)) + data[2:]


def _many_pieces(name: bytes) -> bytes:
    """A megabyte of empty chunks before the picture."""
    data = photo("PNG", (64, 64))
    start = data.index(b"IDAT") - 4
    return data[:start] + png_chunk(name, b"") * (2**20 // 12) + data[start:]


def _profile_bomb() -> bytes:
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(1_000_000), 9))
    return png(1, 1, *[profile] * 5000, pixels=b"\0\0")


def _text_bomb() -> bytes:
    text = png_chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(1_000_000), 9))
    return png(1, 1, *[text] * 5000, pixels=b"\0\0")


def _animated(format_: str) -> bytes:
    frames = [Image.frombytes("RGB", (64, 64), random.Random(n).randbytes(64 * 64 * 3)) for n in range(3)]
    output = io.BytesIO()
    frames[0].save(output, format_, save_all=True, append_images=frames[1:], duration=100)
    return output.getvalue()


def _zeroed_tail() -> bytes:
    data = photo("JPEG")
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def _flipped_idat() -> bytes:
    data = bytearray(photo("PNG"))
    start = data.index(b"IDAT") + 4
    data[start + 100 : start + 400] = bytes(300)
    return bytes(data)


def _progressive_cut_and_closed() -> bytes:
    return _cut(photo("JPEG", progressive=True), 0.9) + b"\xff\xd9"


def _cut(data: bytes, keep: float) -> bytes:
    return data[: int(len(data) * keep)]


def _padded(data: bytes) -> bytes:
    return data + bytes(64)


JPEG, PNG, WEBP = "image/jpeg", "image/png", "image/webp"
_IEND: Final = png_chunk(b"IEND", b"")
_TOO_MANY: Final = ErrorCode.IMAGE_TOO_MANY_PIXELS
_DAMAGED: Final = ErrorCode.IMAGE_DAMAGED

HOSTILE_IMAGES: Final = (
    HostileImage("png-pixel-bomb", PNG, _png_bomb, _TOO_MANY),
    HostileImage("png-51-megapixels", PNG, lambda: png(10_000, 5_100), _TOO_MANY),
    HostileImage("png-2-gigapixels-wide", PNG, lambda: png(2**31 - 1, 1), _TOO_MANY),
    HostileImage("png-thin-and-tall", PNG, lambda: png(1, 40_000_000), _TOO_MANY),
    HostileImage("jpeg-4-gigapixels", JPEG, lambda: jpeg_of_size(65_500, 65_500), _TOO_MANY),
    HostileImage("jpeg-51-megapixels", JPEG, lambda: jpeg_of_size(10_000, 5_100), _TOO_MANY),
    HostileImage("webp-canvas-bomb", WEBP, lambda: webp_canvas(65_536, 65_535), _TOO_MANY),
    HostileImage("webp-lossless-bomb", WEBP, lambda: webp_lossless(16_384, 16_384), _TOO_MANY),
    HostileImage("webp-lossy-bomb", WEBP, lambda: webp_lossy(16_383, 16_383), _TOO_MANY),
    HostileImage("jpeg-magic-only", JPEG, lambda: b"\xff\xd8\xff" + bytes(64), _DAMAGED),
    HostileImage("png-magic-only", PNG, lambda: b"\x89PNG\r\n\x1a\n" + bytes(64), _DAMAGED),
    HostileImage("webp-magic-only", WEBP, lambda: b"RIFF\x40\0\0\0WEBP" + bytes(64), _DAMAGED),
    HostileImage("jpeg-cut-in-half", JPEG, lambda: _cut(photo("JPEG"), 0.5), _DAMAGED),
    HostileImage("jpeg-cut-and-closed", JPEG, lambda: _cut(photo("JPEG"), 0.9) + b"\xff\xd9", _DAMAGED),
    HostileImage("progressive-cut-and-closed", JPEG, _progressive_cut_and_closed, _DAMAGED),
    HostileImage("jpeg-zeroed-tail", JPEG, _zeroed_tail, _DAMAGED),
    HostileImage("jpeg-cut-and-padded", JPEG, lambda: _padded(_cut(photo("JPEG"), 0.6)), _DAMAGED),
    HostileImage("progressive-cut", JPEG, lambda: _cut(photo("JPEG", progressive=True), 0.7), _DAMAGED),
    HostileImage("png-cut-in-half", PNG, lambda: _cut(photo("PNG"), 0.5), _DAMAGED),
    HostileImage("png-cut-and-closed", PNG, lambda: _cut(photo("PNG"), 0.9) + _IEND, _DAMAGED),
    HostileImage("png-half-of-its-rows", PNG, lambda: png(64, 64, pixels=bytes(65 * 32)), _DAMAGED),
    HostileImage("webp-cut-in-half", WEBP, lambda: _cut(photo("WEBP"), 0.5), _DAMAGED),
    HostileImage("webp-without-its-end", WEBP, lambda: photo("WEBP")[:-1], _DAMAGED),
    HostileImage("animated-webp-cut", WEBP, lambda: _cut(_animated("WEBP"), 0.2), _DAMAGED),
    HostileImage("animated-png-cut", PNG, lambda: _cut(_animated("PNG"), 0.2), _DAMAGED),
    HostileImage("png-broken-zlib", PNG, _flipped_idat, _DAMAGED),
    HostileImage("png-no-pixels", PNG, lambda: png(500, 500), _DAMAGED),
    HostileImage("png-zero-wide", PNG, lambda: png(0, 5, pixels=bytes(5)), _DAMAGED),
    HostileImage("png-unknown-depth", PNG, lambda: png(4, 4, depth=7, pixels=bytes(20)), _DAMAGED),
    HostileImage("png-profile-bomb", PNG, _profile_bomb, _DAMAGED),
    HostileImage("png-text-bomb", PNG, _text_bomb, _DAMAGED),
    HostileImage("jpeg-zero-high", JPEG, lambda: jpeg_of_size(16, 0), _DAMAGED),
    HostileImage("jpeg-scan-bomb", JPEG, _many_scans, _DAMAGED),
    HostileImage("jpeg-empty-segments", JPEG, lambda: _many_segments(b"\xff\xe0\0\2"), _DAMAGED),
    HostileImage("jpeg-empty-tables", JPEG, lambda: _many_segments(b"\xff\xc4\0\2"), _DAMAGED),
    HostileImage("jpeg-restarts", JPEG, lambda: _many_segments(b"\xff\xd0"), _DAMAGED),
    HostileImage("png-empty-pieces", PNG, lambda: _many_pieces(b"IDAT"), _DAMAGED),
    HostileImage("png-empty-frames", PNG, lambda: _many_pieces(b"fdAT"), _DAMAGED),
    HostileImage("webp-frame-outside-canvas", WEBP, lambda: webp_canvas(8, 8), _DAMAGED),
)
