"""Figures that have a limit: said at the end of a run, and as JSON for `make bench`."""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """A value and the limits it has to keep, both inclusive; None where there is none."""

    name: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )

    def __str__(self) -> str:
        wanted = (("at least", self.least), ("at most", self.most))
        limits = " and ".join(f"{words} {limit:g}" for words, limit in wanted if limit is not None)
        return f"{self.name}: {self.value:.3g} {self.unit}".rstrip() + f", {limits}"


def conclude(figures: Sequence[Figure], json_file: Path | None) -> int:
    """Say what misses its limit, write all of them if asked to; returns the exit code."""
    missed = [str(figure) for figure in figures if not figure.met]
    print("\nEvery limit holds." if not missed else "\nMissed: " + "; ".join(missed))
    if json_file is not None:
        document = [asdict(figure) | {"met": figure.met} for figure in figures]
        json_file.write_text(json.dumps(document, indent=1) + "\n")
    return int(bool(missed))
