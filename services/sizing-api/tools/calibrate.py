"""Fits the sizing method and writes src/wearon_sizing/method.json.

    python services/sizing-api/tools/calibrate.py --ansur FOLDER --renders FOLDER/train

Every render is looked at several times: as it is, mirrored, and zoomed, shifted, re-lit and re-compressed, so
that the method learns what of its input is noise of the detector. All errors that are printed and stored come
from bodies that were not used for fitting (ten folds, no body in two of them). Deterministic: the variations
are drawn from seeds that belong to the pictures.
"""

# ruff: noqa: T201 - printing is part of what this is for

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mediapipe
import numpy as np
from confidence import bins_of, right_sizes, table
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from renders import GIRTH_BREADTHS, Render, detect_all, read_renders

from wearon_sizing.measuring import (
    EIGHTY_PERCENT,
    GIRTHS,
    MEASURED,
    SMALLEST_SPREAD_CM,
    SPREAD_TERMS,
    WEIGHT_TERMS,
    Linear,
    Measurement,
    Steps,
    inputs_of,
    population_terms,
    spread_terms,
)
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import FEATURES, Array, measure_silhouette
from wearon_sizing.sizes import advise
from wearon_sizing.sizing import LONG_SIDE

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "wearon_sizing" / "method.json"
METHOD_VERSION = "1"
LOOKS = 6
FOLDS = 10
# Chosen by cross-validation on the training bodies; half and twice as much change errors by less than 1 %.
WIDTHS_DAMPING = 90.0
REST_DAMPING = 1500.0
SPREAD_DAMPING = 0.05
# How much pictures of one body must agree, compared with being right. A known weight makes them agree anyway.
AGREEMENT = {"height_only": 3.5, "with_weight": 0.7}
# Rounds in which pictures that are far off (an outline run over into the background) lose their weight.
ROBUST_ROUNDS = 3
# The spread is stretched so that this share of unseen bodies' values lies inside the 80 % intervals.
AIMED_COVERAGE = 0.8
ANSUR_FILES = ("ANSUR_II_FEMALE_Public.csv", "ANSUR_II_MALE_Public.csv")


def look(path: Path, number: int) -> NDArray[np.uint8]:
    """The picture as a shopper might have sent it: 0 as it is, 1 mirrored, from 2 on varied."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if number % 2:
        picture = ImageOps.mirror(picture)
    fit = min(1.0, LONG_SIDE / max(picture.size))
    frame = [round(side * fit) for side in picture.size]
    if number < 2:
        return np.asarray(picture.resize((frame[0], frame[1]), Image.Resampling.LANCZOS))
    seed = hashlib.sha256(f"{path.stem} {number}".encode()).digest()
    rng = np.random.default_rng(list(seed))
    fit *= rng.uniform(0.75, 1.0)
    size = [round(side * fit) for side in picture.size]
    picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.7, 1.25))
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.8, 1.15))
    spare = [big - small for big, small in zip(frame, size, strict=True)]
    left, top = (int(rng.integers(0, room + 1)) for room in spare)
    margins = ((top, spare[1] - top), (left, spare[0] - left), (0, 0))
    padded = np.pad(np.asarray(picture), margins, mode="edge")
    buffer = io.BytesIO()
    Image.fromarray(padded).save(buffer, "JPEG", quality=int(rng.integers(60, 95)))
    return np.asarray(Image.open(buffer).convert("RGB"))


def silhouettes(renders: list[Render], model: Path) -> tuple[Array, NDArray[np.intp]]:
    """Features of every look in which somebody was found, and the index of the render each belongs to.

    The first len(renders) rows are the pictures as they are; all of these must show somebody.
    """

    def measure(landmarker: Landmarker, item: tuple[int, int]) -> Array | None:
        index, number = item
        people = landmarker.detect(look(renders[index].path, number))
        return measure_silhouette(people[0], renders[index].height).values if people else None

    items = [(index, number) for number in range(LOOKS) for index in range(len(renders))]
    found = [
        (index, values)
        for (index, _), values in zip(items, detect_all(model, items, measure), strict=True)
        if values is not None
    ]
    owners = np.array([index for index, _ in found])
    if not np.array_equal(owners[: len(renders)], np.arange(len(renders))):
        raise SystemExit("Somebody was not found in a training picture as it is; take it out of the table.")
    return np.array([values for _, values in found]), owners


def ridge(
    inputs: Array, outputs: Array, bodies: NDArray[np.intp], damping: float, agreement: float
) -> Linear:
    """Least squares on standardised inputs, with a price on large slopes and on differences within a body.

    Robust: pictures further off than 1.2 times the median count the less the further they are (Huber).
    """
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    z = (inputs - mean) / scale
    count = np.bincount(bodies, minlength=bodies.max() + 1)
    sums = np.zeros((len(count), z.shape[1]))
    np.add.at(sums, bodies, z)
    within = z - sums[bodies] / count[bodies][:, None]
    columns = []
    for output in outputs.T:
        trust = np.ones(len(output))
        for _ in range(ROBUST_ROUNDS + 1):
            middle_in, middle_out = np.average(z, axis=0, weights=trust), np.average(output, weights=trust)
            centred = z - middle_in
            normal = (centred.T * trust) @ centred + agreement * (within.T * trust) @ within
            slopes = np.linalg.solve(
                normal + damping * np.eye(len(normal)), (centred.T * trust) @ (output - middle_out)
            )
            errors = np.abs(output - middle_out - centred @ slopes)
            trust = np.minimum(1.0, 1.2 * np.median(errors) / np.maximum(errors, 1e-9))
        columns.append((middle_out - (mean / scale + middle_in) @ slopes, slopes / scale))
    return Linear(np.array([each for each, _ in columns]), np.column_stack([each for _, each in columns]))


@dataclass(frozen=True)
class People:
    """The population: (n,) heights in cm, weights in kg, (n, 3) breadths and girths in cm, (n,) is female."""

    height: Array
    weight: Array
    breadths: Array
    girths: Array
    female: NDArray[np.bool_]


def read_ansur(folder: Path) -> People:
    rows = []
    for name in ANSUR_FILES:
        with (folder / name).open(encoding="latin-1", newline="") as file:
            rows += [(row, "FEMALE" in name) for row in csv.DictReader(file)]

    def columns(*names: str) -> Array:
        return np.array([[float(row[name]) / 10 for name in names] for row, _ in rows])

    return People(
        height=columns("stature")[:, 0],
        weight=columns("weightkg")[:, 0],
        breadths=columns("chestbreadth", "waistbreadth", "hipbreadth"),
        girths=columns("chestcircumference", "waistcircumference", "buttockcircumference"),
        female=np.array([female for _, female in rows]),
    )


def fit(
    inputs: Array, truth: Mapping[str, Array], bodies: NDArray[np.intp], people: People, weighed: bool
) -> Steps:
    """The three steps; the spread is filled in later, from errors on unseen bodies."""
    agreement = AGREEMENT["with_weight" if weighed else "height_only"]
    seen = np.column_stack([truth[name] for name in (*GIRTH_BREADTHS, "shoulder_cm")])
    widths = ridge(inputs, seen, bodies, WIDTHS_DAMPING, agreement)
    terms = population_terms(people.height, people.breadths, people.weight if weighed else None)
    population = np.linalg.lstsq(terms, people.girths, rcond=None)[0].astype(np.float64)
    weight = truth["weight_kg"] if weighed else None
    from_widths = population_terms(truth["height_cm"], widths(inputs)[:, :3], weight) @ population
    girths = np.column_stack([truth[name] for name in GIRTHS])
    rest = ridge(inputs, girths - from_widths, bodies, REST_DAMPING, agreement)
    return Steps(widths, population, rest, np.zeros((len(SPREAD_TERMS), len(MEASURED))))


def fit_spread(inputs: Array, estimates: Array, errors: Array) -> Array:
    """How the size of errors depends on what is seen, so that the 80 % intervals cover AIMED_COVERAGE."""
    terms = spread_terms(inputs, estimates)
    damping = SPREAD_DAMPING * len(terms) * np.diag([0.0, *terms[:, 1:].var(axis=0)])
    slopes = np.linalg.solve(terms.T @ terms + damping, terms.T @ np.abs(errors))
    sizes = np.maximum(terms @ slopes, SMALLEST_SPREAD_CM)
    stretch = np.quantile(np.abs(errors) / sizes, AIMED_COVERAGE, axis=0) / EIGHTY_PERCENT
    scaled: Array = slopes * stretch
    return scaled


def unseen_spreads(inputs: Array, estimates: Array, errors: Array, folds: NDArray[np.intp]) -> Array:
    """Standard deviations (n, 4), each from a spread that was fitted without the body's fold."""
    spreads = np.zeros_like(estimates)
    for fold in range(FOLDS):
        out = folds == fold
        slopes = fit_spread(inputs[~out], estimates[~out], errors[~out])
        spreads[out] = np.maximum(spread_terms(inputs[out], estimates[out]) @ slopes, SMALLEST_SPREAD_CM)
    return spreads


def stated_and_right(
    renders: list[Render], chests: list[Measurement], sex_is_known: bool
) -> list[dict[str, float]]:
    """The calibration table of the size's confidence on bodies that were left out; prints it."""
    genders = [render.gender if sex_is_known else None for render in renders]
    right = right_sizes([render.truth["chest_cm"] for render in renders], genders)
    advice = [advise(chest, gender) for chest, gender in zip(chests, genders, strict=True)]
    bins = bins_of(advice, right, [render.body for render in renders])
    print(f"sex {'known' if sex_is_known else 'not known'}")
    print(table(bins))
    return [
        {"n": each.count, "stated": round(each.stated, 3), "right": round(each.right, 3)} for each in bins
    ]


def folds_of(bodies: NDArray[np.intp]) -> NDArray[np.intp]:
    order = np.random.default_rng(20240501).permutation(bodies.max() + 1)
    fold_of_body = np.empty_like(order)
    fold_of_body[order] = np.arange(len(order)) % FOLDS
    return fold_of_body[bodies]


def cross_validated(
    fit_part: Callable[[NDArray[np.bool_]], Steps],
    inputs: Array,
    truth: Mapping[str, Array],
    folds: NDArray[np.intp],
    weighed: bool,
) -> Array:
    """Estimates (n, 4), each from steps that were fitted without the body's fold."""
    estimates = np.zeros((len(inputs), len(MEASURED)))
    for fold in range(FOLDS):
        out = folds == fold
        weight = truth["weight_kg"][out] if weighed else None
        estimates[out] = fit_part(~out).estimate(inputs[out], truth["height_cm"][out], weight)
    return estimates


def rounded(values: Array) -> Any:
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: float(f"{float(text):.7g}"))


def describe(steps: Steps, names: tuple[str, ...]) -> dict[str, Any]:
    def linear(part: Linear) -> dict[str, Any]:
        slopes = dict(zip(names, rounded(part.slopes), strict=True))
        return {"intercept": rounded(part.intercept), "slopes": slopes}

    return {
        "widths": linear(steps.widths),
        "population": rounded(steps.population),
        "rest": linear(steps.rest),
        "spread": rounded(steps.spread),
    }


def body_type_edges(people: People) -> dict[str, dict[str, float]]:
    chest, waist = people.girths[:, 0], people.girths[:, 1]
    groups = {"all": np.ones(len(waist), dtype=bool), "female": people.female, "male": ~people.female}
    return {
        name: {
            "waist_per_height_lower": round(float(np.quantile((waist / people.height)[group], 0.25)), 4),
            "waist_per_height_upper": round(float(np.quantile((waist / people.height)[group], 0.75)), 4),
            "chest_per_waist_upper": round(float(np.quantile((chest / waist)[group], 0.75)), 4),
        }
        for name, group in groups.items()
    }


def calibrate(renders: list[Render], people: People, model: Path) -> dict[str, Any]:
    """The document to write; prints the cross-validated errors."""
    features, owners = silhouettes(renders, model)
    names = {name: number for number, name in enumerate(sorted({render.body for render in renders}))}
    body = np.array([names[render.body] for render in renders])
    truth = {name: np.array([render.truth[name] for render in renders]) for name in renders[0].truth}
    folds = folds_of(body)
    parts, errors_by_part, confidence_by_part = {}, {}, {}
    for part, weighed in (("height_only", False), ("with_weight", True)):
        weight = truth["weight_kg"] if weighed else None
        inputs = inputs_of(features, weight[owners] if weight is not None else None)

        def fit_on(use: NDArray[np.bool_], inputs: Array = inputs, weighed: bool = weighed) -> Steps:
            rows = use[owners]
            owned = owners[rows]
            some = {name: values[owned] for name, values in truth.items()}
            return fit(inputs[rows], some, body[owned], people, weighed)

        plain = inputs[: len(renders)]
        estimates = cross_validated(fit_on, plain, truth, folds, weighed)
        errors = estimates - np.column_stack([truth[name] for name in MEASURED])
        final = fit_on(np.ones(len(renders), dtype=bool))
        steps = Steps(final.widths, final.population, final.rest, fit_spread(plain, estimates, errors))
        spreads = steps.spreads(plain, estimates)
        covered = np.abs(errors) <= EIGHTY_PERCENT * spreads
        parts[part] = describe(steps, (*FEATURES, *WEIGHT_TERMS) if weighed else FEATURES)
        errors_by_part[part] = {
            "mean_absolute_cm": dict(
                zip(MEASURED, np.abs(errors).mean(axis=0).round(2).tolist(), strict=True)
            ),
            "bias_cm": dict(zip(MEASURED, errors.mean(axis=0).round(2).tolist(), strict=True)),
            "covered_by_80_percent": dict(zip(MEASURED, covered.mean(axis=0).round(3).tolist(), strict=True)),
        }
        print(part, json.dumps(errors_by_part[part]))
        chests = [
            Measurement(value, spread)
            for value, spread in zip(
                estimates[:, 0].tolist(),
                unseen_spreads(plain, estimates, errors, folds)[:, 0].tolist(),
                strict=True,
            )
        ]
        confidence_by_part[part] = {
            knowing: stated_and_right(renders, chests, knowing == "with_sex")
            for knowing in ("without_sex", "with_sex")
        }
    return {
        "version": METHOD_VERSION,
        "provenance": {
            "written_by": "services/sizing-api/tools/calibrate.py",
            "renders": {"pictures": len(renders), "bodies": len(names), "looks_at_each": LOOKS},
            "population": {"source": "ANSUR II (2012), public domain", "people": len(people.height)},
            "pose_model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "mediapipe": mediapipe.__version__,
            "damping": {"widths": WIDTHS_DAMPING, "rest": REST_DAMPING, "agreement": AGREEMENT},
            "cross_validated": {"folds": FOLDS, "grouped_by": "body", **errors_by_part},
            "confidence_cross_validated": confidence_by_part,
        },
        "features": list(FEATURES),
        **parts,
        "body_types": body_type_edges(people),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ansur", type=Path, required=True, help="folder with the two ANSUR II tables")
    parser.add_argument("--renders", type=Path, required=True, help="folder of the training renders")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    options = parser.parse_args()
    document = calibrate(read_renders(options.renders), read_ansur(options.ansur), options.model)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
