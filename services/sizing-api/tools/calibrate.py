"""Fits what a photo adds to the population model: method.json, front.npz, front_nets.npz and side.npz in
src/wearon_sizing.

    python services/sizing-api/tools/calibrate.py --ansur FOLDER --renders FOLDER/train --earlier FOLDER/train

Every picture of `--renders` is read as it is and in one varied look, mirrored, zoomed, re-lit and
re-compressed; those of `--earlier`, renders of other bodies with other clothes, as they are. All errors that
are printed, and the spreads that are stored, come from bodies that were not used for fitting (six folds, no
body in two of them). The same result every time.
"""
# ruff: noqa: T201 - printing is part of what this is for

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mediapipe
import numpy as np
from fit_nets import fit_nets
from fit_population import People, read_ansur, rounded
from numpy.typing import NDArray
from readings import Readings, read_all
from renders import Render, read_renders

from wearon_contracts.sizing import Gender
from wearon_sizing.correction import (
    LIMIT,
    PLACE_STEP,
    Correction,
    Space,
    bells,
    familiarity,
    likeness,
    read_twice,
    squared_distances,
)
from wearon_sizing.inputs import INPUTS, SIDE_INPUTS
from wearon_sizing.measuring import QUALITY, credits_at, numbers_read, quality_terms
from wearon_sizing.population import LENGTHS, SEXES, Population, load_population
from wearon_sizing.reading_nets import ReadingNets, kept_nets
from wearon_sizing.silhouette import Array

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "wearon_sizing"
METHOD_VERSION = "8"
LOOKS = (0, 3)
EARLIER_LOOKS = (0,)
FOLDS = 6
DIRECTIONS = 0.7
"""Share of the inputs' main directions that are kept: with these, errors are those of all to 0.3 %. With
fewer, a photo that is foreign in the others looks familiar."""
FEW_INPUTS = 50
"""Of so many inputs or fewer all directions are kept."""
# How much of what a picture says is noise, beside the kernel's height of 10.5, for what is read in it and for
# what follows from that. Chosen by cross-validation; half and twice as much change errors by 1 to 2 %.
READING_NOISE = 0.2
NOISE = 1.0
# Of the correction that renders ask for, what is taken for photographs. On 21 real people corrections of the
# earlier method did best at 0.3 of their size; today's are already as small as renders of people left out
# ask for, and fade for unfamiliar photos, so only a margin is taken, and only where the weight is the better
# witness. It is a guess.
TAKEN_WITH_WEIGHT = 0.9
SEX_TAKEN = 0.5
"""Of the logarithm of the odds for a sex, as renders give it, what is taken for photographs: a guess."""
SEX_DAMPING = 100.0
NEWTON_STEPS = 30
EIGHTY_PERCENT = 1.2816
SPREAD_DAMPING = 0.02
USUAL = 0.1
"""A picture is as familiar as can be when it is more like the others than this share of them."""
BEST = 0.95
LEVELS = ("chest", "waist", "hip")


@dataclass(frozen=True)
class Sample:
    """Photos of one kind and what is true of the people: inputs (n, inputs), expected lengths (n, 5) in cm,
    targets (n, outputs) in cm, NaN where nothing is known; bodies (n,)."""

    inputs: Array
    expected: Array
    targets: Array
    bodies: NDArray[np.intp]

    def part(self, rows: NDArray[Any]) -> Sample:
        return Sample(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Fit:
    """One correction and the arrays to keep it as."""

    correction: Correction
    places: NDArray[np.int16]
    expected: NDArray[np.float16]


def offsets_of(gaps: Array, sexes: NDArray[np.intp]) -> Array:
    """(2, columns): mean of the gaps between truth and expectation for each sex."""
    return np.array([gaps[sexes == sex].mean(axis=0) for sex in range(len(SEXES))])


def space_of(sample: Sample) -> Space:
    mean, scale = sample.inputs.mean(axis=0), sample.inputs.std(axis=0) + 1e-9
    z = np.clip((sample.inputs - mean) / scale, -LIMIT, LIMIT)
    count = z.shape[1] if z.shape[1] <= FEW_INPUTS else round(DIRECTIONS * z.shape[1])
    directions = np.linalg.svd(z, full_matrices=False)[2][:count].T
    return Space(mean, scale, directions, sample.expected.mean(axis=0), sample.expected.std(axis=0))


def fit(sample: Sample, noise: float) -> Fit:
    space = space_of(sample)
    # Kept in coarse steps; what is fitted must be what is kept.
    places = np.round(space.directions(sample.inputs) / PLACE_STEP).astype("i2")
    lengths = (sample.expected - space.expected_mean) / space.expected_scale
    expected = np.clip(lengths, -LIMIT, LIMIT).astype("f2")
    points = space.scaled(places * PLACE_STEP, expected.astype(np.float64))
    kernel = bells(squared_distances(points, points)) + noise * np.eye(len(points))
    usual = np.nanmean(sample.targets, axis=0)
    wanted, known = sample.targets - usual, ~np.isnan(sample.targets)
    strengths = np.zeros_like(wanted)
    whole = known.all(axis=0)
    strengths[:, whole] = np.linalg.solve(kernel, wanted[:, whole])
    for output in np.flatnonzero(~whole).tolist():
        rows = np.flatnonzero(known[:, output])
        strengths[rows, output] = np.linalg.solve(kernel[np.ix_(rows, rows)], wanted[rows, output])
    return Fit(Correction(space, points, strengths, usual, 1.0), places, expected)


@dataclass(frozen=True)
class Unseen:
    """What came out for bodies that were left out: outputs (n, outputs), likeness to others (n,)."""

    outputs: Array
    likeness: Array


def left_out(sample: Sample, noise: float) -> Unseen:
    """Every row from a fit without its body's fold."""
    outputs, alike = np.zeros_like(sample.targets), np.zeros(len(sample.bodies))
    for out in folds_of(sample.bodies):
        fitted = fit(sample.part(~out), noise).correction
        squared = squared_distances(
            fitted.space.place(sample.inputs[out], sample.expected[out]), fitted.points
        )
        outputs[out] = fitted.usual + bells(squared) @ fitted.strengths
        alike[out] = likeness(squared)
    return Unseen(outputs, alike)


def fit_credit(added: Array, gaps: Array, familiar: Array, ease: Array) -> Array:
    """(2, 5): by which share of the correction `added` (n, 5), as a line in the ease, the people who were
    left out are nearest to the truth. `gaps` (n, 5) between truth and expectation."""
    credit = np.zeros((2, len(LENGTHS)))
    for index in range(len(LENGTHS)):
        step = added[:, index] * familiar
        terms = np.column_stack([step, step * np.clip(ease, 0, 30) / 10])
        credit[:, index] = np.linalg.lstsq(terms, gaps[:, index], rcond=None)[0]
    return credit


def folds_of(bodies: NDArray[np.intp]) -> list[NDArray[np.bool_]]:
    """FOLDS times the rows (n,) to leave out; each row once, and those of one body together."""
    order = np.random.default_rng(20240501).permutation(bodies.max() + 1)
    fold_of_body = np.empty_like(order)
    fold_of_body[order] = np.arange(len(order)) % FOLDS
    return [fold_of_body[bodies] == fold for fold in range(FOLDS)]


def fit_spread(terms: Array, errors: Array) -> Array:
    """(QUALITY, 5): logarithms of the standard deviations as weighted sums of the terms, so that 80 % of the
    errors lie inside 80 % intervals."""
    damping = SPREAD_DAMPING * len(terms) * np.diag([0.0, *terms[:, 1:].var(axis=0)])
    sizes = np.log(np.maximum(np.abs(errors), 0.05))
    slopes = np.linalg.solve(terms.T @ terms + damping, terms.T @ sizes)
    ratios = np.abs(errors) / np.exp(terms @ slopes)
    slopes[0] += np.log(np.quantile(ratios, 0.8, axis=0) / EIGHTY_PERCENT)
    return slopes.astype(np.float64)


def expected_lengths(population: Population, renders: list[Render], weighed: bool) -> Array:
    return np.array(
        [
            population.sexes[render.gender].people(render.height, render.weight if weighed else None).mean
            for render in renders
        ]
    )


def column(renders: list[Render], *names: str) -> Array:
    """NaN where a table does not have it."""
    return np.array([[render.truth.get(name, np.nan) for name in names] for render in renders])


def widths_of(renders: list[Render], across: str) -> Array:
    """(n, WIDTHS) in cm; `across`: breadth or depth."""
    widths = column(
        renders,
        *(f"clothed_{across}_{level}_cm" for level in LEVELS),
        *(f"{level}_{across}_cm" for level in LEVELS),
        *(f"ease_{level}_cm" for level in LEVELS),
    )
    # In the earlier renders clothes are an even layer around the body.
    layer = column(renders, "clothing_mm")[:, 0] / 10
    body = widths[:, 3:6]
    layered = np.column_stack([body + 2 * layer[:, None], body, np.repeat(2 * np.pi * layer[:, None], 3, 1)])
    return np.where(np.isnan(widths), layered, widths)


def report(
    title: str, blocks: NDArray[np.str_], *, errors: Array, no_photo: Array, spreads: Array | None
) -> None:
    print(f"\n{title}: mean absolute error (no photo), inside the 80 % interval; {', '.join(LENGTHS)}")
    for block in sorted(set(blocks.tolist())):
        rows = blocks == block
        off, without = np.abs(errors)[rows], np.abs(no_photo)[rows].mean(axis=0)
        cells = " ".join(
            f"{error:5.2f} ({other:5.2f})" for error, other in zip(off.mean(axis=0), without, strict=True)
        )
        if spreads is not None:
            held = (off <= EIGHTY_PERCENT * spreads[rows]).mean(axis=0)
            cells += "  " + " ".join(f"{share:3.0%}" for share in held)
        print(f"{block:26s} {rows.sum():4d}  {cells}")


def kept(name: str, fitted: Fit, usual_likeness: float) -> dict[str, NDArray[Any]]:
    """The arrays of one correction under its name."""
    space = fitted.correction.space
    return {
        f"{name}_mean": space.mean.astype("f4"),
        f"{name}_scale": space.scale.astype("f4"),
        f"{name}_basis": space.basis.astype("f4"),
        f"{name}_places": fitted.places,
        f"{name}_expected": fitted.expected,
        f"{name}_expected_mean": space.expected_mean,
        f"{name}_expected_scale": space.expected_scale,
        f"{name}_strengths": fitted.correction.strengths.astype("f4"),
        f"{name}_usual": fitted.correction.usual,
        f"{name}_usual_likeness": np.array(usual_likeness),
    }


@dataclass(frozen=True)
class Photos:
    """Pictures of one view: renders and readings (n, INPUTS or SIDE_INPUTS), numbers of bodies (n,), places
    of sexes (n,), whether from the newer renders (n,) and read as they are (n,)."""

    renders: list[Render]
    inputs: Array
    bodies: NDArray[np.intp]
    sexes: NDArray[np.intp]
    new: NDArray[np.bool_]
    plain: NDArray[np.bool_]


def photos_of(new: tuple[list[Render], Readings], old: tuple[list[Render], Readings], view: str) -> Photos:
    """`view`: front or side; all of the earlier ones are from the front."""
    renders, inputs, is_new, first = [], [], [], []
    for source, readings in (new, old):
        for row, owner in enumerate(readings.owners.tolist()):
            if view == ("front" if source is old[0] else source[owner].view):
                renders.append(source[owner])
                inputs.append(readings.values[row, : len(INPUTS) if view == "front" else None])
                is_new.append(source is new[0])
                first.append(bool(readings.first_look[row]))
    names = {name: number for number, name in enumerate(sorted({each.body for each in new[0] + old[0]}))}
    return Photos(
        renders,
        np.array(inputs),
        np.array([names[render.body] for render in renders]),
        np.array([SEXES.index(render.gender) for render in renders]),
        np.array(is_new),
        np.array(first),
    )


def definitions(photos: Photos, population: Population) -> Array:
    """(2, 5) per sex: how much larger the earlier renders' lengths are than the newer ones' for the same
    height and weight, in cm; 0 where they have none."""
    gaps = column(photos.renders, *LENGTHS) - expected_lengths(population, photos.renders, weighed=True)
    new, old = (offsets_of(gaps[rows], photos.sexes[rows]) for rows in (photos.new, ~photos.new))
    return np.nan_to_num(old - new)


@dataclass(frozen=True)
class Read:
    """What was read in photos of people who were left out: `outputs` (n, outputs), the last ones WIDTHS; how
    `familiar` (n,) they look; the loosest `ease` (n,) in cm; and the `arrays` to keep."""

    outputs: Array
    familiar: Array
    ease: Array
    arrays: dict[str, NDArray[Any]]


def read_in(photos: Photos, sample: Sample, name: str, by_nets: Array | None = None) -> Read:
    """`by_nets` (n, outputs): what networks read beside the process, where there are any."""
    unseen = left_out(sample, READING_NOISE)
    outputs = unseen.outputs if by_nets is None else read_twice(unseen.outputs, by_nets)
    usual = float(np.quantile(unseen.likeness[photos.new], USUAL))
    return Read(
        outputs,
        familiarity(unseen.likeness, usual),
        np.maximum(outputs[:, -len(LEVELS) :].max(axis=1), 0),
        kept(name, fit(sample, READING_NOISE), usual),
    )


def nets_of(sample: Sample) -> tuple[Array, ReadingNets]:
    """What networks read for people who were left out (n, outputs), and those trained on all."""
    read = np.zeros_like(sample.targets)
    for number, out in enumerate(folds_of(sample.bodies), start=1):
        print(f"training networks without fold {number} of {FOLDS}", file=sys.stderr)
        some = sample.part(~out)
        space = space_of(some)
        nets = fit_nets(space.for_nets(some.inputs, some.expected), some.targets)
        read[out] = nets(space.for_nets(sample.inputs[out], sample.expected[out]))
    space = space_of(sample)
    return read, fit_nets(space.for_nets(sample.inputs, sample.expected), sample.targets)


def sex_scores(seen: Array, sexes: NDArray[np.intp]) -> tuple[NDArray[np.floating[Any]], float]:
    """Slopes (directions,) and start of a ridge regression that says -1 and 1 for the two sexes."""
    wanted = 2.0 * sexes - 1
    damped = seen.T @ seen + SEX_DAMPING * np.eye(seen.shape[1])
    start = float(wanted.mean())
    return np.linalg.solve(damped, seen.T @ (wanted - start)), start


def fit_sex(photos: Photos, sample: Sample) -> dict[str, NDArray[Any]]:
    """The arrays of the line that tells the sex; its odds come from people who were left out."""
    scores = np.zeros(len(photos.sexes))
    for out in folds_of(sample.bodies):
        space = space_of(sample.part(~out))
        slopes, start = sex_scores(space.directions(sample.inputs[~out]), photos.sexes[~out])
        scores[out] = start + space.directions(sample.inputs[out]) @ slopes
    right = (scores > 0) == photos.sexes
    # Logistic regression of the sexes on the scores by Newton's method.
    terms, line = np.column_stack([np.ones(len(scores)), scores]), np.zeros(2)
    for _ in range(NEWTON_STEPS):
        likely = 1 / (1 + np.exp(-terms @ line))
        curvature = terms.T @ (terms * (likely * (1 - likely))[:, None])
        line += np.linalg.solve(curvature, terms.T @ (photos.sexes - likely))
    told = {"newer": photos.new, "earlier": ~photos.new}
    print(
        "\nsex told by the photo: " + ", ".join(f"{n} {right[rows].mean():.1%}" for n, rows in told.items())
    )
    slopes, start = sex_scores(space_of(sample).directions(sample.inputs), photos.sexes)
    return {
        "sex_slopes": (SEX_TAKEN * line[1] * slopes).astype("f4"),
        "sex_start": np.array(SEX_TAKEN * (line[0] + line[1] * start)),
    }


@dataclass(frozen=True)
class Evidence:
    """Photos of people who were left out, for one step: what they `added` (n, 5), the `gaps` (n, 5) that were
    to be closed, `terms` (n, QUALITY), `blocks` (n,), and `no_photo` (n, 5), how far the population model
    alone is off; in cm."""

    added: Array
    gaps: Array
    terms: Array
    blocks: NDArray[np.str_]
    no_photo: Array

    def part(self, rows: NDArray[np.bool_]) -> Evidence:
        return Evidence(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def conclude(name: str, evidence: Evidence, offsets: Array, taken: float) -> tuple[dict[str, Any], Array]:
    """The step for method.json, and standard deviations (n, 5); prints the errors."""
    ease = 10 * evidence.terms[:, QUALITY.index("looseness")]
    familiar = 1 - evidence.terms[:, QUALITY.index("unfamiliar")]
    credit = taken * fit_credit(evidence.added, evidence.gaps, familiar, ease)
    worth = familiar[:, None] * credits_at(credit, ease)
    errors = worth * evidence.added - evidence.gaps
    spread = fit_spread(evidence.terms, errors)
    spreads = np.exp(evidence.terms @ spread)
    report(name, evidence.blocks, errors=errors, no_photo=evidence.no_photo, spreads=spreads)
    return {
        "credit": rounded(credit.tolist()),
        "offsets": rounded(offsets.tolist()),
        "spread": rounded(spread.tolist()),
        "correlations": rounded(np.corrcoef((errors / spreads).T).tolist()),
    }, spreads


def report_old(name: str, evidence: Evidence) -> None:
    """What the correction is worth on the earlier renders, by the newer ones' definitions."""
    report(
        f"{name}, earlier renders",
        evidence.blocks,
        errors=evidence.added - evidence.gaps,
        no_photo=evidence.no_photo,
        spreads=None,
    )


def report_limit(name: str, photos: Photos, expected: Array, evidence: Evidence) -> None:
    """What the true breadths of clothed bodies are worth to who cannot tell how loose the clothes are."""
    breadths = widths_of(photos.renders, "breadth")[:, : len(LEVELS)]
    numbers = numbers_read(photos.inputs[:, INPUTS.index("height")], photos.sexes, expected, breadths)
    rows = photos.new & photos.plain
    sample = Sample(numbers, expected, evidence.gaps, photos.bodies).part(rows)
    report(
        f"{name}, clothed breadths read without error",
        evidence.blocks[rows],
        errors=left_out(sample, NOISE).outputs - sample.targets,
        no_photo=evidence.no_photo[rows],
        spreads=None,
    )


@dataclass(frozen=True)
class Views:
    """What was read in all photos, of people who were left out. `truth`, `unweighed` (n, 5) in cm: lengths of
    the people in front photos, by the newer renders' definitions, and as expected without the weight.
    `numbers` (n, numbers): what the second correction works from. Photos `ones` from the front and `others`
    from the side show the same people; `pairs` names the blocks of both."""

    front: Photos
    truth: Array
    unweighed: Array
    seen: Read
    seen_side: Read
    numbers: Array
    ones: NDArray[np.intp]
    others: NDArray[np.intp]
    pairs: NDArray[np.str_]

    @property
    def blocks(self) -> NDArray[np.str_]:
        """(n,) of the front photos."""
        return np.array([render.block for render in self.front.renders])


def calibrate(
    new: tuple[list[Render], Readings], old: tuple[list[Render], Readings]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What goes into method.json, and the arrays of the files beside it by name; prints the errors."""
    population = load_population()
    views, arrays = read_views(population, new, old)
    steps: dict[str, Any] = {}
    for weighed in (False, True):
        known = known_of(population, views, weighed=weighed)
        front, spreads = front_step(views, known, arrays)
        if not weighed:
            measured = [
                render for render, is_new in zip(views.front.renders, views.front.new, strict=True) if is_new
            ]
            best = narrowing_of_the_best(population, measured, spreads)
        side = side_step(views, known, arrays)
        steps |= {step_name("front", weighed): front, step_name("side", weighed): side}
    return {"steps": steps, "best_narrowing": round(best, 4)}, arrays


def read_views(
    population: Population, new: tuple[list[Render], Readings], old: tuple[list[Render], Readings]
) -> tuple[Views, dict[str, dict[str, Any]]]:
    """What is read in the photos, and the arrays of what reads it."""
    front, side = (photos_of(new, old, view) for view in ("front", "side"))
    layouts = definitions(front, population)
    truth = column(front.renders, *LENGTHS) - ~front.new[:, None] * layouts[front.sexes]
    unweighed = expected_lengths(population, front.renders, weighed=False)
    gaps = truth - unweighed - offsets_of((truth - unweighed)[front.new], front.sexes[front.new])[front.sexes]
    targets = np.column_stack([gaps, widths_of(front.renders, "breadth")])
    frontal = Sample(front.inputs, unweighed, targets, front.bodies)
    by_nets, nets = nets_of(frontal)
    seen = read_in(front, frontal, "front", by_nets)
    profile = Sample(
        side.inputs,
        expected_lengths(population, side.renders, weighed=False),
        widths_of(side.renders, "depth"),
        side.bodies,
    )
    seen_side = read_in(side, profile, "side")
    ones, others = np.nonzero(
        (front.bodies[:, None] == side.bodies) & (front.new & front.plain)[:, None] & side.plain
    )
    pairs = [
        f"{front.renders[one].block}+{side.renders[other].clothing}"
        for one, other in zip(ones.tolist(), others.tolist(), strict=True)
    ]
    lengths, widths = np.hsplit(seen.outputs, [len(LENGTHS)])
    height = front.inputs[:, INPUTS.index("height")]
    numbers = numbers_read(height, front.sexes, unweighed + lengths, widths)
    arrays = {
        "front": seen.arrays | fit_sex(front, frontal),
        "front_nets": kept_nets("nets", nets),
        "side": seen_side.arrays,
    }
    return Views(front, truth, unweighed, seen, seen_side, numbers, ones, others, np.array(pairs)), arrays


def step_name(view: str, weighed: bool) -> str:
    """As `measuring.method_from` looks for it."""
    return f"{view}_{'weight' if weighed else 'height'}"


@dataclass(frozen=True)
class Known:
    """What is known beside the photo: height and sex, and the weight if `weighed`. In cm: `expected` (n, 5),
    and `wanted` (n, 5), by how much the truth is more; `offsets` (2, 5), the mean of that per sex, and
    `shifts` (n, 5), the same for each photo."""

    weighed: bool
    expected: Array
    wanted: Array
    offsets: Array
    shifts: Array

    @property
    def taken(self) -> float:
        """Of the correction that renders ask for."""
        return TAKEN_WITH_WEIGHT if self.weighed else 1.0


def known_of(population: Population, views: Views, *, weighed: bool) -> Known:
    """That of the people in the front photos."""
    front = views.front
    expected = expected_lengths(population, front.renders, weighed=weighed)
    wanted = views.truth - expected
    offsets = offsets_of(wanted[front.new], front.sexes[front.new])
    return Known(weighed, expected, wanted, offsets, offsets[front.sexes])


def front_step(views: Views, known: Known, arrays: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], Array]:
    """The step of front photos alone, and its standard deviations (new photos, 5)."""
    front, seen, name = views.front, views.seen, step_name("front", known.weighed)
    if known.weighed:
        sample = Sample(views.numbers, known.expected, known.wanted - known.shifts, front.bodies)
        added = second(sample, name, arrays["front"])
    else:
        added = seen.outputs[:, : len(LENGTHS)]
    terms = quality_terms(front.inputs, seen.ease, known.expected, seen.familiar)
    gaps = known.wanted - seen.familiar[:, None] * known.shifts
    evidence = Evidence(added, gaps, terms, views.blocks, no_photo=-known.wanted)
    report_old(name, evidence.part(~front.new))
    report_limit(name, front, known.expected, evidence)
    return conclude(name, evidence.part(front.new), known.offsets, known.taken)


def side_step(views: Views, known: Known, arrays: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The step of a front and a side photo together."""
    front, ones, others, name = views.front, views.ones, views.others, step_name("side", known.weighed)
    expected, wanted, shifts = known.expected[ones], known.wanted[ones], known.shifts[ones]
    both = np.column_stack([views.numbers[ones], views.seen_side.outputs[others]])
    added = second(Sample(both, expected, wanted - shifts, front.bodies[ones]), name, arrays["side"])
    ease = (views.seen.ease[ones] + views.seen_side.ease[others]) / 2
    familiar = np.minimum(views.seen.familiar[ones], views.seen_side.familiar[others])
    terms = quality_terms(front.inputs[ones], ease, expected, familiar)
    evidence = Evidence(added, wanted - familiar[:, None] * shifts, terms, views.pairs, no_photo=-wanted)
    return conclude(name, evidence, known.offsets, known.taken)[0]


def second(sample: Sample, name: str, arrays: dict[str, NDArray[Any]]) -> Array:
    """(n, 5): what a correction adds for people who were left out; the one fitted on all goes to `arrays`."""
    unseen = left_out(sample, NOISE)
    arrays |= kept(name, fit(sample, NOISE), float(np.quantile(unseen.likeness, USUAL)))
    return unseen.outputs


def narrowing_of_the_best(population: Population, renders: list[Render], spreads: Array) -> float:
    """By what share the best photos narrow the girths of people whose weight is not known."""
    before = np.array(
        [
            np.sqrt(np.diag(population.without_photo(render.height, None, render.gender).covariance))
            for render in renders
        ]
    )
    return float(np.quantile(1 - (spreads / before)[:, :3].mean(axis=1), BEST))


def body_type_edges(soldiers: dict[Gender, People]) -> dict[str, dict[str, float]]:
    """Quartiles of the two ratios among the women, the men and all."""
    chest, waist = LENGTHS.index("chest_cm"), LENGTHS.index("waist_cm")
    slim = {sex.value: people.lengths[:, waist] / people.height for sex, people in soldiers.items()}
    broad = {
        sex.value: people.lengths[:, chest] / people.lengths[:, waist] for sex, people in soldiers.items()
    }
    for ratios in (slim, broad):
        ratios["all"] = np.concatenate(list(ratios.values()))
    return {
        group: {
            "waist_per_height_lower": round(float(np.quantile(slim[group], 0.25)), 4),
            "waist_per_height_upper": round(float(np.quantile(slim[group], 0.75)), 4),
            "chest_per_waist_upper": round(float(np.quantile(broad[group], 0.75)), 4),
        }
        for group in ("all", "female", "male")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ansur", type=Path, required=True, help="folder with the two ANSUR II tables")
    parser.add_argument("--renders", type=Path, required=True, help="folder of the training renders")
    parser.add_argument("--earlier", type=Path, required=True, help="folder of the earlier training renders")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--cache", type=Path, help="folder that keeps what was read in the pictures")
    options = parser.parse_args()
    new, old = (
        (
            renders,
            read_all(renders, looks, options.model, options.cache and options.cache / f"{name}.npz"),
        )
        for name, renders, looks in (
            ("new", read_renders(options.renders), LOOKS),
            ("earlier", read_renders(options.earlier), EARLIER_LOOKS),
        )
    )
    fitted, arrays = calibrate(new, old)
    document = {
        "version": METHOD_VERSION,
        "provenance": {
            "written_by": "services/sizing-api/tools/calibrate.py",
            **{
                name: {
                    "pictures": len(renders),
                    "bodies": len({render.body for render in renders}),
                    "looks": list(looks),
                }
                for name, (renders, _), looks in (
                    ("renders", new, LOOKS),
                    ("earlier_renders", old, EARLIER_LOOKS),
                )
            },
            "pose_model_sha256": hashlib.sha256(options.model.read_bytes()).hexdigest(),
            "parts_net_sha256": hashlib.sha256((OUTPUT / "parts.onnx").read_bytes()).hexdigest(),
            "mediapipe": mediapipe.__version__,
            "folds": FOLDS,
            "noise": {"reading": READING_NOISE, "lengths": NOISE},
        },
        "inputs": list(SIDE_INPUTS),
        "quality": list(QUALITY),
        **fitted,
        "body_types": body_type_edges({sex: read_ansur(options.ansur, sex) for sex in SEXES}),
    }
    (options.output / "method.json").write_text(json.dumps(document, indent=1) + "\n")
    for kind, parts in arrays.items():
        np.savez_compressed(options.output / f"{kind}.npz", **parts)
    print(f"wrote method.json and {', '.join(f'{kind}.npz' for kind in arrays)} to {options.output}")


if __name__ == "__main__":
    main()
