"""The chunks of a PNG that its picture needs (W3C, Portable Network Graphics, third edition).

Shops and editors write broken notes into good pictures, and decoders stumble over them. So orientation and
colours are read here, forgivingly, and every other note is left out. What the pixels are made of is not
forgiven: it has to be there, whole.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.colour import Primaries, profile_of_code_points, profile_of_gamma
from wearon_service_kit.images.errors import ImageRefused

# Normal files have one profile and about a dozen notes.
_MAX_PROFILES: Final = 2
_MAX_NOTES: Final = 1000
# Pixels come in pieces of 8 kB and more, some 1,300 in the largest file. Each takes 0.02 ms of Python:
# 10 MB of empty ones took 17 s.
_MAX_CHUNKS: Final = 16_384
_MAX_NOTE_BYTES: Final = 1024 * 1024  # unpacked too; real profiles have 0.5 to 500 kB
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_STRICT: Final = (b"IHDR", b"PLTE", b"IDAT")
_ANIMATION: Final = (b"acTL", b"fcTL", b"fdAT")
_CHUNK_NAME: Final = re.compile(rb"[A-Za-z]{4}")
# Samples of a pixel by colour type, and the first row, first column, row step, column step of Adam7's passes.
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7: Final = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


@dataclass(frozen=True, slots=True)
class PngFile:
    """`data`: what the decoder gets. `exif`: TIFF structure or None. `profile`: ICC profile or None.

    `depth`: bits of a sample. `grey`: without colours. `interlaced`: the rows come in seven passes.
    """

    data: bytes
    exif: bytes | None
    profile: bytes | None
    width: int
    height: int
    depth: int
    grey: bool
    interlaced: bool
    _samples: int
    _pixels: tuple[memoryview, ...]

    def rows_are_whole(self) -> bool:
        """Unpacks all pixels and counts them: a stream may end in good order before the picture does."""
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        expected = 0
        for top, left, down, across in passes:
            columns, rows = -(-(self.width - left) // across), -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                expected += rows * (1 + (columns * self.depth * self._samples + 7) // 8)
        inflate = zlib.decompressobj()
        for packed in self._pixels:
            rest: bytes | memoryview = packed
            while rest and expected > 0 and not inflate.eof:
                expected -= len(inflate.decompress(rest, 1 << 20))
                rest = inflate.unconsumed_tail
        return expected <= 0


def read_png(data: bytes) -> PngFile:
    """The chunks of a PNG that its picture needs; for an animation, the picture shown without it.

    Header, palette and pixels must be whole, with the right checksums. Every other chunk that is broken, or
    unpacks to over 1 MB, is left out, and the end chunk is not missed.
    """
    view = memoryview(data)
    strict: dict[bytes, list[memoryview]] = {name: [] for name in _STRICT}
    pixels: list[memoryview] = []
    notes: dict[bytes, bytes] = {}
    profiles, count = 0, 0
    for name, start, end, whole in _chunks(data):
        if name in strict:
            if not whole:
                raise ImageRefused(ErrorCode.IMAGE_DAMAGED, f"{name.decode()} is broken")
            strict[name].append(view[start - 8 : end + 4])
            if name == b"IDAT":
                pixels.append(view[start:end])
        elif name not in _ANIMATION:
            profiles += name == b"iCCP"
            count += 1
            if profiles > _MAX_PROFILES or count > _MAX_NOTES:
                raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "too many parts")
            if whole:
                notes.setdefault(name, bytes(view[start:end]) if end - start <= _MAX_NOTE_BYTES else b"")
    header = bytes(strict[b"IHDR"][0][8:-4]) if strict[b"IHDR"] else b""
    if len(header) != 13 or not pixels or header[9] not in _SAMPLES:
        raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "no picture")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    parts: list[bytes | memoryview] = [_SIGNATURE, strict[b"IHDR"][0], *strict[b"PLTE"][:1]]
    transparent = notes.get(b"tRNS", b"")
    if _is_transparency(transparent, colour):
        parts.append(_chunk(b"tRNS", transparent))
    # In one chunk, since Pillow decodes a chunk at a time; see `_load` in decode.py.
    parts += [_chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b"")]
    grey = colour in (0, 4)
    return PngFile(
        data=b"".join(parts),
        exif=notes.get(b"eXIf"),
        profile=_profile(notes, grey=grey),
        width=width,
        height=height,
        depth=depth,
        grey=grey,
        interlaced=bool(interlace),
        _samples=_SAMPLES[colour],
        _pixels=tuple(pixels),
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int, bool]]:
    """Name, first and last position of the content, whether it is all there with its checksum; up to IEND."""
    position = len(_SIGNATURE)
    count = 0
    while position + 8 <= len(data):
        count += 1
        if count > _MAX_CHUNKS:
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "too many parts")
        size = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if name == b"IEND" or not _CHUNK_NAME.fullmatch(name):
            return
        start, end = position + 8, position + 8 + size
        checksum = int.from_bytes(data[end : end + 4], "big")
        whole = end + 4 <= len(data) and zlib.crc32(memoryview(data)[position + 4 : end]) == checksum
        yield name, start, min(end, len(data)), whole
        position = end + 4


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _is_transparency(content: bytes, colour: int) -> bool:
    sizes = {0: (2,), 2: (6,), 3: range(1, 257)}
    return len(content) in sizes.get(colour, ())


def _profile(notes: dict[bytes, bytes], *, grey: bool) -> bytes | None:
    """What colours mean, by the chunk that the standard puts first: cICP, iCCP, sRGB, then gAMA with cHRM."""
    code_points = notes.get(b"cICP", b"")
    # Matrix 0 and full range are the only ones the standard allows.
    if len(code_points) == 4 and code_points[2:] == b"\0\1":
        known, profile = profile_of_code_points(code_points[0], code_points[1], grey=grey)
        if known:
            return profile
    packed = notes.get(b"iCCP", b"").partition(b"\0")[2]
    if packed[:1] == b"\0" and (unpacked := _unpack(packed[1:])):
        return unpacked
    if len(notes.get(b"sRGB", b"")) == 1 or len(notes.get(b"gAMA", b"")) != 4:
        return None
    gamma = int.from_bytes(notes[b"gAMA"], "big") / 100_000
    chromaticities = notes.get(b"cHRM", b"")
    primaries = None
    if len(chromaticities) == 32:
        primaries = Primaries(*(value / 100_000 for value in struct.unpack(">8I", chromaticities)))
    return profile_of_gamma(gamma, primaries, grey=grey)


def _unpack(packed: bytes) -> bytes | None:
    inflate = zlib.decompressobj()
    try:
        unpacked = inflate.decompress(packed, _MAX_NOTE_BYTES + 1)
    except zlib.error:
        return None
    return unpacked if len(unpacked) <= _MAX_NOTE_BYTES else None
