"""`python -m tests.bench`: measure the product beside what people would otherwise run."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import (
    bridge,
    downloads,
    fair,
    footprint,
    generator,
    idle,
    images,
    memory,
    profiles,
    scaling,
    sizing,
    sweep,
    webhooks,
)
from tests.bench.noise import compare
from tests.bench.plots import draw
from tests.bench.report import Bench, Section, write_json

BENCHES: dict[str, Bench] = {
    "bridge": bridge.run,
    "images": images.run,
    "memory": memory.run,
    "downloads": downloads.run,
    "sweep": sweep.run,
    "footprint": footprint.run,
    "idle": idle.run,
    "scaling": scaling.run,
    "fair": fair.run,
    "webhooks": webhooks.run,
    "generator": generator.run,
    "sizing": sizing.run,
    "profiles": profiles.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, rougher figures")
    parser.add_argument("--only", choices=BENCHES, action="append", help="only this one; may be repeated")
    parser.add_argument("--output", type=Path, default=Path(".local/bench"), help="where JSON and plots go")
    parser.add_argument(
        "--compare", type=Path, nargs="+", metavar="JSON", help="measure nothing; how far results lie apart"
    )
    arguments = parser.parse_args()
    if arguments.compare:
        print(compare(arguments.compare))
        return 0
    directory = arguments.output / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    directory.mkdir(parents=True)
    sections: list[Section] = []
    for name in arguments.only or BENCHES:
        began = time.monotonic()
        print(f"\n... {name}", file=sys.stderr, flush=True)
        for section in BENCHES[name](arguments.quick):
            sections.append(section)
            print(section.show(), flush=True)
        print(f"... {name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    write_json(sections, directory / "results.json", machine)
    draw(sections, directory)
    lines = [line for section in sections for line in section.lines if line.met is not None]
    met = sum(line.met is True for line in lines)
    print(f"\n{met} of {len(lines)} targets met; JSON and plots in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
