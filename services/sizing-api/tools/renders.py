"""Reads folders in the layout of the sizing data: `<split>.csv` beside the images it names."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import cv2

from wearon_contracts.sizing import Gender
from wearon_sizing.pose import Landmarker

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Render:
    """One rendered picture and what is true of the body in it, lengths in cm, weight in kg."""

    path: Path
    body: str
    view: str
    female: bool
    truth: dict[str, float]
    clothing: str = ""
    pair: str = ""

    @property
    def block(self) -> str:
        """View, clothing and place, such as `front_tight_home`."""
        return self.path.stem.partition("_")[2]

    @property
    def gender(self) -> Gender:
        return Gender.FEMALE if self.female else Gender.MALE

    @property
    def height(self) -> float:
        return self.truth["height_cm"]

    @property
    def weight(self) -> float:
        return self.truth["weight_kg"]


def read_renders(folder: Path) -> list[Render]:
    """The renders of `folder`: a split such as renders/dev (its table is renders/dev.csv), or a folder with
    one or more tables in it, then all of them."""
    folder = folder.resolve()
    beside = folder.with_name(folder.name + ".csv")
    tables = [beside] if beside.is_file() else sorted(folder.glob("*.csv"))
    if not tables:
        raise SystemExit(f"{folder}: no table of renders, neither {beside.name} beside it nor a .csv in it")
    return [render for table in tables for render in _read(table)]


def _read(table: Path) -> Iterator[Render]:
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            yield Render(
                table.parent / row["image"],
                row["body"],
                row["view"],
                row["sex"] == "F",
                {name: float(value) for name, value in row.items() if _is_number(value)},
                row.get("clothing", ""),
                row.get("pair", ""),
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def detect_all(
    model: Path, items: Iterable[Item], work: Callable[[Landmarker, Item], Result]
) -> list[Result]:
    """`work` for each item, on one landmarker per core, in order."""
    cv2.setNumThreads(1)
    count = len(os.sched_getaffinity(0))
    idle: SimpleQueue[Landmarker] = SimpleQueue()

    def run(item: Item) -> Result:
        landmarker = idle.get()
        try:
            return work(landmarker, item)
        finally:
            idle.put(landmarker)

    with ExitStack() as landmarkers, ThreadPoolExecutor(count) as pool:
        for _ in range(count):
            idle.put(landmarkers.enter_context(Landmarker(model)))
        return list(pool.map(run, items))
