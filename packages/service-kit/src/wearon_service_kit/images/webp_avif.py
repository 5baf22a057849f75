"""What Pillow does not tell of a WebP before it opens it, and of an AVIF at all."""

from __future__ import annotations

import struct
from typing import Final

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.colour import profile_of_code_points
from wearon_service_kit.images.errors import ImageRefused

_AVIF_HEADER_BYTES: Final = 64 * 1024  # the boxes before the pixels have a few hundred


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "cut off")
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


def avif_profile(data: bytes) -> bytes | None:
    """The profile that an AVIF without an ICC profile names by code points (its `colr` box of type nclx)."""
    found = data.find(b"colrnclx", 0, _AVIF_HEADER_BYTES)
    if found < 0 or found + 12 > len(data):
        return None
    primaries, transfer = struct.unpack(">HH", data[found + 8 : found + 12])
    return profile_of_code_points(primaries, transfer, grey=False)[1]
