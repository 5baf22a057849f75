"""Fits what is known of bodies without a photo and writes src/wearon_sizing/population.json.

    python services/sizing-api/tools/fit_population.py --ansur FOLDER --nhanes FOLDER

ANSUR II gives the lines and covariances, NHANES the civilians' spread of stoutness and the hips of heavy
bodies. Prints how far the result is off among both; the same result every time.
"""
# ruff: noqa: T201 - printing is part of what this is for

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wearon_contracts.sizing import Gender
from wearon_sizing.population import LENGTHS, Array, population_from

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "wearon_sizing" / "population.json"
ANSUR_NAMES = (
    "chestcircumference",
    "waistcircumference",
    "buttockcircumference",
    "biacromialbreadth",
    "crotchheight",
)
# Standard deviations are this much larger than among soldiers of the same height and weight. Civilians'
# waists vary 1.3 times as much (NHANES, printed below); with all of that the intervals would hold 9 of 10
# soldiers instead of 8, so a third of it is taken.
CIVILIAN_MARGIN = 1.1
# From this body mass index (kg/m²) on, hips grow faster among NHANES adults than the soldiers' line says;
# hardly a soldier is heavier.
BEYOND_BMI = 38.0


@dataclass(frozen=True)
class People:
    """(n,) cm and kg; `lengths` (n, 5) in the order of LENGTHS, NaN where a survey did not measure."""

    height: Array
    weight: Array
    lengths: Array

    @property
    def stoutness(self) -> Array:
        root: Array = np.sqrt(self.weight / self.height)
        return root

    @property
    def bmi(self) -> Array:
        return self.weight / self.height**2 * 1e4


def read_ansur(folder: Path, gender: Gender) -> People:
    path = folder / f"ANSUR_II_{gender.value.upper()}_Public.csv"
    with path.open(encoding="latin-1", newline="") as file:
        rows = list(csv.DictReader(file))

    def columns(*names: str) -> Array:
        return np.array([[float(row[name]) / 10 for name in names] for row in rows])

    return People(columns("stature")[:, 0], columns("weightkg")[:, 0], columns(*ANSUR_NAMES))


def read_nhanes(folder: Path, gender: Gender) -> People:
    lines = (folder / f"nhanes_adult_{gender.value}_bmx_2020.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    height, weight, waist, hip = (
        np.array([float(row[name]) for row in rows]) for name in ("BMXHT", "BMXWT", "BMXWAIST", "BMXHIP")
    )
    lengths = np.full((len(rows), len(LENGTHS)), np.nan)
    lengths[:, 1], lengths[:, 2] = waist, hip
    return People(height, weight, lengths)


def line(x: Array, y: Array) -> Array:
    """Intercept and slopes of the least squares line: (1 + inputs, ...)."""
    terms = np.column_stack([np.ones(len(x)), x])
    return np.linalg.lstsq(terms, y, rcond=None)[0].astype(np.float64)


def fit(soldiers: People, civilians: People) -> dict[str, Any]:
    """The numbers for one sex."""
    stout = soldiers.stoutness
    lines = line(np.column_stack([soldiers.height, stout]), soldiers.lengths)
    rest = soldiers.lengths - np.column_stack([np.ones(len(stout)), soldiers.height, stout]) @ lines
    usual = float(stout.mean())
    # The mean size of what is left, as a line in stoutness, relative to its value at the usual stoutness.
    sizes = line(stout[:, None] - usual, np.abs(rest))
    growth = sizes[1] / sizes[0]
    relative = rest / (1 + growth * (stout - usual)[:, None])
    # Half soldiers, half civilians: the two surveys' means and variances around their own lines.
    slopes = [line(people.height[:, None], np.log(people.stoutness)) for people in (soldiers, civilians)]
    intercept, slope = np.mean(slopes, axis=0)
    gaps = [np.log(people.stoutness) - intercept - slope * people.height for people in (soldiers, civilians)]
    hip = LENGTHS.index("hip_cm")
    heavy = civilians.bmi > BEYOND_BMI
    expected = lines[0] + np.outer(civilians.height, lines[1]) + np.outer(civilians.stoutness, lines[2])
    gap = (civilians.lengths - expected)[:, hip]
    beyond = (civilians.bmi - BEYOND_BMI)[heavy]
    return {
        "height_mean": float(soldiers.height.mean()),
        "height_spread": float(soldiers.height.std()),
        "log_stoutness": [float(intercept), float(slope)],
        "log_stoutness_spread": float(np.sqrt(np.mean([np.mean(gap**2) for gap in gaps]))),
        "intercept": lines[0].tolist(),
        "per_height": lines[1].tolist(),
        "per_stoutness": lines[2].tolist(),
        "usual_stoutness": usual,
        "covariance": (np.cov(relative.T) * CIVILIAN_MARGIN**2).tolist(),
        "growth": growth.tolist(),
        "beyond_bmi": BEYOND_BMI,
        "hip_beyond": float(gap[heavy] @ beyond / (beyond @ beyond)),
    }


def rounded(value: Any) -> Any:
    """Seven digits are plenty."""
    return json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.7g}"))


def report(document: dict[str, Any], surveys: dict[str, dict[Gender, People]]) -> None:
    """Errors and coverage of the 80 % intervals among the surveys' people."""
    population = population_from(document)
    print(
        "mean absolute error | bias | spread | inside the 80 % interval, of chest waist hip shoulder inseam"
    )
    for survey, sexes in surveys.items():
        for gender, people in sexes.items():
            for told in ("height", "height, weight"):
                errors, inside = [], []
                for index in range(0, len(people.height), 10):
                    weight = float(people.weight[index]) if "weight" in told else None
                    known = population.without_photo(float(people.height[index]), weight, gender)
                    truth = people.lengths[index]
                    errors.append(known.mean - truth)
                    inside.append(
                        [
                            np.nan if np.isnan(length) else 0.1 <= known.below(name, float(length)) <= 0.9
                            for name, length in zip(LENGTHS, truth, strict=True)
                        ]
                    )
                off, held = np.array(errors), np.array(inside, dtype=float)
                columns = (np.abs(off).mean(axis=0), off.mean(axis=0), off.std(axis=0), held.mean(axis=0))
                cells = " | ".join(" ".join(f"{number:6.2f}" for number in column) for column in columns)
                print(f"{survey:7s} {gender.value:7s} {told:15s} {cells}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ansur", type=Path, required=True, help="folder with the two ANSUR II tables")
    parser.add_argument("--nhanes", type=Path, required=True, help="folder with the two NHANES tables")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    options = parser.parse_args()
    sexes = (Gender.FEMALE, Gender.MALE)
    soldiers = {sex: read_ansur(options.ansur, sex) for sex in sexes}
    civilians = {sex: read_nhanes(options.nhanes, sex) for sex in sexes}
    document = {
        "version": "1",
        "provenance": {
            "written_by": "services/sizing-api/tools/fit_population.py",
            "lines_and_covariances": "ANSUR II (2012), public domain",
            "stoutness_and_heavy_hips": "NHANES 2017 to March 2020 (CDC), public domain",
            "people": {
                "ANSUR": {sex.value: len(soldiers[sex].height) for sex in sexes},
                "NHANES": {sex.value: len(civilians[sex].height) for sex in sexes},
            },
            "civilian_margin": CIVILIAN_MARGIN,
        },
        "lengths": list(LENGTHS),
        "sexes": {sex.value: rounded(fit(soldiers[sex], civilians[sex])) for sex in sexes},
    }
    report(document, {"ANSUR": soldiers, "NHANES": civilians})
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
