"""Fits what a photo adds to the population model: src/wearon_sizing/method.json, front.npz and side.npz.

    python services/sizing-api/tools/calibrate.py --ansur FOLDER --renders FOLDER/train

Every picture is read as it is and in one varied look, mirrored, zoomed, re-lit and re-compressed. All errors
that are printed, and the spreads that are stored, come from bodies that were not used for fitting (eight
folds, no body in two of them). The same result every time.
"""
# ruff: noqa: T201 - printing is part of what this is for

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mediapipe
import numpy as np
from fit_population import People, read_ansur
from numpy.typing import NDArray
from readings import Readings, read_all
from renders import Render, read_renders

from wearon_contracts.sizing import Gender
from wearon_sizing.correction import LIMIT, Correction, Space, bells, likeness, squared_distances
from wearon_sizing.inputs import INPUTS
from wearon_sizing.measuring import CREDIT, QUALITY, credits_at, quality_terms
from wearon_sizing.population import LENGTHS, SEXES, Population, load_population
from wearon_sizing.silhouette import Array

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "wearon_sizing"
METHOD_VERSION = "2"
LOOKS = (0, 3)
FOLDS = 6
DIRECTIONS = 90
"""Main directions of the inputs that are kept: with 90, errors are those of all 206 to 1 %."""
# How much of what a picture says is noise, beside the kernel's height of 10.5. Chosen by cross-validation;
# half and twice as much change errors by 1 to 2 %.
NOISE = 0.3
SIDE_NOISE = 0.5
EIGHTY_PERCENT = 1.2816
SPREAD_DAMPING = 0.02
USUAL = 0.1
"""A picture is as familiar as can be when it is more like the others than this share of them."""
BEST = 0.95
SIDE_INPUTS = ("height", "torso_", "body_", "free_", "thigh_0", "calf_0")


@dataclass(frozen=True)
class Sample:
    """Photos of one kind and what is true of the people: inputs (n, INPUTS), expected and true lengths (n, 5)
    and ease (n, 3) in cm, noise (n,), places in SEXES (n,), bodies (n,)."""

    inputs: Array
    expected: Array
    truth: Array
    ease: Array
    noise: Array
    sexes: NDArray[np.intp]
    bodies: NDArray[np.intp]

    def part(self, rows: NDArray[Any]) -> Sample:
        return Sample(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Fit:
    """One correction and what belongs to it, as arrays to keep."""

    correction: Correction
    offsets: Array
    places: NDArray[np.float16]
    expected: NDArray[np.float16]


def offsets_of(sample: Sample) -> Array:
    """(2, 5): mean difference between truth and expectation for each sex."""
    gaps = sample.truth - sample.expected
    return np.array([gaps[sample.sexes == sex].mean(axis=0) for sex in range(len(SEXES))])


def space_of(sample: Sample, used: NDArray[np.bool_]) -> Space:
    mean, scale = sample.inputs.mean(axis=0), sample.inputs.std(axis=0) + 1e-9
    # Inputs that are not used weigh nothing, the others the more, so that distances stay comparable.
    weights = used * np.sqrt(len(used) / used.sum())
    z = np.clip((sample.inputs - mean) / scale, -LIMIT, LIMIT) * weights
    directions = np.linalg.svd(z, full_matrices=False)[2][:DIRECTIONS].T
    expected_scale = sample.expected.std(axis=0)
    return Space(mean, scale, weights[:, None] * directions, sample.expected.mean(axis=0), expected_scale)


def fit(sample: Sample, used: NDArray[np.bool_], offsets: Array) -> Fit:
    space = space_of(sample, used)
    # Kept with half precision; what is fitted must be what is kept.
    places = (np.clip((sample.inputs - space.mean) / space.scale, -LIMIT, LIMIT) @ space.basis).astype("f2")
    expected = ((sample.expected - space.expected_mean) / space.expected_scale).astype("f2")
    points = space.scaled(places.astype(np.float64), np.clip(expected.astype(np.float64), -LIMIT, LIMIT))
    gaps = sample.truth - sample.expected - offsets[sample.sexes]
    kernel = bells(squared_distances(points, points)) + np.diag(sample.noise)
    strengths = np.linalg.solve(kernel, np.column_stack([gaps, sample.ease])).astype(np.float64)
    return Fit(Correction(space, points, strengths, 1.0), offsets, places, expected)


@dataclass(frozen=True)
class Unseen:
    """What came out for bodies that were left out: outputs (n, outputs), likeness to others (n,), means (n,
    5)."""

    outputs: Array
    likeness: Array
    before: Array
    familiar: Array


def left_out(sample: Sample, used: NDArray[np.bool_], *, with_offsets: bool) -> Unseen:
    """Every row from a fit without its body's fold."""
    folds = folds_of(sample.bodies)
    outputs = np.zeros((len(folds), len(LENGTHS) + sample.ease.shape[1]))
    alike, offset = np.zeros(len(folds)), np.zeros((len(folds), len(LENGTHS)))
    for fold in range(FOLDS):
        out = folds == fold
        rest = sample.part(~out)
        fitted = fit(rest, used, offsets_of(rest) if with_offsets else np.zeros((2, len(LENGTHS))))
        places = fitted.correction.space.place(sample.inputs[out], sample.expected[out])
        squared = squared_distances(places, fitted.correction.points)
        outputs[out] = bells(squared) @ fitted.correction.strengths
        alike[out] = likeness(squared)
        offset[out] = fitted.offsets[sample.sexes[out]]
    familiar = np.clip(alike / np.quantile(alike, USUAL), 0, 1)
    return Unseen(outputs, alike, sample.expected + offset, familiar)


def fit_credit(unseen: Unseen, truth: Array, ease: Array) -> Array:
    """(2, 5): by which share of the correction, as a line in the ease, the people who were left out are
    nearest to the truth."""
    credit = np.zeros((2, len(LENGTHS)))
    for index in range(len(LENGTHS)):
        step = unseen.outputs[:, index] * unseen.familiar
        terms = np.column_stack([step, step * np.clip(ease, 0, 30) / 10])
        credit[:, index] = np.linalg.lstsq(terms, (truth - unseen.before)[:, index], rcond=None)[0]
    return credit


def mean_of(unseen: Unseen, credit: Array, ease: Array) -> Array:
    """(n, 5): estimates for the people who were left out."""
    worth = CREDIT * unseen.familiar[:, None] * credits_at(credit, ease)
    mean: Array = unseen.before + worth * unseen.outputs[:, : len(LENGTHS)]
    return mean


def folds_of(bodies: NDArray[np.intp]) -> NDArray[np.intp]:
    order = np.random.default_rng(20240501).permutation(bodies.max() + 1)
    fold_of_body = np.empty_like(order)
    fold_of_body[order] = np.arange(len(order)) % FOLDS
    return fold_of_body[bodies]


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
    return np.array([[render.truth[name] for name in names] for render in renders])


def report(
    title: str, blocks: list[str], *, no_photo: Array, mean: Array, spreads: Array, truth: Array
) -> None:
    print(f"\n{title}: mean absolute error (no photo), inside the 80 % interval; {', '.join(LENGTHS)}")
    for block in sorted(set(blocks)):
        rows = np.array([each == block for each in blocks])
        errors = np.abs(mean - truth)[rows]
        without = np.abs(no_photo - truth)[rows].mean(axis=0)
        held = (errors <= EIGHTY_PERCENT * spreads[rows]).mean(axis=0)
        cells = " ".join(
            f"{error:5.2f} ({other:5.2f}) {share:3.0%}"
            for error, other, share in zip(errors.mean(axis=0), without, held, strict=True)
        )
        print(f"{block:20s} {rows.sum():4d}  {cells}")


def kept(name: str, fitted: Fit, unseen: Unseen) -> dict[str, NDArray[Any]]:
    """The arrays of one correction under its name."""
    return {
        f"{name}_expected": fitted.expected,
        f"{name}_expected_mean": fitted.correction.space.expected_mean,
        f"{name}_expected_scale": fitted.correction.space.expected_scale,
        f"{name}_strengths": fitted.correction.strengths.astype("f4"),
        f"{name}_usual_likeness": np.array(np.quantile(unseen.likeness, USUAL)),
    }


def shared(kind: str, fitted: Fit) -> dict[str, NDArray[Any]]:
    """The arrays that corrections of one kind of photo share."""
    space = fitted.correction.space
    return {
        f"{kind}_mean": space.mean.astype("f4"),
        f"{kind}_scale": space.scale.astype("f4"),
        f"{kind}_basis": space.basis.astype("f4"),
        f"{kind}_places": fitted.places,
    }


def rounded(values: Array) -> Any:
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: float(f"{float(text):.7g}"))


def calibrate(renders: list[Render], readings: Readings) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What goes into method.json, and the arrays of front.npz and side.npz; prints the errors."""
    population = load_population()
    owners = [renders[index] for index in readings.owners.tolist()]
    numbers = {name: number for number, name in enumerate(sorted({render.body for render in renders}))}
    bodies = np.array([numbers[render.body] for render in owners])
    sexes = np.array([SEXES.index(render.gender) for render in owners])
    truth = column(owners, *LENGTHS)
    ease = column(owners, "ease_chest_cm", "ease_waist_cm", "ease_hip_cm")
    is_front = np.array([render.view == "front" for render in owners])
    plain = np.arange(len(owners)) < np.count_nonzero(readings.first_look)
    steps: dict[str, Any] = {}
    arrays: dict[str, dict[str, Any]] = {"front": {}, "side": {}}
    best, used = 0.0, np.ones(len(INPUTS), dtype=bool)
    used_in_profile = np.array([any(name.startswith(part) for part in SIDE_INPUTS) for name in INPUTS])
    for weighed in (False, True):
        expected = expected_lengths(population, owners, weighed)
        noise = np.full(len(owners), NOISE)
        everybody = Sample(readings.values, expected, truth, ease, noise, sexes, bodies)
        front = everybody.part(is_front)
        name = f"front_{'weight' if weighed else 'height'}"
        unseen = left_out(front, used, with_offsets=True)
        fitted = fit(front, used, offsets_of(front))
        arrays["front"] |= shared("front", fitted) | kept(name, fitted, unseen)
        loosest = np.maximum(unseen.outputs[:, len(LENGTHS) :].max(axis=1), 0)
        terms = quality_terms(front.inputs, loosest, front.expected, unseen.familiar)
        credit = fit_credit(unseen, front.truth, loosest)
        mean = mean_of(unseen, credit, loosest)
        errors = mean - front.truth
        spread = fit_spread(terms, errors)
        spreads = np.exp(terms @ spread)
        steps[name] = step(credit, fitted.offsets, spread, errors / spreads)
        owned = [render for render, yes in zip(owners, is_front, strict=True) if yes]
        report(
            name,
            [render.block for render in owned],
            no_photo=front.expected,
            mean=mean,
            spreads=spreads,
            truth=front.truth,
        )
        if not weighed:
            best = narrowing_of_the_best(population, owned, spreads)

        pairs = [
            (one, other)
            for one in np.flatnonzero(plain[is_front]).tolist()
            for other in np.flatnonzero(plain & ~is_front & np.isin(bodies, front.bodies[one])).tolist()
        ]
        ones, others = (np.array(each) for each in zip(*pairs, strict=True))
        side = Sample(
            inputs=readings.values[others],
            expected=mean[ones],
            truth=front.truth[ones],
            ease=np.zeros((len(ones), 0)),
            noise=np.full(len(ones), SIDE_NOISE),
            sexes=front.sexes[ones],
            bodies=front.bodies[ones],
        )
        name = f"side_{'weight' if weighed else 'height'}"
        unseen_side = left_out(side, used_in_profile, with_offsets=False)
        fitted = fit(side, used_in_profile, np.zeros((2, len(LENGTHS))))
        arrays["side"] |= shared("side", fitted) | kept(name, fitted, unseen_side)
        credit = fit_credit(unseen_side, side.truth, loosest[ones])
        mean = mean_of(unseen_side, credit, loosest[ones])
        errors = mean - side.truth
        terms = quality_terms(side.inputs, loosest[ones], side.expected, unseen_side.familiar)
        spread = fit_spread(terms, errors)
        spreads = np.exp(terms @ spread)
        steps[name] = step(credit, fitted.offsets, spread, errors / spreads)
        blocks = [
            f"{owned[one].block}+{owners[other].clothing}"
            for one, other in zip(ones.tolist(), others.tolist(), strict=True)
        ]
        report(
            name,
            blocks,
            no_photo=front.expected[ones],
            mean=mean,
            spreads=spreads,
            truth=side.truth,
        )
    return {"steps": steps, "best_narrowing": round(best, 4)}, arrays


def narrowing_of_the_best(population: Population, renders: list[Render], spreads: Array) -> float:
    """By what share the best photos narrow the girths of people whose weight is not known."""
    before = np.array(
        [
            np.sqrt(np.diag(population.without_photo(render.height, None, render.gender).covariance))
            for render in renders
        ]
    )
    return float(np.quantile(1 - (spreads / before)[:, :3].mean(axis=1), BEST))


def step(credit: Array, offsets: Array, spread: Array, standardised: Array) -> dict[str, Any]:
    return {
        "credit": rounded(credit),
        "offsets": rounded(offsets),
        "spread": rounded(spread),
        "correlations": rounded(np.asarray(np.corrcoef(standardised.T))),
    }


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
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--cache", type=Path, help="file that keeps what was read in the pictures")
    options = parser.parse_args()
    renders = read_renders(options.renders)
    fitted, arrays = calibrate(renders, read_all(renders, LOOKS, options.model, options.cache))
    document = {
        "version": METHOD_VERSION,
        "provenance": {
            "written_by": "services/sizing-api/tools/calibrate.py",
            "renders": {
                "pictures": len(renders),
                "bodies": len({render.body for render in renders}),
                "looks": list(LOOKS),
            },
            "pose_model_sha256": hashlib.sha256(options.model.read_bytes()).hexdigest(),
            "parts_net_sha256": hashlib.sha256((OUTPUT / "parts.onnx").read_bytes()).hexdigest(),
            "mediapipe": mediapipe.__version__,
            "folds": FOLDS,
            "noise": {"front": NOISE, "side": SIDE_NOISE},
        },
        "inputs": list(INPUTS),
        "quality": list(QUALITY),
        **fitted,
        "body_types": body_type_edges({sex: read_ansur(options.ansur, sex) for sex in SEXES}),
    }
    (options.output / "method.json").write_text(json.dumps(document, indent=1) + "\n")
    for kind, parts in arrays.items():
        np.savez_compressed(options.output / f"{kind}.npz", **parts)
    print(f"wrote method.json, front.npz and side.npz to {options.output}")


if __name__ == "__main__":
    main()
