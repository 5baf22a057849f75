"""The sizes of one garment: which label of a chart fits a body that is known only to within a covariance.

A chart becomes edges: below its edge a measurement is content with a label, above it a larger one is needed.
A garment has to go around the largest part of a body, so the right label is the smallest one that every
measurement is content with. The label to take is the middle one, which is as likely too small as too large:
the likeliest one would be the widest, or the outermost one for all that lies beyond it. Where ranges
overlap or leave a gap, the edge lies in the middle; the shopper's preference moves it to the end that gives a
closer or a looser garment.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from wearon_contracts.sizing import (
    ChartRange,
    ChartSize,
    FitPreference,
    LabelPair,
    LabelProbability,
    Measured,
    SizeChart,
    SizeChartRow,
)
from wearon_sizing.normal import Array, below_all
from wearon_sizing.population import LENGTHS, Posterior
from wearon_sizing.size_standards import STANDARDS
from wearon_sizing.sizes import NEARLY_AS_LIKELY, preferred

# A tape that is laid twice differs by this much, in cm (standard deviation); no edge is sharper.
TAPE_CM: Final = 0.3
# Share of the garment's ease that a shopper with this preference wants. Half and half again: our choice.
EASE_SHARE: Final = {FitPreference.TIGHT: 0.5, FitPreference.REGULAR: 1.0, FitPreference.LOOSE: 1.5}
# Probabilities add up to within this.
ROUNDING: Final = 1e-9
# From this probability on the answer says that the shopper is beyond the chart.
PROBABLY: Final = 0.5
# From here on a size is said to fit; what lies beyond the chart does not count as fitting.
CLEAR: Final = 0.8
# A body this many times the largest size speaks for a mistake in the chart: one in inches, or of garments
# that were laid flat and measured across, ends at about half of what an average body is around.
MISTAKEN: Final = 1.5

NAMES: Final[dict[Measured, str]] = {
    "chest_cm": "chest",
    "waist_cm": "waist",
    "hip_cm": "hip",
    "shoulder_cm": "shoulder",
    "inseam_cm": "inseam",
}


class ChartError(Exception):
    """The chart cannot be used; the text says why, for whoever made the chart."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart that was found usable: k labels, smallest first, and n measurements.

    `edges` (k - 1, n) in cm never fall from row to row; infinite where a measurement never needs more.
    `smallest` and `largest` (n,) are the outer ends, infinite where the chart is open there.
    """

    labels: tuple[str, ...]
    names: tuple[Measured, ...]
    edges: Array
    smallest: Array
    largest: Array


def read_chart(chart: SizeChart, fit: FitPreference | None = None) -> Chart:
    """The edges of a chart for a shopper of this preference. Raises ChartError."""
    if (chart.rows is None) == (chart.standard is None):
        raise ChartError("Give either rows or a standard.")
    if chart.standard is not None:
        if chart.garment_ease_cm is not None:
            raise ChartError("A standard's figures are of bodies; garment_ease_cm goes with rows only.")
        rows = STANDARDS[chart.standard]
    else:
        rows = chart.rows or []
    names = _names(rows)
    lower, upper = _ranges(rows, names)
    fit = fit or FitPreference.REGULAR
    if chart.garment_ease_cm is not None:
        ease = _ease(chart.garment_ease_cm, names) * EASE_SHARE[fit]
        lower, upper = lower - ease, upper - ease
        # The preference is in the ease already.
        fit = FitPreference.REGULAR
    order = _order(lower, upper)
    labels = tuple(rows[place].label.strip() for place in order)
    lower, upper = lower[order], upper[order]
    _check(labels, names, lower, upper)
    edges = _edges(lower, upper, fit)
    return Chart(labels, names, edges, *_outer_ends(lower, upper, edges))


def _names(rows: Sequence[SizeChartRow]) -> tuple[Measured, ...]:
    seen = {row.label.strip() for row in rows}
    if len(seen) < len(rows):
        raise ChartError("Two rows have the same label.")
    if any(not label for label in seen):
        raise ChartError("A label is blank.")
    if any(unicodedata.category(sign).startswith("C") for label in seen for sign in label):
        raise ChartError("A label has a character that cannot be seen, such as a line break.")
    given = [tuple(name for name in LENGTHS if getattr(row, name) is not None) for row in rows]
    for row, names in zip(rows, given, strict=True):
        if not names:
            raise ChartError(f"Row {row.label!r} has no measurement.")
        if names != given[0]:
            raise ChartError(f"Rows {rows[0].label!r} and {row.label!r} have different measurements.")
    return given[0]


def _ranges(rows: Sequence[SizeChartRow], names: Sequence[Measured]) -> tuple[Array, Array]:
    """Lower and upper ends (rows, names), infinite where they are left out."""
    ends = np.empty((2, len(rows), len(names)))
    for i, row in enumerate(rows):
        for j, name in enumerate(names):
            span: ChartRange = getattr(row, name)
            if span.lower is None and span.upper is None:
                raise ChartError(f"Row {row.label!r}: {name} has neither lower nor upper.")
            ends[0, i, j] = -np.inf if span.lower is None else span.lower
            ends[1, i, j] = np.inf if span.upper is None else span.upper
            if ends[0, i, j] > ends[1, i, j]:
                raise ChartError(f"Row {row.label!r}: {name} has a lower end above its upper end.")
    return ends[0], ends[1]


def _ease(given: Mapping[Measured, float], names: Sequence[Measured]) -> Array:
    if missing := [name for name in names if name not in given]:
        raise ChartError(f"garment_ease_cm lacks {missing[0]}, which the rows have.")
    if extra := [name for name in given if name not in names]:
        raise ChartError(f"garment_ease_cm has {extra[0]}, which the rows lack.")
    return np.array([given[name] for name in names])


def _order(lower: Array, upper: Array) -> list[int]:
    """Rows from small to large. They may come in any order; `_check` sees whether there is one."""
    keys = [
        (*np.nan_to_num(low).tolist(), *np.nan_to_num(high).tolist())
        for low, high in zip(lower, upper, strict=True)
    ]
    return sorted(range(len(keys)), key=lambda place: (sum(keys[place]), keys[place]))


def _check(labels: Sequence[str], names: Sequence[Measured], lower: Array, upper: Array) -> None:
    """Every measurement must rise, or stay, from row to row, and two rows must differ somewhere."""
    for i, (small, large) in enumerate(pairwise(labels)):
        for j, name in enumerate(names):
            if np.isinf(upper[i, j]) or np.isinf(lower[i + 1, j]):
                raise ChartError(
                    f"Rows {small!r} and {large!r}: {name} is open between them. "
                    "Only the smallest size may lack lower and only the largest may lack upper."
                )
            if lower[i, j] > lower[i + 1, j] or upper[i, j] > upper[i + 1, j]:
                raise ChartError(
                    f"Rows {small!r} and {large!r} cannot be put in order: {name} gets smaller while"
                    " the rest gets larger, or one range lies inside the other."
                )
        if (lower[i] == lower[i + 1]).all() and (upper[i] == upper[i + 1]).all():
            raise ChartError(f"Rows {small!r} and {large!r} are the same in every measurement.")


def _edges(lower: Array, upper: Array, fit: FitPreference) -> Array:
    """Edges between the rows: (rows - 1, names), never falling."""
    ends = upper[:-1], lower[1:]
    edges = {
        FitPreference.TIGHT: np.maximum(*ends),
        FitPreference.REGULAR: (ends[0] + ends[1]) / 2,
        FitPreference.LOOSE: np.minimum(*ends),
    }[fit]
    # A measurement in which two sizes are the same does not tell them apart: who outgrows one outgrows both.
    same = (lower[:-1] == lower[1:]) & (upper[:-1] == upper[1:])
    for i in range(len(edges) - 1, -1, -1):
        beyond = edges[i + 1] if i + 1 < len(edges) else np.full(edges.shape[1], np.inf)
        edges[i] = np.where(same[i], beyond, edges[i])
    return edges


def _outer_ends(lower: Array, upper: Array, edges: Array) -> tuple[Array, Array]:
    """Lower end of the smallest and upper end of the largest size: (names,) each.

    A size that is given as one value reaches as far outwards as its neighbour's edge does on that side.
    """
    smallest, largest = lower[0], upper[-1]
    if len(edges):
        inner, outer = lower[1] > upper[0], lower[-1] > upper[-2]
        smallest = np.where(inner & (lower[0] == upper[0]), lower[0] - (lower[1] - edges[0]), smallest)
        largest = np.where(outer & (lower[-1] == upper[-1]), upper[-1] + (edges[-1] - upper[-2]), largest)
    return smallest, largest


@dataclass(frozen=True, slots=True)
class Chances:
    """Probabilities of a chart's labels, smallest first. `labels` (k,) add up to 1: what lies beyond the
    chart belongs to its outermost labels. `smaller`: that every measurement is below the smallest size;
    `larger`: that one is above the largest."""

    labels: Array
    smaller: float
    larger: float

    @property
    def middle(self) -> int:
        """The smallest label that is at least as likely large enough as not."""
        return int(np.argmax(np.cumsum(self.labels) >= 0.5 - ROUNDING))

    @property
    def beyond(self) -> bool:
        """Whether the body is probably beyond an end of the chart, so that no preference helps."""
        outermost = self.middle == len(self.labels) - 1
        return self.smaller >= PROBABLY or (self.larger >= PROBABLY and outermost)


def chances_of(chart: Chart, body: Posterior) -> Chances:
    """How likely each label is for this body."""
    *below, smaller, held = _below(
        chart, body, np.vstack([chart.edges, chart.smallest, chart.largest])
    ).tolist()
    return Chances(np.diff([0.0, *below, 1.0]), smaller, 1 - held)


def fitting(chart: Chart, body: Posterior, label: int) -> float:
    """Probability that this label is the right one and fits: what lies beyond the chart fits none."""
    ends = np.vstack([chart.smallest, np.minimum(chart.edges, chart.largest), chart.largest])
    below, with_it = _below(chart, body, ends[label : label + 2])
    return max(float(with_it - below), 0.0)


def _below(chart: Chart, body: Posterior, edges: Array) -> Array:
    """Probability that every measurement of the chart is below its edge: (k,) for `edges` (k, n)."""
    columns = [LENGTHS.index(name) for name in chart.names]
    covariances = body.covariances[:, columns][:, :, columns] + TAPE_CM**2 * np.eye(len(columns))
    return below_all(body.weights, body.means[:, columns], covariances, edges)


def limiting(chart: Chart, body: Posterior) -> Measured:
    """The measurement that needs the largest label; of several, the one nearest to needing the next."""
    values = [body.value(name) for name in chart.names]
    places = [_place_in_chart(chart, column, value) for column, value in enumerate(values)]
    return chart.names[int(np.argmax(places))]


def outgrown(chart: Chart, body: Posterior) -> Measured:
    """The measurement that most likely lies beyond the largest label."""
    room = [
        (chart.largest[column] - body.value(name)) / math.hypot(body.spread(name), TAPE_CM)
        for column, name in enumerate(chart.names)
    ]
    return chart.names[int(np.argmin(room))]


def _needed(chart: Chart, column: int, value: float) -> int:
    """Index of the label that this measurement alone asks for."""
    return int(np.sum(chart.edges[:, column] <= value))


def _place_in_chart(chart: Chart, column: int, value: float) -> float:
    """The index of the label that `value` needs, and how much of that label's range is used up."""
    edges = chart.edges[:, column]
    if len(edges) and not np.isfinite(edges).any():
        return -np.inf  # the same in every row, so it decides nothing
    needed = _needed(chart, column, value)
    ends = np.concatenate([[chart.smallest[column]], edges, [chart.largest[column]]])
    low, high = ends[needed], ends[needed + 1]
    if np.isfinite(low) and np.isfinite(high) and high > low:
        return needed + float((value - low) / (high - low))
    return needed + 0.5


def choose(chart: Chart, body: Posterior, fit: FitPreference | None = None) -> ChartSize:
    """The label to take, how likely each is, and why."""
    chances = chances_of(chart, body)
    labels = chances.labels.tolist()
    best = chances.middle if chances.beyond else preferred(labels, chances.middle, fit)
    beside = [i for i in (best - 1, best + 1) if 0 <= i < len(labels)]
    other = max(beside, key=labels.__getitem__, default=None)
    pair = None if other is None else (min(best, other), max(best, other))
    tie = pair is not None and (
        min(labels[i] for i in pair) >= NEARLY_AS_LIKELY * max(labels[i] for i in pair)
    )
    fits = fitting(chart, body, best)
    outgrown_by = outgrown(chart, body) if chances.larger >= PROBABLY else None
    decisive = outgrown_by if outgrown_by and best == len(labels) - 1 else limiting(chart, body)
    shown = np.diff(np.round(np.cumsum([0.0, *labels]), 3)).round(3).tolist()
    if chances.smaller >= PROBABLY:
        reasons = [f"Even {chart.labels[0]} is probably too large."]
    elif outgrown_by:
        reasons = _too_small(chart, body, best, outgrown_by)
    elif pair is not None and tie:
        reasons = _tie(chart, best, pair, decisive, fit)
    else:
        reasons = _no_tie(
            chart, body, best, decisive, clear=fits >= CLEAR, likeliest=labels[best] == max(labels)
        )
    return ChartSize(
        recommended=chart.labels[best],
        confidence=round(fits, 3),
        labels=[
            LabelProbability(label=label, probability=chance)
            for label, chance in zip(chart.labels, shown, strict=True)
        ],
        between=None if pair is None else LabelPair(lower=chart.labels[pair[0]], upper=chart.labels[pair[1]]),
        tie=tie,
        limiting_measurement=decisive,
        smaller_than_chart=round(chances.smaller, 3),
        larger_than_chart=round(chances.larger, 3),
        explanation=" ".join(reasons),
    )


def _too_small(chart: Chart, body: Posterior, best: int, outgrown_by: Measured) -> list[str]:
    if best == len(chart.labels) - 1:
        reasons = [f"Even {chart.labels[best]} is probably too small in the {NAMES[outgrown_by]}."]
    else:
        # Trousers of one length in all widths: a wider one is not longer.
        reasons = [
            f"{chart.labels[best]} is the best of this chart,"
            f" but none of its sizes is large enough in the {NAMES[outgrown_by]}."
        ]
    if body.value(outgrown_by) > MISTAKEN * chart.largest[chart.names.index(outgrown_by)]:
        reasons.append("Perhaps the chart is not in centimetres, or of garments laid flat.")
    return reasons


def _tie(
    chart: Chart, best: int, pair: tuple[int, int], decisive: Measured, fit: FitPreference | None
) -> list[str]:
    small, large = (chart.labels[i] for i in pair)
    reasons = [f"{small} and {large} are about equally likely; it depends on the {NAMES[decisive]}."]
    wishes = {(FitPreference.TIGHT, pair[0]): "closer", (FitPreference.LOOSE, pair[1]): "looser"}
    wish = wishes.get((fit, best)) if fit is not None else None
    if wish:
        reasons.append(f"{chart.labels[best]} was taken because a {wish} fit was asked for.")
    else:
        reasons.append(f"Take {small} for a closer fit and {large} for a looser one.")
    return reasons


def _no_tie(
    chart: Chart, body: Posterior, best: int, decisive: Measured, *, clear: bool, likeliest: bool
) -> list[str]:
    label = chart.labels[best]
    if clear:
        reasons = [f"{label} fits."]
    elif likeliest:
        reasons = [f"{label} is the likeliest size."]
    else:
        reasons = [f"Several sizes are possible, and {label} is in the middle of them."]
    values = [body.value(name) for name in chart.names]
    needed = {
        name: _needed(chart, column, value)
        for column, (name, value) in enumerate(zip(chart.names, values, strict=True))
    }
    least = min(needed, key=needed.__getitem__)
    if needed[least] < min(best, needed[decisive]):
        reasons.append(
            f"The {NAMES[decisive]} decides; by the {NAMES[least]} alone it would be"
            f" {chart.labels[needed[least]]}."
        )
    elif len(chart.names) > 1:
        reasons.append(f"The {NAMES[decisive]} has the least room.")
    return reasons
