"""`.ci/run` with stand-ins of make and docker: it fails wherever one of its steps does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
STEPS: Final = (
    "lint",
    "test-together",
    "test-alone",
    "test-browser",
    "images",
    "test-pooler",
    "test-rollout",
)


def _run(folder: Path, failing: str) -> subprocess.CompletedProcess[str]:
    """In a folder with one test, which passes; `make` fails for one target, before it runs anything."""
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (folder / ".venv/bin/python").chmod(0o755)
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    (folder / "test_one.py").write_text("def test_one(): pass\n")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = full\n")
    (folder / "bin").mkdir()
    for name, text in {"make": f'[[ " $* " != *" {failing} "* ]]', "docker": "true"}.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["CHROMIUM"] = "/bin/true"
    environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    return subprocess.run([folder / ".ci/run"], env=environment, capture_output=True, text=True, check=False)


def test_all_steps_done_is_a_success(tmp_path: Path) -> None:
    assert _run(tmp_path, failing="nothing").returncode == 0


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_fails_the_whole(tmp_path: Path, step: str) -> None:
    """Also where the tests could not even begin and an earlier run has left its list of failures."""
    cache = tmp_path / ".pytest_cache/v/cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text('{"test_one.py::test_one": true}')
    done = _run(tmp_path, failing=step)
    assert done.returncode != 0, done.stdout
