"""Colours from an embedded profile, or from a description of one, to sRGB on white."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Final

from PIL import Image, ImageCms

_MAX_PROFILE_BYTES: Final = 4 * 1024 * 1024
_PROFILE_SPACES: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """`image` (L, LA, RGB, RGBA or CMYK) as RGB in sRGB, laid onto white where it is transparent.

    `profile`: an ICC profile; one that is broken, or meant for another kind of picture, is ignored.
    """
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colours = image if alpha is None else image.convert(image.mode.removesuffix("A"))
    converted = _convert(colours, profile) if profile else None
    if converted is None:
        converted = colours.convert("RGB")
    if alpha is None:
        return converted
    white = Image.new("RGB", image.size, "white")
    white.paste(converted, mask=alpha)
    return white


def _convert(image: Image.Image, profile: bytes) -> Image.Image | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile[:_MAX_PROFILE_BYTES]))
        if source.profile.xcolor_space.strip() != _PROFILE_SPACES[image.mode]:
            return None
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Primaries:
    """CIE 1931 x and y of white and of the three primaries."""

    white_x: float
    white_y: float
    red_x: float
    red_y: float
    green_x: float
    green_y: float
    blue_x: float
    blue_y: float


_SRGB: Final = Primaries(0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# ITU-T H.273, table 2. 2 means unspecified: what PNG and AVIF then take is sRGB.
_PRIMARIES: Final = {
    1: _SRGB,
    2: _SRGB,
    5: Primaries(0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: Primaries(0.3127, 0.3290, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: Primaries(0.3127, 0.3290, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: Primaries(0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: Primaries(0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: Primaries(0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
_SDR_WHITE: Final = 203.0  # cd/m², ITU-R BT.2408: where HDR signals put the white of ordinary pictures
_TABLE_ENTRIES: Final = 1024
# libpng's own tolerance: gammas that lie closer together are taken for the same.
_GAMMA_TOLERANCE: Final = 0.05
_LARGEST_GAMMA: Final = 10.0

Curve = Callable[[float], float]
"""From a sample to light, both 0 to 1."""


def _srgb_curve(sample: float) -> float:
    return sample / 12.92 if sample <= 0.04045 else float(((sample + 0.055) / 1.055) ** 2.4)


def _power(exponent: float) -> Curve:
    return lambda sample: float(sample**exponent)


def _pq_curve(sample: float) -> float:
    """SMPTE ST 2084 (ITU-R BT.2100, table 4); what is brighter than ordinary white is cut to it."""
    power = sample ** (1 / 78.84375)
    light = 10_000 * (max(power - 0.8359375, 0.0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return min(1.0, float(light) / _SDR_WHITE)


def _hlg_curve(sample: float) -> float:
    """ITU-R BT.2100, table 5, on a screen of 1,000 cd/m²; cut as above."""
    scene = (
        sample**2 / 3
        if sample <= 0.5
        else (2.718281828459045 ** ((sample - 0.55991073) / 0.17883277) + 0.28466892) / 12
    )
    return min(1.0, 1000 * float(scene**1.2) / _SDR_WHITE)


# ITU-T H.273, table 3. The curves of television (1, 6, 14, 15) are shown like sRGB's, as browsers do.
_CURVES: Final[dict[int, Curve]] = {
    **dict.fromkeys((1, 2, 6, 13, 14, 15), _srgb_curve),
    4: _power(2.2),
    5: _power(2.8),
    8: _power(1.0),
    16: _pq_curve,
    18: _hlg_curve,
}


def profile_of_code_points(primaries: int, transfer: int, *, grey: bool) -> tuple[bool, bytes | None]:
    """Whether the code points of ITU-T H.273 are known, and an ICC profile, or None where they mean sRGB."""
    chromaticities, curve = _PRIMARIES.get(primaries), _CURVES.get(transfer)
    if chromaticities is None or curve is None:
        return False, None
    if curve is _srgb_curve and (grey or chromaticities is _SRGB):
        return True, None
    return True, _profile(chromaticities, curve, grey=grey)


def profile_of_gamma(gamma: float, primaries: Primaries | None, *, grey: bool) -> bytes | None:
    """An ICC profile for a PNG's gAMA (exponent from light to samples) and cHRM; None where they mean sRGB.

    A gamma of 1/2.2 with sRGB's primaries or none is how sRGB is written for old programs.
    """
    if not 1 / _LARGEST_GAMMA <= gamma <= _LARGEST_GAMMA:
        return None
    if primaries is None or grey:
        primaries = _SRGB
    like_srgb = all(abs(a - b) < 0.002 for a, b in zip(astuple(primaries), astuple(_SRGB), strict=True))
    if like_srgb and abs(gamma * 2.2 - 1) <= _GAMMA_TOLERANCE:
        return None
    return _profile(primaries, _power(1 / gamma), grey=grey)


# Bradford cone response, as the ICC specification (ICC.1:2022, annex E) uses it, and its white point D50.
_BRADFORD: Final = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_D50: Final = (0.9642, 1.0, 0.8249)
Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]


def _profile(primaries: Primaries, curve: Curve, *, grey: bool) -> bytes | None:
    """An ICC profile of version 2 (ICC.1:2001-04); None for primaries that span no colours."""
    samples = [round(65535 * curve(n / (_TABLE_ENTRIES - 1))) for n in range(_TABLE_ENTRIES)]
    table = b"curv" + bytes(4) + struct.pack(f">I{_TABLE_ENTRIES}H", _TABLE_ENTRIES, *samples)
    tags = {b"wtpt": _xyz(_D50)}
    if grey:
        tags[b"kTRC"] = table
    else:
        columns = _adapted(primaries)
        if columns is None:
            return None
        for letter, column in zip((b"r", b"g", b"b"), columns, strict=True):
            tags[letter + b"XYZ"] = _xyz(column)
            tags[letter + b"TRC"] = table
    directory, content = b"", b""
    start = 128 + 4 + 12 * len(tags)
    places: dict[bytes, int] = {}
    for name, tag in tags.items():
        if tag not in places:
            places[tag] = start + len(content)
            content += tag
        directory += name + struct.pack(">II", places[tag], len(tag))
    header = struct.pack(
        ">I4xI4s4s4s12x4s4x24x3I48x",
        start + len(content),
        0x02400000,
        b"mntr",
        b"GRAY" if grey else b"RGB ",
        b"XYZ ",
        b"acsp",
        *(round(value * 65536) for value in _D50),
    )
    return header + struct.pack(">I", len(tags)) + directory + content


def _xyz(value: Vector) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(part * 65536) for part in value))


def _adapted(primaries: Primaries) -> Matrix | None:
    """XYZ of the three primaries at full strength, adapted from their white to D50."""
    p = primaries
    if min(p.white_y, p.red_y, p.green_y, p.blue_y) <= 0:
        return None
    xyz = [
        (x / y, 1.0, (1 - x - y) / y)
        for x, y in ((p.red_x, p.red_y), (p.green_x, p.green_y), (p.blue_x, p.blue_y))
    ]
    white = (p.white_x / p.white_y, 1.0, (1 - p.white_x - p.white_y) / p.white_y)
    inverse = _inverse((_vector(c[0] for c in xyz), _vector(c[1] for c in xyz), _vector(c[2] for c in xyz)))
    back = _inverse(_BRADFORD)
    if inverse is None or back is None:
        return None
    strengths = _times(inverse, white)
    seen, wanted = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    if min(*strengths, *seen) <= 0:
        return None
    adapted = []
    for column, strength in zip(xyz, strengths, strict=True):
        cones = _times(_BRADFORD, _vector(part * strength for part in column))
        adapted.append(_times(back, _vector(c * w / s for c, w, s in zip(cones, wanted, seen, strict=True))))
    if max(abs(part) for column in adapted for part in column) > 8:
        return None
    return adapted[0], adapted[1], adapted[2]


def _vector(parts: Iterable[float]) -> Vector:
    one, two, three = parts
    return one, two, three


def _times(matrix: Matrix, vector: Vector) -> Vector:
    return _vector(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _inverse(matrix: Matrix) -> Matrix | None:
    """By cofactors; None for a matrix without one."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < 1e-6:
        return None
    cofactors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    one, two, three = (_vector(part / determinant for part in row) for row in cofactors)
    return one, two, three
