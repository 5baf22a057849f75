"""The three picture formats that are accepted, told apart by their first bytes."""

from __future__ import annotations

from typing import Final, Literal

ImageFormat = Literal["JPEG", "PNG", "WEBP"]

MAGIC_BYTES: Final = 12  # how many are needed to tell

# What servers call them; image/jpg and the x- and p- forms are wrong but common.
CONTENT_TYPES: Final[dict[str, ImageFormat]] = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/pjpeg": "JPEG",
    "image/png": "PNG",
    "image/x-png": "PNG",
    "image/apng": "PNG",
    "image/webp": "WEBP",
}


def sniff(data: bytes | bytearray) -> ImageFormat | None:
    """The format that the first 12 bytes belong to, or None for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return None
