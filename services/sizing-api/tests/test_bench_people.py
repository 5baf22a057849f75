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
    assert "side.jpg: turned" in done.stdout or "side.jpg: facing_away" in done.stdout
    assert "1 of 2 measured" in done.stdout
    for row in ("no photo", "photo", "with side", "earlier"):
        assert f"  {row} " in done.stdout
    assert "waist_cm was taken: at the navel" in done.stdout
    assert sorted(people.iterdir()) == before


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (f"{HEADER}\nnobody.jpg,,170,,,,,,,,\n", "nobody.jpg"),
        ("image,weight_kg\nfront.jpg,70\n", "height_cm"),
        (f"{HEADER}\nfront.jpg,,tall,,,,,,,,\n", "tall"),
    ],
    ids=["a picture that is not there", "a column that is not there", "a height in words"],
)
def test_a_table_that_cannot_be_read_is_explained(
    people: Path, model_path: Path, table: str, complaint: str
) -> None:
    (people / "people.csv").write_text(table)
    done = bench(people, model_path)
    assert done.returncode == 1
    assert complaint in done.stderr
