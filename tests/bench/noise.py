"""How far the figures of several runs lie apart."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any


def compare(results: list[Path]) -> str:
    """A table of every figure that stands in all of the JSON files: their median and their range."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for path in results:
        document: dict[str, Any] = json.loads(path.read_text())
        for section in document["sections"]:
            for line in section["lines"]:
                values[section["title"], line["name"], line["unit"]].append(line["value"])
    lines, title, ranges = [], "", []
    for (section, name, unit), figures in values.items():
        if len(figures) < len(results):
            continue
        if section != title:
            title = section
            lines.append(f"\n== {section}")
        middle = median(figures)
        spread = (max(figures) - min(figures)) / abs(middle) if middle else 0.0
        ranges.append(spread)
        lines.append(
            f"{name:50} {middle:12.4g} {unit:8} {min(figures):10.4g} to {max(figures):<10.4g} {spread:6.1%}"
        )
    ordered = sorted(ranges)
    lines.append(
        f"\n{len(results)} runs, {len(ranges)} figures; range ÷ median: {median(ordered):.1%} in the middle,"
        f" {ordered[round(0.9 * (len(ordered) - 1))]:.1%} for nine of ten, {ordered[-1]:.1%} at most"
    )
    return "\n".join(lines)
