"""Asks the sizing method about real photographs, none of which may get a measurement, and prints why not.

    python services/sizing-api/tools/check_photos.py --photos FOLDER

Exit code 1 when one of them was measured.
"""
# ruff: noqa: T201 - printing is what this is for

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from wearon_contracts.errors import sentence
from wearon_service_kit.images.decode import open_rgb
from wearon_sizing.measuring import load_method
from wearon_sizing.pose import Landmarker
from wearon_sizing.sizing import LONG_SIDE, PhotoRefusedError, Shopper, assess, find_person

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
HEIGHT_CM = 175.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in ENDINGS)
    if not photos:
        raise SystemExit(f"no photographs in {options.photos}")
    method = load_method()
    measured = 0
    with Landmarker(options.model) as landmarker:
        for path in photos:
            picture = np.asarray(open_rgb(path.read_bytes(), max_side=LONG_SIDE))
            try:
                assess(find_person(landmarker, picture), Shopper(HEIGHT_CM), method)
            except PhotoRefusedError as refusal:
                print(f"{path.name:34s} {refusal.code.value:20s} {sentence(refusal.code)}")
            else:
                print(f"{path.name:34s} MEASURED")
                measured += 1
    print(f"\n{len(photos) - measured} of {len(photos)} refused")
    sys.exit(bool(measured))


if __name__ == "__main__":
    main()
