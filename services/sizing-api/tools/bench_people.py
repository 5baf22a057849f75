"""Measures real people whose girths were taken with a tape, and prints how far off that is. Evaluation only.

    python services/sizing-api/tools/bench_people.py --data FOLDER

The folder holds `people.csv`, one row for each person, and the pictures it names. Its columns:

- image: photo from the front, needed; side_image: photo from the side, may be empty;
- height_cm: needed; weight_kg and sex (F or M): may be empty;
- chest_cm, waist_cm, hip_cm, shoulder_cm, inseam_cm: by tape, may be empty;
- chest_definition, waist_definition and so on: where the tape lay, in words, may be empty. They are printed,
  because a waist above the hip bone and one at the navel differ by centimetres.

Nothing is written and nothing is fitted, so that a set whose licence allows no more can be used.
"""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from earlier_method import load_earlier
from numpy.typing import NDArray

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.sizing import Gender
from wearon_service_kit.images.decode import open_rgb
from wearon_sizing.measuring import Method, load_method
from wearon_sizing.population import LENGTHS, Posterior
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import Array, Person
from wearon_sizing.sizing import (
    LONG_SIDE,
    PhotoRefusedError,
    Shopper,
    assess,
    find_person,
    find_side_person,
)

SEXES = {"F": Gender.FEMALE, "M": Gender.MALE}


@dataclass
class Subject:
    """One row of the table. `truth` (5,) in cm, NaN where nothing was taken."""

    name: str
    shopper: Shopper
    image: Path
    side_image: Path | None
    truth: Array
    definitions: dict[str, str]
    refusal: ErrorCode | None = None
    found: dict[str, Posterior] = field(default_factory=dict)
    earlier: Array = field(default_factory=lambda: np.full(4, np.nan))
    trust: float = 0.0


def read_people(folder: Path) -> list[Subject]:
    """Raises SystemExit when the table or a picture is missing, or a column of the table."""
    table = folder / "people.csv"
    if not table.is_file():
        raise SystemExit(f"no {table}")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        subjects = [_subject(folder, row) for row in rows]
    except (KeyError, ValueError) as error:
        raise SystemExit(f"{table}: {error!r} is missing or not a number") from error
    named = [path for subject in subjects for path in (subject.image, subject.side_image) if path]
    missing = [path.name for path in named if not path.is_file()]
    if missing:
        raise SystemExit(f"{table} names pictures that are not there: {', '.join(missing)}")
    return subjects


def _subject(folder: Path, row: dict[str, str]) -> Subject:
    def number(name: str) -> float | None:
        text = (row.get(name) or "").strip()
        return float(text) if text else None

    side = (row.get("side_image") or "").strip()
    lengths = [number(name) for name in LENGTHS]
    return Subject(
        name=row["image"],
        shopper=Shopper(
            float(row["height_cm"]), number("weight_kg"), SEXES.get((row.get("sex") or "").strip())
        ),
        image=folder / row["image"],
        side_image=folder / side if side else None,
        truth=np.array([np.nan if length is None else length for length in lengths]),
        definitions={
            name: row[f"{name.removesuffix('_cm')}_definition"]
            for name in LENGTHS
            if row.get(f"{name.removesuffix('_cm')}_definition")
        },
    )


def opened(path: Path) -> NDArray[np.uint8]:
    return np.asarray(open_rgb(path.read_bytes(), max_side=LONG_SIDE))


def examine(landmarker: Landmarker, subject: Subject, method: Method) -> None:
    """Fill in what is found: without a photo, from the photo, and with the side photo."""
    shopper = subject.shopper
    subject.found["no photo"] = method.population.without_photo(
        shopper.height_cm, shopper.weight_kg, shopper.gender
    )
    try:
        person = find_person(landmarker, opened(subject.image))
        alone = assess(person, shopper, method)
    except PhotoRefusedError as refusal:
        subject.refusal = refusal.code
        return
    subject.found["photo"], subject.trust = alone.body, alone.photo_trust
    subject.earlier = load_earlier().measure(
        alone.reading.silhouette.values, shopper.height_cm, shopper.weight_kg
    )
    if subject.side_image is not None:
        subject.found["with side"] = assess(
            person, shopper, method, _side(landmarker, subject.side_image)
        ).body


def _side(landmarker: Landmarker, path: Path) -> Person | ErrorCode:
    try:
        return find_side_person(landmarker, opened(path))
    except PhotoRefusedError as refusal:
        return refusal.code


def report(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        if subject.refusal:
            print(f"{subject.name}: {subject.refusal.value}: {sentence(subject.refusal, 'photo')}")
        else:
            print(f"{subject.name}: trust {subject.trust:.2f}")
    measured = [subject for subject in subjects if subject.refusal is None]
    print(f"\n{len(measured)} of {len(subjects)} measured. Mean absolute error in cm: {' / '.join(LENGTHS)}")
    for way in ("no photo", "photo", "with side"):
        for told, group in (("those measured", measured), ("everybody", list(subjects))):
            some = [subject for subject in group if way in subject.found]
            if not some or (told == "everybody" and way != "no photo"):
                continue
            truth = np.array([subject.truth for subject in some])
            means = np.array([subject.found[way].mean for subject in some])
            ends = np.array([[subject.found[way].interval(name) for name in LENGTHS] for subject in some])
            held = ((ends[:, :, 0] <= truth) & (truth <= ends[:, :, 1])).sum(axis=0)
            known = (~np.isnan(truth)).sum(axis=0)
            cells = " / ".join(f"{error:5.2f}" for error in _means(np.abs(means - truth)))
            shares = ", ".join(f"{one} of {all_}" for one, all_ in zip(held, known, strict=True))
            print(f"  {way:10s} {told:15s} {cells}   80 % intervals hold {shares}")
    if measured:
        gaps = np.array([subject.earlier - subject.truth[:4] for subject in measured])
        print(f"  earlier    those measured  {' / '.join(f'{error:5.2f}' for error in _means(np.abs(gaps)))}")
    for name in LENGTHS:
        words = sorted({subject.definitions[name] for subject in subjects if name in subject.definitions})
        if words:
            print(f"  {name} was taken: {'; '.join(words)}")


def _means(values: Array) -> list[float]:
    """Column means without what was not measured."""
    known = ~np.isnan(values)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return [
        float(total / count) if count else float("nan")
        for total, count in zip(sums, known.sum(axis=0), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with people.csv and its pictures")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    options = parser.parse_args()
    subjects = read_people(options.data)
    method = load_method()
    with Landmarker(options.model) as landmarker:
        for subject in subjects:
            examine(landmarker, subject, method)
    report(subjects)


if __name__ == "__main__":
    main()
