"""Measures every render of a folder and prints how far off that is, per block, beside two others: what is
known without a photo, and the earlier method.

    python services/sizing-api/tools/bench.py --renders FOLDER/dev

The folder holds images and a table in the layout of the sizing data. Standard errors are over bodies, because
pictures of one body err together. Exit code 1 when a limit is missed.
"""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from confidence import bins_of, clustered, right_sizes, table
from earlier_method import Method as EarlierMethod
from earlier_method import load_earlier
from figures import Figure, conclude
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from renders import Render, detect_all, read_renders

from wearon_sizing.measuring import GIRTHS, Method, load_method
from wearon_sizing.population import LENGTHS
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import Array, Person
from wearon_sizing.sizes import SIZES
from wearon_sizing.sizing import (
    Assessment,
    PhotoRefusedError,
    Shopper,
    assess,
    find_person,
    find_side_person,
    open_photo,
)

WAYS = ("height", "height, sex", "height, weight", "height, sex, weight")
MOST_REFUSED = 0.03
COVERAGE = (0.74, 0.88)
LEAST_RANGE = 0.85
SMALLEST_BLOCK = 60
MOST_DEVIATION = 2.0
MOST_CHANGE = 1.5
MOST_SIZE_CHANGES = 0.1
MOST_OF_EARLIER = 1.3
EARLIER_TIGHT = ("cam", "good")
"""The blocks of the earlier renders with tight clothes, on which the earlier method was at its best."""
CHANGED_EVERY = 5
"""Of how many front pictures one is looked at cropped, mirrored, shrunk and darkened."""


@dataclass
class Look:
    """One front picture: an assessment per way of asking, or the code of the refusal. `beside`: per way the
    lengths without a photo and by the earlier method; `with_side`: per way, with the profile of the same
    pair."""

    render: Render
    refusal: str | None = None
    assessments: dict[str, Assessment] = field(default_factory=dict)
    no_photo: dict[str, Array] = field(default_factory=dict)
    earlier: dict[str, Array] = field(default_factory=dict)
    with_side: dict[str, Assessment] = field(default_factory=dict)
    changed: list[Assessment] = field(default_factory=list)


def shopper_of(render: Render, way: str) -> Shopper:
    return Shopper(
        render.height,
        render.weight if "weight" in way else None,
        render.gender if "sex" in way else None,
    )


def changes(picture: Image.Image) -> list[Image.Image]:
    """The same photo mirrored, shrunk, darkened, with more around it, and saved badly."""
    width, height = picture.size
    small = picture.resize((round(width * 0.8), round(height * 0.8)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=45)
    return [
        ImageOps.mirror(picture),
        small,
        ImageEnhance.Brightness(picture).enhance(0.65),
        ImageOps.expand(small, (round(width * 0.1), round(height * 0.1)), (128, 128, 128)),
        Image.open(buffer).convert("RGB"),
    ]


class Bench:
    def __init__(self, method: Method, earlier: EarlierMethod, sides: dict[str, Render]) -> None:
        self._method = method
        self._earlier = earlier
        self._sides = sides

    def measure(self, landmarker: Landmarker, item: tuple[int, Render]) -> Look:
        number, render = item
        look = Look(render)
        try:
            person = find_person(landmarker, open_photo(render.path.read_bytes()))
            side = self._side(landmarker, render)
            for way in WAYS:
                self._ask(look, way, person, side)
        except PhotoRefusedError as refusal:
            return Look(render, refusal.code.value)
        if number % CHANGED_EVERY == 0:
            look.changed = self._changed(landmarker, render)
        return look

    def _side(self, landmarker: Landmarker, render: Render) -> Person | None:
        profile = self._sides.get(render.pair)
        if profile is None:
            return None
        try:
            return find_side_person(landmarker, open_photo(profile.path.read_bytes()))
        except PhotoRefusedError:
            return None

    def _ask(self, look: Look, way: str, person: Person, side: Person | None) -> None:
        shopper = shopper_of(look.render, way)
        look.assessments[way] = assess(person, shopper, self._method)
        known = self._method.population.without_photo(shopper.height_cm, shopper.weight_kg, shopper.gender)
        look.no_photo[way] = known.mean
        silhouette = look.assessments[way].reading.silhouette
        look.earlier[way] = self._earlier.measure(silhouette, shopper.height_cm, shopper.weight_kg)
        if side is not None:
            look.with_side[way] = assess(person, shopper, self._method, side)

    def _changed(self, landmarker: Landmarker, render: Render) -> list[Assessment]:
        found = []
        for picture in changes(Image.fromarray(open_photo(render.path.read_bytes()))):
            try:
                person = find_person(landmarker, np.asarray(picture))
                found.append(assess(person, shopper_of(render, "height, sex, weight"), self._method))
            except PhotoRefusedError:
                continue
        return found


def truths(looks: Sequence[Look]) -> Array:
    return np.array([[look.render.truth.get(name, np.nan) for name in LENGTHS] for look in looks])


def blocks_of(looks: Sequence[Look]) -> list[tuple[str, list[Look]]]:
    """Everything measured, then every block."""
    seen = [look for look in looks if look.refusal is None]
    names = sorted({look.render.block for look in seen})
    return [("all", seen), *((name, [look for look in seen if look.render.block == name]) for name in names)]


def cells(numbers: Array) -> str:
    return " / ".join(format(float(number), "5.2f") for number in numbers)


def print_errors(looks: Sequence[Look]) -> list[Figure]:
    """Every block and way of asking. The limits: the photo makes nothing worse, and in tight clothes of the
    earlier renders the errors stay near the earlier method's."""
    figures = []
    for way in WAYS:
        print(f"\nMean absolute error in cm from {way}: {' / '.join(LENGTHS)}")
        print(f"{'':20s} {'n':>4s}  {'photo':39s}  {'no photo':39s}  {'earlier method':31s}  with side photo")
        for name, group in blocks_of(looks):
            truth = truths(group)
            mean = np.array([look.assessments[way].body.mean for look in group])
            without = np.array([look.no_photo[way] for look in group])
            earlier = np.array([look.earlier[way] for look in group])
            error, other = np.abs(mean - truth), np.abs(without - truth)
            before = np.abs(earlier - truth[:, : earlier.shape[1]]).mean(axis=0)
            line = f"{name:20s} {len(group):4d}  {cells(error.mean(axis=0))}  {cells(other.mean(axis=0))}"
            line += f"  {cells(before)}"
            both = [look for look in group if way in look.with_side]
            if both:
                sided = np.array([look.with_side[way].body.mean for look in both])
                line += f"  {cells(np.abs(sided - truths(both)).mean(axis=0))} ({len(both)})"
            print(line)
            if name in EARLIER_TIGHT:
                figures += [
                    Figure(
                        f"{length} from {way} in {name} / earlier method", ratio, "x", most=MOST_OF_EARLIER
                    )
                    for length, ratio in zip(
                        GIRTHS,
                        (error.mean(axis=0)[: len(GIRTHS)] / before[: len(GIRTHS)]).tolist(),
                        strict=True,
                    )
                ]
            if way == "height, sex, weight":
                worse = error - other
                margin = clustered(worse, [look.render.body for look in group])
                figures += [
                    Figure(f"{length} in {name}: worse than no photo by", gap, "cm", most=round(limit, 3))
                    for length, gap, limit in zip(
                        GIRTHS, worse.mean(axis=0).tolist(), margin.tolist(), strict=False
                    )
                ]
    return figures


def print_intervals(looks: Sequence[Look]) -> list[Figure]:
    figures = []
    print(f"\nTrue values inside the 80 % intervals: {', '.join(LENGTHS)}; mean trust in the photo")
    for way in WAYS:
        for name, group in blocks_of(looks):
            for kind in ("photo", "with side"):
                some = [look for look in group if kind == "photo" or way in look.with_side]
                if not some:
                    continue
                found = [look.assessments[way] if kind == "photo" else look.with_side[way] for look in some]
                ends = np.array([[each.body.interval(length) for length in LENGTHS] for each in found])
                truth = truths(some)
                inside = ((ends[:, :, 0] <= truth) & (truth <= ends[:, :, 1])).mean(axis=0)
                trust = np.mean([each.photo_trust for each in found])
                shares = " ".join(f"{share:6.1%}" for share in inside)
                print(f"  {way:20s} {name:20s} {kind:9s} {len(some):4d}  {shares}  {trust:.2f}")
                if len(some) >= SMALLEST_BLOCK:
                    figures += [
                        Figure(
                            f"80 % interval of {length} from {way} in {name}, {kind}, holds",
                            share,
                            "",
                            least=COVERAGE[0],
                            most=COVERAGE[1],
                        )
                        for length, share in zip(GIRTHS, inside.tolist(), strict=False)
                    ]
    return figures


def print_sizes(looks: Sequence[Look]) -> list[Figure]:
    """Sizes, confidence and ranges per way of asking."""
    figures = []
    seen = [look for look in looks if look.refusal is None]
    bodies = [look.render.body for look in seen]
    for way in WAYS:
        genders = [look.render.gender if "sex" in way else None for look in seen]
        right = np.array(right_sizes([look.render.truth["chest_cm"] for look in seen], genders))
        advice = [look.assessments[way].advice for look in seen]
        chosen, lower, upper = (
            np.array([SIZES.index(size) for size in sizes])
            for sizes in zip(*((each.size, each.lower, each.upper) for each in advice), strict=True)
        )
        confidence = np.mean([each.confidence for each in advice])
        inside = float(((lower <= right) & (right <= upper)).mean())
        near = (np.abs(chosen - right) <= 1).mean()
        print(f"\nSizes from {way}: {(chosen == right).mean():.1%} exact, {near:.1%} exact or neighbouring")
        print(
            f"  size_range holds {inside:.1%}, {(upper - lower + 1).mean():.2f} sizes wide;"
            f" mean confidence {confidence:.3f}"
        )
        figures.append(Figure(f"size_range from {way} holds", inside, "", least=LEAST_RANGE))
        bins = bins_of(advice, right.tolist(), bodies)
        print(table(bins))
        figures += [
            Figure(
                f"confidence from {way}, {each.stated:.2f} stated: right",
                each.right,
                "",
                least=round(each.stated - each.allowed, 3),
                most=round(each.stated + each.allowed, 3),
            )
            for each in bins
            if each.large_enough
        ]
    return figures


def print_steadiness(looks: Sequence[Look]) -> list[Figure]:
    """How much pictures of one body differ, and the same picture changed."""
    way = "height, sex, weight"
    by_body: dict[str, list[Array]] = {}
    for look in looks:
        if look.refusal is None:
            by_body.setdefault(look.render.body, []).append(look.assessments[way].body.mean)
    several = [np.array(means) for means in by_body.values() if len(means) > 1]
    figures = []
    if several:
        deviations = np.array([means.std(axis=0, ddof=1) for means in several]).mean(axis=0)
        print(f"\nStandard deviation over the front pictures of one body from {way}: {cells(deviations)} cm")
        figures += [
            Figure(f"{length}, deviation over pictures", deviation, "cm", most=MOST_DEVIATION)
            for length, deviation in zip(GIRTHS, deviations.tolist(), strict=False)
        ]
    tried = [look for look in looks if look.changed]
    if tried:
        gaps = np.array(
            [each.body.mean - look.assessments[way].body.mean for look in tried for each in look.changed]
        )
        moved = [
            each.advice.size != look.assessments[way].advice.size for look in tried for each in look.changed
        ]
        deviations = np.sqrt((gaps**2).mean(axis=0))
        print(
            f"The same picture changed ({len(gaps)} looks): {cells(deviations)} cm, size {np.mean(moved):.1%}"
        )
        figures += [
            Figure(f"{length}, same picture changed", change, "cm", most=MOST_CHANGE)
            for length, change in zip(GIRTHS, deviations.tolist(), strict=False)
        ]
        figures.append(Figure("size changes", float(np.mean(moved)), "", most=MOST_SIZE_CHANGES))
    return figures


def measure_all(renders: list[Render], model: Path) -> list[Look]:
    """The front pictures, each with the profile of its pair where there is one."""
    sides = {render.pair: render for render in renders if render.view == "side"}
    fronts = [render for render in renders if render.view != "side"]
    bench = Bench(load_method(), load_earlier(), sides)
    return detect_all(model, enumerate(fronts), bench.measure)


def print_refusals(looks: Sequence[Look]) -> list[Figure]:
    refused: list[NDArray[np.bool_]] = []
    for block in sorted({look.render.block for look in looks}):
        group = [look for look in looks if look.render.block == block]
        codes = [f"{look.render.path.stem} {look.refusal}" for look in group if look.refusal]
        print(f"  {block:20s} {len(codes)} of {len(group)} refused {'; '.join(codes)}")
        refused.append(np.array([look.refusal is not None for look in group]))
    share = float(np.concatenate(refused).mean())
    return [Figure("refused", share, "", most=MOST_REFUSED)] if len(looks) >= SMALLEST_BLOCK else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renders", type=Path, required=True, help="folder of renders with its table")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    parser.add_argument("--json", type=Path, help="where to write the figures that have a limit")
    options = parser.parse_args()
    renders = read_renders(options.renders)
    looks = measure_all(renders, options.model)
    print(f"{len(looks)} front pictures of {len({render.body for render in renders})} bodies")
    figures = print_refusals(looks)
    figures += print_errors(looks) + print_intervals(looks) + print_sizes(looks) + print_steadiness(looks)
    sys.exit(conclude(figures, options.json))


if __name__ == "__main__":
    main()
