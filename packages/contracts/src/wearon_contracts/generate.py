"""Writes what follows from the models: `python -m wearon_contracts.generate [--check | --publish]`.

Without an option, schemas/*.schema.json and typescript/generated/* are written. `--check` changes nothing and
fails if one of them is stale or a message breaks with its published schema. `--publish` makes the current
schemas the published ones, unless that would break somebody; `--breaking REASON` publishes all the same and
notes what breaks and why in schemas/published/breaking.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from wearon_contracts import typescript
from wearon_contracts.compatibility import breaking_changes
from wearon_contracts.schemas import MESSAGES, JsonSchema, json_schema

PACKAGE: Final = Path(__file__).resolve().parents[2]
"""The folder packages/contracts of a source checkout."""

_COMMAND: Final = "python -m wearon_contracts.generate"
_OURS: Final = ("schemas/*.schema.json", "typescript/generated/*")


def render() -> dict[str, str]:
    """Every generated file: path below `PACKAGE` and content."""
    files = {f"schemas/{m.name}.schema.json": _json(json_schema(m)) for m in MESSAGES}
    return files | {f"typescript/generated/{name}": text for name, text in typescript.files().items()}


def stale(package: Path) -> Iterator[str]:
    """A sentence for every generated file below `package` that is missing, outdated or left over."""
    wanted = render()
    for path, content in wanted.items():
        file = package / path
        if not file.is_file():
            yield f"{path} is missing"
        elif file.read_text(encoding="utf-8") != content:
            yield f"{path} is stale"
    for pattern in _OURS:
        for file in sorted(package.glob(pattern)):
            if (path := file.relative_to(package).as_posix()) not in wanted:
                yield f"{path} is no longer generated"


def broken(package: Path) -> Iterator[str]:
    """A sentence for every way in which a message breaks with the schema published below `package`."""
    messages = {_published(package, m.name): m for m in MESSAGES}
    for file in sorted((package / "schemas/published").glob("*.schema.json")):
        if file not in messages:
            yield f"{file.name.removesuffix('.schema.json')} was published and is gone"
            continue
        message = messages[file]
        published = json.loads(file.read_text(encoding="utf-8"))
        for change in breaking_changes(
            published, json_schema(message), read=message.read, written=message.written
        ):
            yield f"{message.name} breaks with what was published: {change}"


def write(package: Path) -> None:
    """Bring every generated file below `package` up to date."""
    wanted = render()
    for pattern in _OURS:
        for file in package.glob(pattern):
            if file.relative_to(package).as_posix() not in wanted:
                file.unlink()
    for path, content in wanted.items():
        _write(package / path, content)


def publish(package: Path) -> None:
    """Make the current schemas the only ones that later changes are compared with."""
    for file in (package / "schemas/published").glob("*.schema.json"):
        file.unlink()
    for message in MESSAGES:
        _write(_published(package, message.name), _json(json_schema(message)))


def note_breaks(package: Path, problems: Sequence[str], reason: str) -> None:
    """Write down below `package` what a publication broke, and why that was accepted."""
    file = package / "schemas/published/breaking.md"
    before = (
        file.read_text(encoding="utf-8") if file.is_file() else "# Published although it broke a reader\n"
    )
    _write(file, "\n".join([before, f"## {' '.join(reason.split())}\n", *(f"- {p}" for p in problems), ""]))


def main(arguments: Sequence[str] | None = None, package: Path = PACKAGE) -> int:
    """Run the command line; 1 if a check fails."""
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="change nothing, fail if something is wrong")
    what.add_argument("--publish", action="store_true", help="publish the current schemas")
    parser.add_argument(
        "--breaking", metavar="REASON", help="with --publish: why what breaks may be published all the same"
    )
    options = parser.parse_args(arguments)
    if options.breaking is not None and not (options.publish and options.breaking.strip()):
        parser.error("--breaking goes with --publish and needs a reason")
    if not (package / "pyproject.toml").is_file():
        parser.error(f"{package} is not the source folder of this package; install it with pip install -e")

    problems = list(broken(package))
    if options.check:
        problems = [f"{problem}; run `{_COMMAND}`" for problem in stale(package)] + problems
    elif options.publish:
        if problems and options.breaking:
            note_breaks(package, problems, options.breaking)
            problems = []
        if not problems:
            write(package)
            publish(package)
    else:
        write(package)
    for problem in problems:
        sys.stderr.write(problem + "\n")
    return 1 if problems else 0


def _published(package: Path, name: str) -> Path:
    return package / "schemas/published" / f"{name}.schema.json"


def _json(schema: JsonSchema) -> str:
    return json.dumps(schema, indent=2) + "\n"


def _write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
