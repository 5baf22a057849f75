"""What a benchmark says: lines of a table with a target beside each figure, and JSON of the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Line:
    """One figure. `target` is what it has to reach, in words; `met` is None where nothing is asked of it."""

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None
    note: str = ""


def at_most(name: str, value: float, limit: float, unit: str, note: str = "") -> Line:
    return Line(name, value, unit, f"≤ {limit:g}", value <= limit, note)


def at_least(name: str, value: float, limit: float, unit: str, note: str = "") -> Line:
    return Line(name, value, unit, f"≥ {limit:g}", value >= limit, note)


def plain(name: str, value: float, unit: str, note: str = "") -> Line:
    return Line(name, value, unit, note=note)


@dataclass
class Section:
    """The lines of one subject, and the data behind its plot."""

    title: str
    lines: list[Line] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def show(self) -> str:
        """The section as a table."""
        cells = [["", "figure", "target", "", ""]]
        for line in self.lines:
            mark = "" if line.met is None else ("met" if line.met else "NOT MET")
            cells.append([line.name, f"{_number(line.value)} {line.unit}", line.target, mark, line.note])
        widths = [max(len(row[column]) for row in cells) for column in range(5)]
        rows = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join([f"\n== {self.title}", *rows])


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write_json(sections: list[Section], path: Path, machine: dict[str, Any]) -> None:
    document = {"machine": machine, "sections": [asdict(section) for section in sections]}
    path.write_text(json.dumps(document, indent=1, default=str) + "\n")


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0..1) of `values` lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


Bench = Callable[[bool], Iterable[Section]]
"""Runs a benchmark, shorter if told so."""
