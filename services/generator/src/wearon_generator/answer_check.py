"""Whether what a provider sent back is a whole picture; for a JPEG at half the CPU of decoding it or less."""

from __future__ import annotations

import io
import zlib
from typing import Final

from PIL import Image

from wearon_generator.storage import content_type

SHORTEST_SIDE: Final = 512  # pixels
_DECODED_BYTES: Final = {"image/jpeg": 256 * 1024, "image/png": 64 * 1024, "image/webp": 64 * 1024}
"""Larger files are not decoded, which takes 10 ms per MB of JPEG even at an eighth of its size: only the end
is looked for. No picture of a single colour is as large."""
_SHRUNK: Final = 8  # the largest factor by which libjpeg shrinks while it decodes
_ONE_COLOUR: Final = 4  # of 255: less spread is what the compression of a single colour leaves
_JPEG_END: Final = b"\xff\xd9"
_AFTER_THE_END: Final = 64 * 1024  # bytes that some programs append


def why_unusable(data: bytes) -> str | None:
    """What is wrong with a picture that was sent back; None if it can be delivered."""
    kind = content_type(data)
    if kind is None:
        return "neither JPEG, PNG nor WebP"
    try:
        with Image.open(io.BytesIO(data)) as image:
            if min(image.size) < SHORTEST_SIDE:
                return f"only {image.width}x{image.height} pixels"
            if not _has_its_end(data, kind):
                return "cut off"
            if len(data) > _DECODED_BYTES[kind]:
                return None
            image.draft("L", (image.width // _SHRUNK, image.height // _SHRUNK))
            lowest, highest = image.convert("L").getextrema()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"it cannot be decoded ({type(error).__name__})"
    return "of a single colour" if _spread(lowest, highest) <= _ONE_COLOUR else None


def _spread(lowest: object, highest: object) -> float:
    return float(highest) - float(lowest) if isinstance(lowest, int) and isinstance(highest, int) else 255.0


def _has_its_end(data: bytes, kind: str) -> bool:
    if kind == "image/jpeg":
        return data.rfind(_JPEG_END) >= max(0, len(data) - _AFTER_THE_END)
    if kind == "image/webp":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return _png_is_whole(data)


def _png_is_whole(data: bytes) -> bool:
    """Whether all chunks up to the last one are there and have the checksum they name."""
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            return False
        named = int.from_bytes(data[end - 4 : end], "big")
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != named:
            return False
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position = end
    return False
