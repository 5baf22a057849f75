"""The segments of a JPEG that its first picture needs (ITU-T T.81, annex B).

Cameras write broken notes into good pictures, and decoders stumble over them. So orientation and colour
profile are read here, forgivingly, and every other note is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.errors import ImageRefused

# Normal files have at most about a dozen scans. Each of a progressive JPEG passes over the whole picture
# (3 ms at 50 megapixels).
_MAX_SCANS: Final = 256
# Normal files have at most a few hundred, for a long profile in pieces and the tables of each scan. Each
# takes 0.01 ms of Python: 10 MB of empty ones took 27 s.
_MAX_MARKERS: Final = 4096
_START: Final = b"\xff\xd8"
_END: Final = b"\xff\xd9"
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
# Within a scan FF 00 is a data byte, FF D0 to FF D7 restart it. Further FF before the marker are fillers.
# They are cut off when it is found: a pattern that begins with one byte alone is found 20 times as fast.
_END_OF_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_WITHOUT_LENGTH: Final = (0x01, *range(0xD0, 0xD8))
_SEQUENTIAL: Final = (0xC0, 0xC1)
_PROGRESSIVE: Final = 0xC2
_FRAMES: Final = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SCAN: Final = 0xDA
_HUFFMAN: Final = 0xC4
_TABLES: Final = (_HUFFMAN, 0xCC, 0xDB, 0xDD)  # the latter: arithmetic, quantisation, restart interval
_COEFFICIENTS: Final = 64
# A decoder looks up to 8 bytes ahead. These eight stand for no more than four codes, since no code is all
# ones: a scan that is whole is read to its end, and one that is not runs out of bytes.
_LOOKAHEAD: Final = b"\xfe" * 8
# Behind a scan that was cut off and closed again: read as pixels if any are missing, skipped if none are.
_JUNK: Final = bytes((n * 167 + 13) % 251 for n in range(509))


@dataclass(frozen=True, slots=True)
class JpegFile:
    """`data` is what the decoder gets; if there is a `probe` and it looks different, pixels are missing.

    `exif`: TIFF structure or None. `profile`: ICC profile or None.
    """

    data: bytes
    probe: bytes | None
    exif: bytes | None
    profile: bytes | None


def read_jpeg(data: bytes) -> JpegFile:
    """The parts of `data` that matter.

    The end marker may be missing, and anything may follow the picture. Whether all pixels are there cannot be
    seen from here, but the decoder is made to fail if they are not: a picture of one scan gets no end marker,
    so that the decoder cannot fill it up with grey, and one of several scans gets a `probe`.

    Raises ImageRefused (IMAGE_DAMAGED).
    """
    parts = _Parts()
    for segment in _segments(data):
        parts.add(data, segment)
        if parts.in_one_scan:
            break
    return parts.file()


def jpeg_bytes_per_pixel(data: bytes) -> tuple[int, int]:
    """Pixels of the picture, and bytes that a decoder holds for each of them; (0, 0) if the header is broken.

    Of a picture in one scan the decoder holds a few rows; of any other all coefficients, 2 bytes each.
    Raises ImageRefused (IMAGE_DAMAGED) when there are too many segments.
    """
    parts = _Parts()
    for segment in _segments(data):
        parts.add(data, segment)
        if parts.scans:
            break
    if not parts.scans:
        return 0, 0
    height, width = int.from_bytes(parts.frame[1:3], "big"), int.from_bytes(parts.frame[3:5], "big")
    return width * height, 1 if parts.in_one_scan else 2 * len(parts.components)


@dataclass(frozen=True, slots=True)
class _Segment:
    """`start` to `end`: after the marker, its length included; to `scan_end` the coded pixels of a scan."""

    marker: int
    start: int
    end: int
    scan_end: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """Up to the end marker, the beginning of another picture or the end of `data`.

    Raises ImageRefused (IMAGE_DAMAGED) when there are too many.
    """
    position = len(_START)
    scanned = False
    markers = 0
    while (found := _MARKER.search(data, position)) is not None:
        markers += 1
        if markers > _MAX_MARKERS:
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "too many parts")
        marker, position = found[1][0], found.end()
        if marker in _WITHOUT_LENGTH or (marker == _START[1] and not scanned):
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        if marker in (_START[1], _END[1]) or end < position + 2 or end > len(data):
            return
        scan_end = end
        if marker == _SCAN:
            scanned = True
            closing = _END_OF_SCAN.search(data, end)
            scan_end = end + len(data[end : closing.start()].rstrip(b"\xff")) if closing else len(data)
        yield _Segment(marker, position, end, scan_end)
        position = scan_end


@dataclass(slots=True)
class _Parts:
    """Collects what is kept."""

    kept: list[bytes] = field(default_factory=lambda: [_START])
    exif: bytes | None = None
    profile: dict[int, bytes] = field(default_factory=dict)
    frame: bytes = b""
    frame_marker: int = 0
    scans: int = 0
    in_one_scan: bool = False
    zeros_are_pixels: bool = True  # whether zero bytes are codes for even surface
    # How many bits of a coefficient (component, number) are still unknown (T.81, annex G).
    unknown_bits: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, data: bytes, segment: _Segment) -> None:
        marker, body = segment.marker, data[segment.start + 2 : segment.end]
        if marker == _SCAN:
            self._add_scan(body, data[segment.end : segment.scan_end], closed=segment.scan_end < len(data))
        elif marker == 0xE1 and body.startswith(b"Exif\0"):
            self.exif = self.exif or body[6:]
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            self.profile.setdefault(body[12], body[14:])
        elif marker in _FRAMES or marker in _TABLES or _tells_colours(marker, body):
            self.kept += [bytes((0xFF, marker)), data[segment.start : segment.end]]
            if marker in _FRAMES:
                self.frame, self.frame_marker = body, marker
            elif marker == _HUFFMAN:
                self.zeros_are_pixels &= _zeros_mean_nothing_changes(body)

    def _add_scan(self, header: bytes, pixels: bytes, *, closed: bool) -> None:
        count = header[0] if header else 0
        if not self.components or len(header) < 4 + 2 * count:
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "a scan of nothing")
        self.scans += 1
        if self.scans > _MAX_SCANS:
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "too many parts")
        if not closed:
            pixels = pixels.rstrip(b"\xff")  # half a marker
            if not self.zeros_are_pixels:
                # A file that was cut off may have been filled with zeros up to its announced size.
                pixels = pixels[: len(pixels.rstrip(b"\0")) + len(_LOOKAHEAD)]
        self.kept += [b"\xff\xda", (2 + len(header)).to_bytes(2, "big"), header, pixels]
        self.in_one_scan = (
            self.scans == 1 and self.frame_marker in _SEQUENTIAL and count == len(self.components)
        )
        first, last, precision = header[1 + 2 * count : 4 + 2 * count]
        for component in header[1 : 1 + 2 * count : 2]:
            for number in range(first, min(last + 1, _COEFFICIENTS)):
                self.unknown_bits[component, number] = precision & 15

    @property
    def components(self) -> bytes:
        """The names of the components, by the frame header."""
        return self.frame[6 : 6 + 3 * self.frame[5] : 3] if len(self.frame) > 5 else b""

    def file(self) -> JpegFile:
        """What was collected."""
        if not self.scans:
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "no picture")
        profile = b"".join(self.profile[number] for number in sorted(self.profile)) or None
        start = b"".join(self.kept)
        if self.in_one_scan:
            return JpegFile(start + _LOOKAHEAD, None, self.exif, profile)
        if self.frame_marker == _PROGRESSIVE and not self._is_complete():
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "cut off")
        return JpegFile(start + _END, start + _JUNK + _END, self.exif, profile)

    def _is_complete(self) -> bool:
        return all(
            self.unknown_bits.get((component, number)) == 0
            for component in self.components
            for number in range(_COEFFICIENTS)
        )


def _zeros_mean_nothing_changes(tables: bytes) -> bool:
    """Whether the code of zeros of each Huffman table in a DHT segment stands for 0 or end of block."""
    while len(tables) > 17:
        if tables[17] != 0:
            return False
        tables = tables[17 + sum(tables[1:17]) :]
    return True


def _tells_colours(marker: int, body: bytes) -> bool:
    """JFIF and Adobe segments say what the components are; shorter ones are noise, as libjpeg has it too."""
    return (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
        marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
    )
