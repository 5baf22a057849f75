"""The command line of a script that writes one file which stands in the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(file: Path, render: Callable[[], str], *, description: str | None, rule: str) -> int:
    """Write `file`; with --check only look at it, and return 1 if it is not what `render` makes.

    `rule`: of make, which writes it.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is stale")
    only_check = parser.parse_args().check
    text = render()
    if not only_check:
        file.write_text(text)
    elif not file.exists() or file.read_text() != text:
        print(f"{file.name} is stale: run `make {rule}`", file=sys.stderr)
        return 1
    return 0
