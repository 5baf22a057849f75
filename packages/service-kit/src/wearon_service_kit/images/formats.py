"""What a file is, told by its first bytes: a picture we open, or something else with an error of its own.

What the server calls the file is not asked: browsers derive the type from the name, and stores keep it.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.errors import ImageRefused

ImageFormat = Literal["JPEG", "PNG", "WEBP", "AVIF"]

IDENTIFY_BYTES: Final = 1024  # from so many first bytes a file is told, if it can be told at all

# Four-letter codes of the ISO base media file format (ISO/IEC 14496-12); HEIC's in 23008-12.
_HEIC_BRANDS: Final = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
_AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))

_SIGNATURE_BYTES: Final = 12  # less is no file of these kinds, whatever it begins like
_E: Final = ErrorCode
_SIGNATURES: Final[tuple[tuple[int, bytes, str, ErrorCode], ...]] = (
    (0, b"GIF8", "GIF", _E.IMAGE_GIF),
    (0, b"%PDF-", "PDF", _E.IMAGE_PDF),
    (4, b"ftypcrx ", "Canon raw", _E.IMAGE_TYPE_REFUSED),
    (4, b"ftyp", "MP4 or QuickTime", _E.IMAGE_VIDEO),
    (4, b"moov", "QuickTime", _E.IMAGE_VIDEO),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska", _E.IMAGE_VIDEO),
    (8, b"AVI ", "AVI", _E.IMAGE_VIDEO),
    (0, b"FLV\1", "Flash video", _E.IMAGE_VIDEO),
    (0, b"\0\0\1\xba", "MPEG", _E.IMAGE_VIDEO),
    (0, b"\xff\x0a", "JPEG XL", _E.IMAGE_TYPE_REFUSED),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL", _E.IMAGE_TYPE_REFUSED),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000", _E.IMAGE_TYPE_REFUSED),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", _E.IMAGE_TYPE_REFUSED),
    (0, b"II*\0", "TIFF or camera raw", _E.IMAGE_TYPE_REFUSED),
    (0, b"MM\0*", "TIFF or camera raw", _E.IMAGE_TYPE_REFUSED),
    (0, b"II+\0", "TIFF", _E.IMAGE_TYPE_REFUSED),
    (0, b"MM\0+", "TIFF", _E.IMAGE_TYPE_REFUSED),
    (0, b"IIRO", "camera raw", _E.IMAGE_TYPE_REFUSED),
    (0, b"FUJIFILM", "camera raw", _E.IMAGE_TYPE_REFUSED),
    (0, b"BM", "BMP", _E.IMAGE_TYPE_REFUSED),
    (0, b"\0\0\1\0", "ICO", _E.IMAGE_TYPE_REFUSED),
    (0, b"8BPS", "Photoshop", _E.IMAGE_TYPE_REFUSED),
    (0, b"PK\3\4", "ZIP", _E.IMAGE_TYPE_REFUSED),
    (0, b"\x1f\x8b", "gzip", _E.IMAGE_TYPE_REFUSED),
    (0, b"RIFF", "RIFF", _E.IMAGE_TYPE_REFUSED),
)
_BEFORE_MARKUP: Final = re.compile(rb"(?:\s|<\?.*?\?>|<!--.*?-->)*", re.DOTALL)
_HTML: Final = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|script|style|title|meta|link|div|p|br|h1|a|table|iframe|center)\b",
    re.IGNORECASE,
)
_SVG: Final = re.compile(rb"<!doctype\s+svg|<(?:\w+:)?svg\b", re.IGNORECASE)
_UTF_16: Final = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def sniff(data: bytes | bytearray) -> ImageFormat | None:
    """The format that `data` begins like, or None for anything else (and for fewer than 12 bytes)."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return "AVIF" if _brands(data) & _AVIF_BRANDS else None


def refusal_of(data: bytes | bytearray) -> ImageRefused:
    """Why `data`, for which `sniff` found no format, is not opened; its first 1,024 bytes are looked at."""
    start = bytes(data[:IDENTIFY_BYTES])
    if not start:
        return ImageRefused(ErrorCode.IMAGE_EMPTY)
    if _brands(start) & _HEIC_BRANDS:
        return ImageRefused(ErrorCode.IMAGE_HEIC, "HEIC")
    for offset, signature, name, code in _SIGNATURES:
        if len(start) >= _SIGNATURE_BYTES and start.startswith(signature, offset):
            return ImageRefused(code, name)
    return _refusal_of_text(start)


def _refusal_of_text(start: bytes) -> ImageRefused:
    encoding = _UTF_16.get(start[:2])
    text = start.decode(encoding, "ignore").encode() if encoding else start
    text = text.removeprefix(b"\xef\xbb\xbf")
    markup = text[_match_end(_BEFORE_MARKUP, text) :]
    if _SVG.match(markup):
        return ImageRefused(ErrorCode.IMAGE_SVG, "SVG")
    if _HTML.match(markup):
        return ImageRefused(ErrorCode.IMAGE_WEB_PAGE, "HTML")
    if markup[:1] in (b"<", b"{", b"["):
        return ImageRefused(ErrorCode.IMAGE_TYPE_REFUSED, "XML" if markup[:1] == b"<" else "JSON")
    return ImageRefused(ErrorCode.IMAGE_TYPE_REFUSED, "unknown")


def _match_end(pattern: re.Pattern[bytes], text: bytes) -> int:
    found = pattern.match(text)
    return found.end() if found else 0


def _brands(data: bytes | bytearray) -> frozenset[bytes]:
    """The brands that an `ftyp` box names: what kinds of file this one may be read as."""
    if data[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(data[:4], "big"), len(data), IDENTIFY_BYTES)
    return frozenset(bytes(data[n : n + 4]) for n in (8, *range(16, end - 3, 4)))
