"""Measures real people whose girths were taken with a tape, and prints how far off that is. Evaluation only.

    python services/sizing-api/tools/bench_people.py --data FOLDER

The folder holds `people.csv`, one row for each person, and the pictures it names. Its columns:

- image: photo from the front, needed; side_image: photo from the side, may be empty;
- height_cm: needed; weight_kg and sex (F or M): may be empty;
- chest_cm, waist_cm, hip_cm, shoulder_cm, inseam_cm: by tape, may be empty;
- chest_definition, waist_definition and so on: where the tape lay, in words, may be empty. They are printed,
  because a waist above the hip bone and one at the navel differ by centimetres.

Every mistake in the table is named with its line before anything is measured. Nothing is written and nothing
is fitted, so that a set whose licence allows no more can be used.
"""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from earlier_method import load_earlier

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.sizing import HEIGHT_CM, WEIGHT_KG, Gender
from wearon_sizing.measuring import Method, load_method
from wearon_sizing.population import LENGTHS, Posterior
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import Array
from wearon_sizing.sizing import (
    PhotoRefusedError,
    Shopper,
    assess,
    find_person,
    open_photo,
    side_person_or_code,
)

SEXES = {"F": Gender.FEMALE, "M": Gender.MALE}
NEEDED = ("image", "height_cm")
BOUNDS: dict[str, tuple[float, float]] = {
    "height_cm": HEIGHT_CM,
    "weight_kg": WEIGHT_KG,
    **dict.fromkeys(LENGTHS, (20, 250)),
}
"""What the service takes for height and weight; lengths in metres or inches lie below theirs."""


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
    side_refusal: ErrorCode | None = None
    found: dict[str, Posterior] = field(default_factory=dict)
    earlier: Array = field(default_factory=lambda: np.full(4, np.nan))
    trust: float = 0.0


def read_people(folder: Path) -> list[Subject]:
    """Raises SystemExit with every mistake when the table is missing, empty or wrong anywhere."""
    table = folder / "people.csv"
    if not table.is_file():
        raise SystemExit(f"no {table}")
    # Spreadsheets put a mark of their own before the first column.
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        absent = [name for name in NEEDED if name not in (reader.fieldnames or ())]
        rows = [(reader.line_num, row) for row in reader]
    if absent:
        raise SystemExit(f"{table}: no column {' and none '.join(absent)}")
    if not rows:
        raise SystemExit(f"{table}: no rows")
    wrong = [f"line {line}: {mistake}" for line, row in rows for mistake in _mistakes(folder, row)]
    if wrong:
        raise SystemExit("\n".join([f"{table} cannot be used:", *wrong]))
    return [_subject(folder, row) for _, row in rows]


def _text(row: dict[str, str], name: str) -> str:
    return (row.get(name) or "").strip()


def _number(row: dict[str, str], name: str) -> float | None:
    text = _text(row, name)
    return float(text) if text else None


def _mistakes(folder: Path, row: dict[str, str]) -> Iterator[str]:
    """What is wrong with a row, in words."""
    for name in NEEDED:
        if not _text(row, name):
            yield f"{name} is empty"
    for name in ("image", "side_image"):
        if _text(row, name) and not (folder / _text(row, name)).is_file():
            yield f"{name} is {_text(row, name)!r}, and there is no such picture"
    if _text(row, "sex") and _text(row, "sex") not in SEXES:
        yield f"sex is {_text(row, 'sex')!r}; it may be F, M or empty"
    for name, (least, most) in BOUNDS.items():
        try:
            value = _number(row, name)
        except ValueError:
            yield f"{name} is {_text(row, name)!r}, which is not a number"
            continue
        if value is not None and not least <= value <= most:
            yield f"{name} is {value:g}; it may lie between {least:g} and {most:g}"


def _subject(folder: Path, row: dict[str, str]) -> Subject:
    """Of a row without mistakes."""
    side, lengths = _text(row, "side_image"), [_number(row, name) for name in LENGTHS]
    return Subject(
        name=_text(row, "image"),
        shopper=Shopper(
            float(_text(row, "height_cm")), _number(row, "weight_kg"), SEXES.get(_text(row, "sex"))
        ),
        image=folder / _text(row, "image"),
        side_image=folder / side if side else None,
        truth=np.array([np.nan if length is None else length for length in lengths]),
        definitions={
            name: definition
            for name in LENGTHS
            if (definition := _text(row, f"{name.removesuffix('_cm')}_definition"))
        },
    )


def examine(landmarker: Landmarker, subject: Subject, method: Method) -> None:
    """Fill in what is found: without a photo, from the photo, and with the side photo."""
    shopper = subject.shopper
    subject.found["no photo"] = method.population.without_photo(
        shopper.height_cm, shopper.weight_kg, shopper.gender
    )
    try:
        person = find_person(landmarker, open_photo(subject.image.read_bytes()))
        alone = assess(person, shopper, method)
    except PhotoRefusedError as refusal:
        subject.refusal = refusal.code
        return
    subject.found["photo"], subject.trust = alone.body, alone.photo_trust
    subject.earlier = load_earlier().measure(alone.reading.silhouette, shopper.height_cm, shopper.weight_kg)
    if subject.side_image is not None:
        side = side_person_or_code(landmarker, subject.side_image.read_bytes())
        if isinstance(side, ErrorCode):
            subject.side_refusal = side
        else:
            subject.found["with side"] = assess(person, shopper, method, side).body


def report(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        if subject.refusal:
            print(f"{subject.name}: {subject.refusal.value}: {sentence(subject.refusal, 'photo')}")
        else:
            without = f"; side photo: {subject.side_refusal.value}" if subject.side_refusal else ""
            print(f"{subject.name}: trust {subject.trust:.2f}{without}")
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
