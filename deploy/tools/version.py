"""Writes the number in VERSION to every place that needs it; with --check, only says what is stale."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TYPESCRIPT = ROOT / "packages" / "contracts" / "typescript"
PLACES = {
    **dict.fromkeys(sorted(ROOT.glob("packages/*/pyproject.toml")), r'(?m)^(version = ")[^"]+(")'),
    **dict.fromkeys(sorted(ROOT.glob("services/*/pyproject.toml")), r'(?m)^(version = ")[^"]+(")'),
    **dict.fromkeys(sorted(ROOT.glob("services/*/Dockerfile")), r"(?m)^(ARG VERSION=)\S+()"),
    ROOT / "packages/service-kit/src/wearon_service_kit/__init__.py": r'(?m)^(__version__ = ")[^"]+(")',
    TYPESCRIPT / "package.json": r'("version": ")[^"]+(")',
    TYPESCRIPT / "package-lock.json": r'("name": "@wearon/contracts",\s+"version": ")[^"]+(")',
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a place is stale")
    check = parser.parse_args().check
    version = (ROOT / "VERSION").read_text().strip()
    stale = []
    for path, pattern in PLACES.items():
        text = path.read_text()
        right = re.sub(pattern, rf"\g<1>{version}\g<2>", text)
        if right == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not check:
            path.write_text(right)
    if stale and check:
        print(f"not at version {version}: {', '.join(stale)}; run make generated", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
