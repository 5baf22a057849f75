"""What the photo check says of photographs, and of renders that were made unfit in a known way.

    python services/sizing-api/tools/check_photos.py --photos FOLDER [--renders renders2/dev]

None of the photographs may be measured: exit code 1 when one of them is. With --renders every situation is
made from each front picture, and a table says how often the check gave a true reason. `ms` is the median time
of decoding, detecting and judging one picture, without the download.
"""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

from wearon_contracts.errors import ErrorCode
from wearon_contracts.sizing import PhotoPurpose
from wearon_sizing.photo_check import look, refuse_try_on
from wearon_sizing.pose import Landmarker
from wearon_sizing.sizing import open_photo, refuse_photo

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
E = ErrorCode
FINE: frozenset[ErrorCode | None] = frozenset({None})


@dataclass(frozen=True)
class Front:
    """A front picture of one whole person, and the rows of its pixels at which chest, seat and soles lie."""

    path: Path
    chest_row: float
    hip_row: float
    floor_row: float

    def open(self) -> Image.Image:
        return Image.open(self.path).convert("RGB")


# From a front picture and another one.
Make = Callable[[Front, Front], Image.Image]


@dataclass(frozen=True)
class Situation:
    """How a picture is made from two front pictures, and the reasons that are true of it."""

    name: str
    make: Make
    try_on: frozenset[ErrorCode | None]
    sizing: frozenset[ErrorCode | None]


def _cut(share: float) -> Make:
    """The picture down to this share of the way from chest (0) to seat (1)."""

    def make(one: Front, _: Front) -> Image.Image:
        picture = one.open()
        return picture.crop(
            (0, 0, picture.width, round(one.chest_row + share * (one.hip_row - one.chest_row)))
        )

    return make


def _beside(one: Front, other: Front) -> Image.Image:
    left, right = one.open(), other.open()
    right = right.resize((round(right.width * left.height / right.height), left.height))
    sheet = Image.new("RGB", (left.width + right.width, left.height))
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width, 0))
    return sheet


def _far(one: Front, _: Front) -> Image.Image:
    picture = one.open()
    sheet = Image.new("RGB", picture.size, picture.getpixel((2, 2)))
    small = picture.resize((picture.width // 7, picture.height // 7))
    sheet.paste(small, ((picture.width - small.width) // 2, (picture.height - small.height) // 2))
    return sheet


def _background(one: Front, _: Front) -> Image.Image:
    """The left edge of the picture, where nobody stands, stretched over it."""
    picture = one.open()
    return picture.crop((0, 0, max(picture.width // 10, 8), picture.height)).resize(picture.size)


def _sitting(one: Front, _: Front) -> Image.Image:
    """The rows of the thighs pressed to a fifth, as when they point at the camera."""
    picture = one.open()
    hips, knees = round(one.hip_row), round((one.hip_row + one.floor_row) / 2)
    thighs = picture.crop((0, hips, picture.width, knees)).resize((picture.width, (knees - hips) // 5))
    floor = picture.crop((0, picture.height - 1, picture.width, picture.height))
    sheet = floor.resize(picture.size)
    sheet.paste(picture.crop((0, 0, picture.width, hips)), (0, 0))
    sheet.paste(thighs, (0, hips))
    sheet.paste(picture.crop((0, knees, picture.width, picture.height)), (0, hips + thighs.height))
    return sheet


def _dark(one: Front, _: Front) -> Image.Image:
    return ImageEnhance.Brightness(one.open()).enhance(0.12)


def _blurred(one: Front, _: Front) -> Image.Image:
    picture = one.open()
    return picture.filter(ImageFilter.GaussianBlur(picture.height / 90))


def _only(*codes: ErrorCode) -> frozenset[ErrorCode | None]:
    return frozenset(codes)


FEET_CUT = _only(E.FEET_OUTSIDE_FRAME)
SITUATIONS = (
    Situation("as it is", lambda one, _: one.open(), FINE, FINE),
    Situation("down to the thighs", _cut(1.5), FINE, FEET_CUT),
    Situation("down to the hips", _cut(1.05), FINE, FEET_CUT),
    Situation("down to the waist", _cut(0.6), FINE, FEET_CUT),
    Situation(
        "head and shoulders",
        _cut(-0.1),
        _only(E.UPPER_BODY_OUTSIDE_FRAME, E.PERSON_TOO_SMALL),
        _only(E.FEET_OUTSIDE_FRAME, E.PERSON_TOO_SMALL),
    ),
    Situation("sitting", _sitting, FINE, _only(E.SEATED_OR_BENT)),
    Situation("two people", _beside, _only(E.SEVERAL_PEOPLE), _only(E.SEVERAL_PEOPLE)),
    Situation("nobody", _background, _only(E.NO_PERSON, E.BLURRED), _only(E.NO_PERSON, E.BLURRED)),
    Situation("far away", _far, *[_only(E.PERSON_TOO_SMALL, E.NO_PERSON)] * 2),
    Situation("dark", _dark, _only(E.TOO_DARK), _only(E.TOO_DARK)),
    Situation("blurred", _blurred, _only(E.BLURRED), _only(E.BLURRED)),
)


class Judge:
    """Checks pictures as the service does, and keeps the time."""

    def __init__(self, landmarker: Landmarker) -> None:
        self._landmarker = landmarker
        self.seconds: list[float] = []

    def check(self, data: bytes) -> tuple[dict[PhotoPurpose, ErrorCode | None], str]:
        """The code per purpose, and what was seen in words."""
        start = time.perf_counter()
        picture = open_photo(data)
        people = self._landmarker.detect(picture)
        codes = {PhotoPurpose.TRY_ON: refuse_try_on(picture, people)}
        sight = look(picture, people)
        self.seconds.append(time.perf_counter() - start)
        codes[PhotoPurpose.SIZING] = refuse_photo(picture, people)
        seen = (
            f"{sight.people} people, {sight.body.value}, light {sight.light:.2f}, sharp {sight.sharpness:.2f}"
        )
        return codes, seen


def show_photos(judge: Judge, photos: Sequence[Path]) -> int:
    """A line per photograph; returns how many could be measured."""
    print(f"{'photograph':32s} {'sizing':20s} {'try_on':26s} seen")
    measured = 0
    for path in photos:
        codes, seen = judge.check(path.read_bytes())
        measured += codes[PhotoPurpose.SIZING] is None
        words = {purpose: code.value if code else "usable" for purpose, code in codes.items()}
        print(
            f"{path.name[:31]:32s} {words[PhotoPurpose.SIZING]:20s} {words[PhotoPurpose.TRY_ON]:26s} {seen}"
        )
    return measured


def read_fronts(folder: Path) -> list[Front]:
    """The front pictures of renders2/train or renders2/dev, with the rows that the table beside it gives."""
    with folder.with_name(f"{folder.name}.csv").open(newline="") as table:
        return [
            Front(
                folder.parent / row["image"],
                *(float(row[f"{level}_row_px"]) for level in ("chest", "hip", "floor")),
            )
            for row in csv.DictReader(table)
            if row["view"] == "front"
        ]


def show_renders(judge: Judge, fronts: Sequence[Front]) -> None:
    """A line per situation and purpose."""
    print(f"\n{'situation':22s} {'purpose':8s} {'pictures':>8s} {'true':>6s}  untrue answers")
    for situation in SITUATIONS:
        given: dict[PhotoPurpose, Counter[ErrorCode | None]] = {
            purpose: Counter() for purpose in PhotoPurpose
        }
        for one, other in zip(fronts, [*fronts[1:], fronts[0]], strict=True):
            made = situation.make(one, other)
            buffer = io.BytesIO()
            made.save(buffer, "JPEG", quality=90)
            for purpose, code in judge.check(buffer.getvalue())[0].items():
                given[purpose][code] += 1
        for purpose, wanted in (
            (PhotoPurpose.TRY_ON, situation.try_on),
            (PhotoPurpose.SIZING, situation.sizing),
        ):
            true = sum(count for code, count in given[purpose].items() if code in wanted)
            untrue = ", ".join(
                f"{code.value if code else 'usable'} {count}"
                for code, count in given[purpose].most_common()
                if code not in wanted
            )
            share = true / len(fronts)
            print(f"{situation.name:22s} {purpose.value:8s} {len(fronts):8d} {share:6.1%}  {untrue}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder of photographs, all unfit for sizing"
    )
    parser.add_argument(
        "--renders", type=Path, help="renders2/dev or renders2/train, with its .csv beside it"
    )
    parser.add_argument("--most", type=int, default=60, help="front pictures to use (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in ENDINGS)
    if not photos:
        raise SystemExit(f"no photographs in {options.photos}")
    with Landmarker(options.model) as landmarker:
        judge = Judge(landmarker)
        measured = show_photos(judge, photos)
        if options.renders:
            fronts = read_fronts(options.renders)
            show_renders(judge, fronts[:: max(len(fronts) // options.most, 1)][: options.most])
        print(
            f"\n{statistics.median(judge.seconds) * 1000:.0f} ms a picture (median of {len(judge.seconds)})"
        )
    print(f"{len(photos) - measured} of {len(photos)} photographs refused for sizing")
    sys.exit(bool(measured))


if __name__ == "__main__":
    main()
