"""The sizing API's own benchmarks, run as they are, with their limits taken into the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.report import Line, Section

TOP = Path(__file__).parent.parent.parent
TOOLS = TOP / "services" / "sizing-api" / "tools"
SAMPLES = TOP / "services" / "sizing-api" / "tests" / "fixtures"


def run(quick: bool) -> Iterator[Section]:
    """Latency and load; with RENDERS=folder also errors, sizes and calibration on the renders in it."""
    renders = os.environ.get("RENDERS")
    if not quick:
        yield _section("Sizing API beside a bare detect() loop", "load.py", "--pictures", renders or SAMPLES)
    if renders:
        yield _section(f"Sizing API on {Path(renders).name}", "bench.py", "--renders", renders)


def _section(title: str, tool: str, *arguments: str | Path) -> Section:
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "figures.json"
        # Its exit code says whether all limits hold, which the lines below say one by one.
        done = subprocess.run(
            [sys.executable, TOOLS / tool, *arguments, "--json", output],
            cwd=TOP,
            capture_output=True,
            text=True,
            check=False,
        )
        if not output.exists():
            raise RuntimeError(f"{tool} failed: {done.stdout}{done.stderr}")
        figures: list[dict[str, Any]] = json.loads(output.read_text())
    return Section(title, [_line(**figure) for figure in figures])


def _line(name: str, value: float, unit: str, least: float | None, most: float | None, met: bool) -> Line:
    target = " ".join(f"{sign} {limit:g}" for sign, limit in (("≥", least), ("≤", most)) if limit is not None)
    return Line(name, value, unit, target, met)
