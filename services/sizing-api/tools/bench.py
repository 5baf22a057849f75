"""Measures every render of a folder and prints the errors, beside those of constant factors on the same ones.

    python services/sizing-api/tools/bench.py --renders FOLDER/dev

The folder holds images and a table in the layout of the sizing data. Exit code 1 when a limit is missed.
"""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confidence import bins_of, right_sizes, table
from figures import Figure, conclude
from PIL import Image, ImageOps
from renders import Render, detect_all, read_renders

from wearon_sizing.body_types import body_type
from wearon_sizing.measuring import GIRTHS, MEASURED, Method, load_method
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import (
    HIP_L,
    HIP_R,
    SHOULDER_L,
    SHOULDER_R,
    Array,
    Person,
)
from wearon_sizing.sizes import SIZES
from wearon_sizing.sizing import LONG_SIDE, Assessment, PhotoRefusedError, Shopper, assess, find_person

# Mean absolute errors that must not be exceeded on renders/dev, in the order of MEASURED.
LIMITS = {"height": (4.0, 3.3, 3.2, 1.0), "height and weight": (2.9, 2.5, 1.9, 0.9)}
MOST_REFUSED = 0.01
COVERAGE = (0.75, 0.88)
MOST_VIEW_DEVIATION = 2.0
LEAST_RANGE = 0.8
WAYS = ("height", "height and sex", "height and weight", "height, weight and sex")


@dataclass(frozen=True)
class Look:
    """One render as measured: an assessment per way of asking, or the code of the refusal."""

    render: Render
    assessments: dict[str, Assessment]
    baseline: Array | None
    refusal: str | None


def baseline(person: Person, height_cm: float) -> Array:
    """What the first version did: distances of joints in world landmarks, scaled by the landmarks' own extent
    to the shopper's height, times fixed factors (chosen to be as far off as the first study found it)."""
    world = person.world
    scale = height_cm / float(np.ptp(world[:, 1]))
    shoulders = float(np.linalg.norm(world[SHOULDER_L] - world[SHOULDER_R])) * scale
    hips = float(np.linalg.norm(world[HIP_L] - world[HIP_R])) * scale
    return np.array([shoulders * 2.2, hips * 2.3, hips * 2.75, shoulders])


def measure(landmarker: Landmarker, render: Render, method: Method) -> Look:
    picture = ImageOps.exif_transpose(Image.open(render.path)).convert("RGB")
    picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    ways = {
        way: Shopper(
            render.height,
            render.weight if "weight" in way else None,
            render.gender if "sex" in way else None,
        )
        for way in WAYS
    }
    try:
        person = find_person(landmarker, np.asarray(picture))
        assessments = {way: assess(person, shopper, method) for way, shopper in ways.items()}
    except PhotoRefusedError as refusal:
        return Look(render, {}, None, refusal.code)
    return Look(render, assessments, baseline(person, render.height), None)


def values(looks: Sequence[Look], way: str) -> Array:
    """Estimates in cm (n, 4)."""
    if way == "baseline":
        return np.array([look.baseline for look in looks])
    return np.array([[look.assessments[way].measurements[name].value for name in MEASURED] for look in looks])


def truths(looks: Sequence[Look]) -> Array:
    return np.array([[look.render.truth[name] for name in MEASURED] for look in looks])


def cells(numbers: Array, form: str = "6.2f") -> str:
    return " ".join(format(float(number), form) for number in numbers)


def thirds(looks: Sequence[Look], key: Callable[[Render], float], name: str) -> list[tuple[str, list[Look]]]:
    edges = np.quantile([key(look.render) for look in looks], [1 / 3, 2 / 3])
    groups: list[list[Look]] = [[], [], []]
    for look in looks:
        groups[int(np.searchsorted(edges, key(look.render)))].append(look)
    return [
        (f"{name}, {part} third", group) for part, group in zip(("low", "mid", "high"), groups, strict=True)
    ]


def groups_of(looks: Sequence[Look]) -> list[tuple[str, list[Look]]]:
    """Everything, each view, each sex, thirds of BMI and of height; without the empty ones."""
    views = list(dict.fromkeys(look.render.view for look in looks))
    groups = [
        ("all", list(looks)),
        *((f"view {view}", [look for look in looks if look.render.view == view]) for view in views),
        ("women", [look for look in looks if look.render.female]),
        ("men", [look for look in looks if not look.render.female]),
        *thirds(looks, lambda r: r.weight / (r.height / 100) ** 2, "BMI"),
        *thirds(looks, lambda r: r.height, "height"),
    ]
    return [(name, group) for name, group in groups if group]


def print_errors(looks: Sequence[Look], ways: Sequence[str]) -> None:
    kinds = " | ".join(f"{kind:27s}" for kind in ("mean absolute error", "bias", "90th percentile"))
    for way in ways:
        print(f"\nErrors in cm from {way}: chest waist hip shoulder")
        print(f"{'':20s} {'n':>4s} {'refused':>7s}   {kinds}")
        for name, group in groups_of(looks):
            seen = [look for look in group if look.refusal is None]
            row = f"{name:20s} {len(group):4d} {1 - len(seen) / len(group):7.1%}"
            if seen:
                errors = values(seen, way) - truths(seen)
                columns = (
                    np.abs(errors).mean(axis=0),
                    errors.mean(axis=0),
                    np.quantile(np.abs(errors), 0.9, axis=0),
                )
                row += "   " + " | ".join(cells(column) for column in columns)
            print(row)


def print_sizes(looks: Sequence[Look]) -> list[Figure]:
    """Sizes, confidence and ranges per way of asking."""
    figures = []
    bodies = [look.render.body for look in looks]
    for way in WAYS:
        genders = [look.render.gender if "sex" in way else None for look in looks]
        right = np.array(right_sizes([look.render.truth["chest_cm"] for look in looks], genders))
        advice = [look.assessments[way].advice for look in looks]
        chosen, lower, upper = (
            np.array([SIZES.index(size) for size in sizes])
            for sizes in zip(*((each.size, each.lower, each.upper) for each in advice), strict=True)
        )
        confidence = np.array([each.confidence for each in advice])
        hits = (chosen == right).astype(float)
        inside = ((lower <= right) & (right <= upper)).mean()
        near = (np.abs(chosen - right) <= 1).mean()
        wide = (upper - lower + 1).mean()
        print(f"\nSizes from {way}: {hits.mean():.1%} exact, {near:.1%} exact or neighbouring")
        print(
            f"  size_range holds {inside:.1%}, {wide:.2f} sizes wide; mean confidence {confidence.mean():.3f}"
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


def print_body_types(looks: Sequence[Look], method: Method) -> None:
    """How often the word for the build is the one that the true girths lead to."""
    for way in ("height and sex", "height, weight and sex"):
        right = [
            look.assessments[way].body_type
            is body_type(
                look.render.height,
                look.render.truth["chest_cm"],
                look.render.truth["waist_cm"],
                look.render.gender,
                method.body_type_edges,
            )
            for look in looks
        ]
        print(f"Body type from {way}: {np.mean(right):.1%} as from the true girths")


def print_intervals(looks: Sequence[Look]) -> list[Figure]:
    figures = []
    truth = truths(looks)
    print("\nTrue values inside the 80 % intervals, and the intervals' width in cm: chest waist hip shoulder")
    for way in LIMITS:
        ends = np.array(
            [[look.assessments[way].measurements[name].interval for name in MEASURED] for look in looks]
        )
        inside = ((ends[:, :, 0] <= truth) & (truth <= ends[:, :, 1])).mean(axis=0)
        print(f"  {way:18s} {cells(inside, '6.1%')}   {cells((ends[:, :, 1] - ends[:, :, 0]).mean(axis=0))}")
        figures += [
            Figure(
                f"80 % interval of {name} from {way} covers", share, "", least=COVERAGE[0], most=COVERAGE[1]
            )
            for name, share in zip(MEASURED, inside.tolist(), strict=True)
        ]
    return figures


def print_views(looks: Sequence[Look]) -> list[Figure]:
    """How much the views of one body differ."""
    by_body: dict[str, list[int]] = {}
    for number, look in enumerate(looks):
        by_body.setdefault(look.render.body, []).append(number)
    several = [numbers for numbers in by_body.values() if len(numbers) > 1]
    print("\nStandard deviation over the views of one body in cm, mean over bodies: chest waist hip shoulder")
    if not several:
        print("  (one view of each body)")
        return []
    figures = []
    for way in (*LIMITS, "baseline"):
        estimates = values(looks, way)
        deviations, samples = (
            np.array([estimates[numbers].std(axis=0, ddof=ddof) for numbers in several]).mean(axis=0)
            for ddof in (0, 1)
        )
        print(f"  {way:18s} {cells(deviations)}   with n - 1 {cells(samples)}")
        if way == "height":
            figures += [
                Figure(f"{name}, deviation over views", deviation, "cm", most=MOST_VIEW_DEVIATION)
                for name, deviation in zip(GIRTHS, deviations.tolist(), strict=False)
            ]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renders", type=Path, required=True, help="folder of renders with its table")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    parser.add_argument("--json", type=Path, help="where to write the figures that have a limit")
    options = parser.parse_args()
    method = load_method()
    renders = read_renders(options.renders)
    looks = detect_all(options.model, renders, lambda landmarker, render: measure(landmarker, render, method))
    refused = [look for look in looks if look.refusal]
    measured = [look for look in looks if not look.refusal]
    bodies = {render.body for render in renders}
    print(f"{len(looks)} pictures of {len(bodies)} bodies, method {method.version}; refused {len(refused)}")
    for look in refused:
        print(f"  {look.render.path.name}: {look.refusal}")

    print_errors(looks, (*LIMITS, "baseline"))
    print()
    print_body_types(measured, method)
    figures = [Figure("refused", len(refused) / len(looks), "", most=MOST_REFUSED)]
    for way, limits in LIMITS.items():
        errors = np.abs(values(measured, way) - truths(measured)).mean(axis=0).tolist()
        figures += [
            Figure(f"{name} from {way}, mean absolute error", error, "cm", most=limit)
            for name, error, limit in zip(MEASURED, errors, limits, strict=True)
        ]
    figures += print_sizes(measured) + print_intervals(measured) + print_views(measured)
    sys.exit(conclude(figures, options.json))


if __name__ == "__main__":
    main()
