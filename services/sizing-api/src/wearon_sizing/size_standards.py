"""Size charts that a request can name instead of sending rows.

None of them uses the waist: printed charts mean its narrowest place, this service measures at the navel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from wearon_contracts.sizing import ChartRange, SizeChartRow, SizeStandard
from wearon_sizing.sizes import MEN, SIZES, WOMEN

CM_PER_INCH: Final = 2.54

# Outer ends of XS and XXL in EN 13402-3, in cm of chest or bust girth.
_EN_MEN_ENDS: Final = (78.0, 129.0)
_EN_WOMEN_ENDS: Final = (74.0, 131.0)
# ASTM D5585-11e1, table 1: bust girth in inches, one body per size. Compared with the table that
# astm.org/Standards/D5585.htm shows.
_US_WOMEN_BUST: Final = {
    "00": 31.125,
    "0": 31.75,
    "2": 33.0,
    "4": 34.125,
    "6": 35.25,
    "8": 36.25,
    "10": 37.25,
    "12": 38.75,
    "14": 40.375,
    "16": 42.125,
    "18": 44.0,
    "20": 46.0,
}
# What most shops print for men's tops, inches of chest, from memory; there is no standard that shops follow.
_US_MEN_CHEST: Final = {
    "XS": (30, 32),
    "S": (34, 36),
    "M": (38, 40),
    "L": (42, 44),
    "XL": (46, 48),
    "XXL": (50, 52),
}
_UK_MEN_CHEST: Final = {
    "XS": (32, 34),
    "S": (35, 37),
    "M": (38, 40),
    "L": (41, 43),
    "XL": (44, 46),
    "XXL": (47, 49),
}
# BS 3666:1982: lower ends of bust and hip in cm, every range 4 cm wide. The gaps of 1 cm between the larger
# sizes are the standard's own. Written down from memory: the standard is sold, no copy of it was at hand.
_UK_WOMEN_LOWER: Final = {
    "8": (78, 83),
    "10": (82, 87),
    "12": (86, 91),
    "14": (90, 95),
    "16": (95, 100),
    "18": (100, 105),
    "20": (105, 110),
    "22": (110, 115),
    "24": (115, 120),
}
_UK_WOMEN_WIDTH_CM: Final = 4


def _chest(ranges: Iterable[tuple[str, float, float]], unit_cm: float = 1.0) -> list[SizeChartRow]:
    return [
        SizeChartRow(
            label=label,
            chest_cm=ChartRange(lower=round(lower * unit_cm, 1), upper=round(upper * unit_cm, 1)),
        )
        for label, lower, upper in ranges
    ]


def _letters(edges: tuple[float, ...], ends: tuple[float, float]) -> list[SizeChartRow]:
    lower, upper = (ends[0], *edges), (*edges, ends[1])
    return _chest(zip([size.value for size in SIZES], lower, upper, strict=True))


def _inches(ranges: Mapping[str, tuple[int, int]]) -> list[SizeChartRow]:
    return _chest(((label, *ends) for label, ends in ranges.items()), CM_PER_INCH)


STANDARDS: Final[dict[SizeStandard, list[SizeChartRow]]] = {
    SizeStandard.EN_13402_MEN: _letters(MEN, _EN_MEN_ENDS),
    SizeStandard.EN_13402_WOMEN: _letters(WOMEN, _EN_WOMEN_ENDS),
    SizeStandard.US_MEN: _inches(_US_MEN_CHEST),
    SizeStandard.US_WOMEN: _chest(
        ((label, bust, bust) for label, bust in _US_WOMEN_BUST.items()), CM_PER_INCH
    ),
    SizeStandard.UK_MEN: _inches(_UK_MEN_CHEST),
    SizeStandard.UK_WOMEN: [
        SizeChartRow(
            label=label,
            chest_cm=ChartRange(lower=bust, upper=bust + _UK_WOMEN_WIDTH_CM),
            hip_cm=ChartRange(lower=hip, upper=hip + _UK_WOMEN_WIDTH_CM),
        )
        for label, (bust, hip) in _UK_WOMEN_LOWER.items()
    ],
}
