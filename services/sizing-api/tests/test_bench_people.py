"""The evaluation on real people reads the table that its description promises, and writes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .studio import HERE, PAIR

TOOL = HERE.parent / "tools" / "bench_people.py"
HEADER = (
    "image,side_image,height_cm,weight_kg,sex,chest_cm,waist_cm,hip_cm,shoulder_cm,inseam_cm,waist_definition"
)
MEASURED = f"front.jpg,side.jpg,{PAIR.height},{PAIR.weight},F,97.4,91.4,103.9,,,at the navel"
UNKNOWN = "side.jpg,,158.9,,,,,,,,"


def bench(folder: Path, model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "--data", str(folder), "--model", str(model)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    (tmp_path / "front.jpg").write_bytes(PAIR.jpeg)
    (tmp_path / "side.jpg").write_bytes((HERE / "fixtures" / "d004_side_tight.jpg").read_bytes())
    (tmp_path / "people.csv").write_text("\n".join([HEADER, MEASURED, UNKNOWN]) + "\n")
    return tmp_path


@pytest.mark.slow
def test_errors_and_refusals_are_printed_beside_no_photo_and_nothing_is_written(
    people: Path, model_path: Path
) -> None:
    before = sorted(people.iterdir())
    done = bench(people, model_path)
    assert done.returncode == 0, done.stderr
    assert "front.jpg: trust 0." in done.stdout
    assert "side.jpg: turned" in done.stdout
    assert "1 of 2 measured" in done.stdout
    for row in ("no photo", "photo", "with side", "earlier"):
        assert f"  {row} " in done.stdout
    assert "waist_cm was taken: at the navel" in done.stdout
    assert sorted(people.iterdir()) == before


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("image,weight_kg\nfront.jpg,70\n", "no column height_cm"),
        ("", "no column image and none height_cm"),
        (f"{HEADER}\n", "no rows"),
    ],
    ids=["a column that is not there", "an empty file", "a header alone"],
)
def test_a_table_without_what_is_needed_is_refused(
    people: Path, model_path: Path, table: str, complaint: str
) -> None:
    (people / "people.csv").write_text(table)
    done = bench(people, model_path)
    assert done.returncode == 1
    assert complaint in done.stderr and "Traceback" not in done.stderr


def test_every_mistake_in_a_table_is_named_with_its_line_before_anything_is_measured(
    people: Path, model_path: Path
) -> None:
    rows_and_complaints = [
        (MEASURED, None),
        ("nobody.jpg,,170,,,,,,,,", "image is 'nobody.jpg', and there is no such picture"),
        ("front.jpg,gone.jpg,170,,,,,,,,", "side_image is 'gone.jpg', and there is no such picture"),
        ("front.jpg,,tall,,,,,,,,", "height_cm is 'tall', which is not a number"),
        ("front.jpg,,,,,,,,,,", "height_cm is empty"),
        ("front.jpg,,1.7,,,,,,,,", "height_cm is 1.7; it may lie between 100 and 250"),
        ("front.jpg,,170,nan,,,,,,,", "weight_kg is nan; it may lie between 25 and 300"),
        ("front.jpg,,170,,woman,,,,,,", "sex is 'woman'; it may be F, M or empty"),
        ("front.jpg,,170,,,90 cm,,,,,", "chest_cm is '90 cm', which is not a number"),
    ]
    # With the mark that spreadsheets put before the first column.
    table = "\n".join([HEADER, *(row for row, _ in rows_and_complaints)])
    (people / "people.csv").write_text(table, encoding="utf-8-sig")
    done = bench(people, model_path)
    assert done.returncode == 1 and not done.stdout
    wanted = [f"line {line}: {told}" for line, (_, told) in enumerate(rows_and_complaints, 2) if told]
    assert done.stderr.splitlines()[1:] == wanted
