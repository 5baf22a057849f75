"""Opens whole folders of pictures as if they had been downloaded, and compares what opened with libvips.

    python packages/service-kit/tools/sample_sets.py FOLDER [FOLDER ...]

Meant for the sample sets of decoders: the test data in the source packages of Pillow, gdk-pixbuf, libgd and
others. Each file is told by its bytes, opened and made a JPEG in a process of its own, so that a crash, an
exception or a hang is seen. What opens is opened a second time at full size and compared with libvips, in a
process of its own too. libvips does not read the PNG chunks and AVIF code points that name colours without a
profile; there it gets the profile that we made of them.

Exit code 1 when a file crashed, or there was none. Sizes and colours are listed, not judged: where decoders
differ, both may be right (CMYK without a profile), or libvips wrong (orientation behind a PNG's pixels).
"""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.body import Body
from wearon_service_kit.images.decode import open_rgb, prepare_jpeg
from wearon_service_kit.images.errors import ImageRefused
from wearon_service_kit.images.formats import ImageFormat
from wearon_service_kit.images.png_file import read_png
from wearon_service_kit.images.webp_avif import avif_profile

_JPEG: Final = (".jpg", ".jpeg", ".jpe", ".jfif")
_OTHERS: Final = (".png", ".apng", ".webp", ".avif", ".heic", ".heif", ".gif", ".svg")
_REFUSED: Final = (".bmp", ".ico", ".tif", ".tiff", ".jxl", ".jp2")
ENDINGS: Final = frozenset((*_JPEG, *_OTHERS, *_REFUSED))
MAX_BYTES: Final = 10 * 1024 * 1024  # as the generator downloads
CHUNK: Final = 64 * 1024  # bytes fed at once
SECONDS: Final = 120.0  # for one file; far more than the largest takes on a busy machine
FULL_SIZE: Final = 65_535  # pixels; no file that is opened has a longer side
OUTLIER: Final = 3.0  # of 255, mean over all pixels and channels: the tolerance of test_colour.py

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), sRGB on white."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ours:
    """`refused`: what a shopper would be told. `pixels`: also of files refused only for being small."""

    refused: ErrorCode | None
    detail: str = ""
    format: ImageFormat | None = None
    pixels: Pixels | None = None


class Crashed(Exception):
    """A process that ended without an answer, or took too long."""


def in_child(work: Callable[[], T]) -> T:
    """What `work` returns, run in a forked process.

    Raises Crashed when it raised, ended by a signal or was not done in time.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(work, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            raise Crashed(f"over {SECONDS:g} s")
        kind, answer = receiver.recv()
    except EOFError as error:
        child.join()
        raise Crashed(f"ended with {child.exitcode}") from error
    finally:
        child.kill()
        child.join()
        receiver.close()
    if kind is Crashed:
        raise Crashed(answer)
    result: T = answer
    return result


def _answer(work: Callable[[], object], sender: Connection) -> None:
    try:
        answer: tuple[object, object] = (None, work())
    except Exception as error:
        answer = (Crashed, f"{type(error).__name__}: {str(error).strip()[:150]}")
    sender.send(answer)


def open_ours(data: bytes) -> Ours:
    body = Body("", MAX_BYTES)
    try:
        for start in range(0, len(data), CHUNK):
            body.feed(data[start : start + CHUNK])
        data, format_ = body.finish()
        refused = None
        try:
            prepare_jpeg(data)
        except ImageRefused as error:
            if error.code is not ErrorCode.IMAGE_TOO_SMALL:
                raise
            refused = error.code
        return Ours(refused, format=format_, pixels=np.asarray(open_rgb(data, max_side=FULL_SIZE)))
    except ImageRefused as error:
        return Ours(error.code, error.detail)


def open_with_vips(data: bytes, format_: ImageFormat | None) -> Pixels:
    """Upright, in sRGB, on white."""
    import pyvips  # type: ignore[import-untyped] # noqa: PLC0415 - starts threads, which a fork would not have

    image: Any = pyvips.Image.new_from_buffer(data, "", fail_on="truncated").autorot()
    named = {"PNG": lambda: read_png(data).profile, "AVIF": lambda: avif_profile(data)}
    if image.get_typeof("icc-profile-data") == 0 and format_ in named:
        profile = named[format_]()
        if profile is not None:
            image = image.copy()
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    if image.get_typeof("icc-profile-data") != 0:
        # The intent that Pillow takes; libvips' own differs on the profiles of printers.
        image = image.icc_transform("srgb", embedded=True, depth=8, intent="perceptual")
    else:
        image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=255)
    return np.asarray(image.cast("uchar"), dtype=np.uint8)


def difference(ours: Pixels, theirs: Pixels) -> float:
    """The mean over all pixels of a picture and its channels, in levels of 255."""
    return float(np.abs(ours.astype(np.int16) - theirs.astype(np.int16)).mean())


class Report:
    """Counts and lists of one run; `names` of files are as they are printed."""

    def __init__(self) -> None:
        self.files = 0
        self.opened: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.crashed: list[str] = []
        self.sizes: list[str] = []
        self.differences: list[tuple[float, str]] = []
        self.only_ours: list[str] = []
        self.only_theirs: list[str] = []

    def add(self, name: str, data: bytes) -> None:
        self.files += 1
        try:
            ours = in_child(partial(open_ours, data))
        except Crashed as error:
            self.crashed.append(f"{name}: {error}")
            return
        if ours.refused is None:
            self.opened[str(ours.format)] += 1
        else:
            self.refused[str(ours.refused)] += 1
        if ours.pixels is None and ours.refused is not ErrorCode.IMAGE_DAMAGED:
            return
        try:
            theirs = in_child(partial(open_with_vips, data, ours.format))
        except Crashed as error:
            if ours.pixels is not None:
                self.only_ours.append(f"{name}: {error}")
            return
        if ours.pixels is None:
            self.only_theirs.append(f"{name}: {ours.detail}")
        elif ours.pixels.shape != theirs.shape:
            self.sizes.append(f"{name}: {ours.pixels.shape}, libvips {theirs.shape}")
        else:
            self.differences.append((difference(ours.pixels, theirs), name))

    def lines(self) -> list[str]:
        levels = [level for level, _ in self.differences]
        outliers = sorted((pair for pair in self.differences if pair[0] > OUTLIER), reverse=True)
        small = self.refused[str(ErrorCode.IMAGE_TOO_SMALL)]
        worst = max(levels, default=0.0)
        median = float(np.median(levels)) if levels else 0.0
        return [
            f"files            {self.files}",
            f"opened           {sum(self.opened.values())}  {_counts(self.opened)}",
            f"refused          {sum(self.refused.values())}  {_counts(self.refused)}",
            *_listed("crashed", self.crashed),
            f"compared         {len(levels) + len(self.sizes)}, with {small} refused only for being small",
            *_listed("size differs", self.sizes),
            f"mean difference  median {median:.2f}, largest {worst:.2f} of 255",
            *_listed(f"over {OUTLIER:g} of 255", [f"{level:6.2f}  {name}" for level, name in outliers]),
            *_listed("only we open", self.only_ours),
            *_listed("only libvips", self.only_theirs),
        ]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def _listed(title: str, items: Sequence[str]) -> list[str]:
    return [f"{title:<16} {len(items)}", *(f"    {item}" for item in items)]


def pictures(folders: Sequence[Path]) -> list[Path]:
    """Files below `folders` whose name ends like a picture's."""
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.is_symlink()
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    found = pictures(parser.parse_args().folders)
    report = Report()
    for path in found:
        report.add(str(path), path.read_bytes())
    print("\n".join(report.lines()))
    return 1 if report.crashed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
