"""A picture of a benchmark: each figure that has a target, as a share of it."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from tests.bench.report import Line, Section

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(sections: list[Section], directory: Path) -> None:
    """One PNG per section that has targets."""
    for number, section in enumerate(sections):
        lines = [line for line in section.lines if line.met is not None and _target(line)]
        if not lines:
            continue
        figure, axes = plt.subplots(figsize=(9, 0.5 * len(lines) + 1.6), constrained_layout=True)
        shares = [line.value / _target(line) for line in lines]
        axes.barh(
            [line.name for line in lines],
            shares,
            color=["#3a7d44" if line.met else "#b23a48" for line in lines],
        )
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xlabel("figure ÷ target (the line is the target)")
        axes.set_title(section.title, loc="left", fontsize=10)
        axes.invert_yaxis()
        figure.savefig(directory / f"{number}.png", dpi=110)
        plt.close(figure)


def _target(line: Line) -> float:
    return float(line.target.split()[-1].replace(",", ""))
