"""Measures every picture of a folder of renders, in several looks, once, and keeps the numbers in a file."""
# ruff: noqa: T201 - printing is part of what this is for

from __future__ import annotations

import hashlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from renders import Render, detect_all

from wearon_sizing.gates import by_size
from wearon_sizing.inputs import SIDE_INPUTS, read_photo
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import Array
from wearon_sizing.sizing import LONG_SIDE, open_photo


@dataclass(frozen=True)
class Readings:
    """`values` (n, SIDE_INPUTS) of the renders at the places `owners` (n,), `first_look` (n,) whether it is
    the first look at them; those come first. Pictures nobody was found in are left out."""

    values: Array
    owners: NDArray[np.intp]
    first_look: NDArray[np.bool_]


def look(path: Path, number: int) -> NDArray[np.uint8]:
    """The picture as a shopper might have sent it: 0 as it is, others zoomed, shifted, re-lit and
    re-compressed, odd ones mirrored as well. The same every time."""
    if number == 0:
        return open_photo(path.read_bytes())
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if number % 2:
        picture = ImageOps.mirror(picture)
    fit = min(1.0, LONG_SIDE / max(picture.size))
    frame = [round(side * fit) for side in picture.size]
    seed = hashlib.sha256(f"{path.stem} {number}".encode()).digest()
    rng = np.random.default_rng(list(seed))
    fit *= rng.uniform(0.75, 1.0)
    size = [round(side * fit) for side in picture.size]
    picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.7, 1.25))
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.8, 1.15))
    spare = [big - small for big, small in zip(frame, size, strict=True)]
    left, top = (int(rng.integers(0, room + 1)) for room in spare)
    margins = ((top, spare[1] - top), (left, spare[0] - left), (0, 0))
    padded = np.pad(np.asarray(picture), margins, mode="edge")
    buffer = io.BytesIO()
    Image.fromarray(padded).save(buffer, "JPEG", quality=int(rng.integers(60, 95)))
    return np.asarray(Image.open(buffer).convert("RGB"))


def read_all(renders: list[Render], looks: tuple[int, ...], model: Path, cache: Path | None) -> Readings:
    """Measured, or out of `cache` when that file is there; written to it otherwise."""
    names = [render.path.name for render in renders]
    if cache is not None and cache.is_file():
        kept = np.load(cache)
        known = [(kept[name].tolist() if name in kept else None) for name in ("inputs", "renders", "looks")]
        if known != [list(SIDE_INPUTS), names, list(looks)]:
            raise SystemExit(f"{cache} was measured by other code or on other renders; remove it")
        return Readings(kept["values"], kept["owners"], kept["first_look"])

    done = 0

    def measure(landmarker: Landmarker, item: tuple[int, int]) -> Array | None:
        nonlocal done
        index, number = item
        picture = look(renders[index].path, number)
        people = by_size(landmarker.detect(picture))
        done += 1
        if done % 500 == 0:
            print(f"measured {done} of {len(items)} pictures", file=sys.stderr)
        if not people:
            return None
        return read_photo(landmarker.with_parts(picture, people[0]), renders[index].height).profile

    items = [(index, number) for number in looks for index in range(len(renders))]
    found = [
        (index, number == looks[0], values)
        for (index, number), values in zip(items, detect_all(model, items, measure), strict=True)
        if values is not None
    ]
    owners, first, values = zip(*found, strict=True)
    readings = Readings(np.array(values), np.array(owners), np.array(first))
    if cache is not None:
        np.savez(
            cache,
            values=readings.values,
            owners=readings.owners,
            first_look=readings.first_look,
            inputs=list(SIDE_INPUTS),
            renders=names,
            looks=looks,
        )
    return readings
