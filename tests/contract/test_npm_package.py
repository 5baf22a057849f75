"""The TypeScript package as somebody else gets it: packed, unpacked into an empty project, compiled, run."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "packages/contracts"


def _run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(typescript: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project with the packed package in its node_modules."""
    project = tmp_path_factory.mktemp("project")
    packed = _run(["npm", "pack", "--silent", "--pack-destination", project], typescript)
    assert packed.returncode == 0, packed.stderr
    target = project / "node_modules/@wearon/contracts"
    target.mkdir(parents=True)
    with tarfile.open(project / packed.stdout.strip()) as archive:
        for member in archive.getmembers():
            member.name = member.name.removeprefix("package/")
            archive.extract(member, target, filter="data")
    return project


def test_it_holds_what_is_needed_and_nothing_else(project: Path) -> None:
    root = project / "node_modules/@wearon/contracts"
    files = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    assert files == {
        "package.json",
        "README.md",
        "generated/contracts.js",
        "generated/contracts.cjs",
        "generated/contracts.d.ts",
        "generated/contracts.d.cts",
    }


def test_it_has_the_version_of_the_python_package() -> None:
    python = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["version"]
    assert json.loads((PACKAGE / "typescript/package.json").read_text())["version"] == python


def test_its_lock_names_no_registry_and_checks_every_file() -> None:
    lock = json.loads((PACKAGE / "typescript/package-lock.json").read_text())
    packages = [entry for name, entry in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in entry and "resolved" not in entry for entry in packages)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("usage.mts", ["--module", "node16", "--moduleResolution", "node16"]),
        ("usage.cts", ["--module", "node16", "--moduleResolution", "node16"]),
        ("usage.ts", ["--module", "esnext", "--moduleResolution", "bundler"]),
    ],
)
def test_its_types_hold_and_refuse_wrong_fields(
    project: Path, typescript: Path, name: str, options: list[str]
) -> None:
    (project / name).write_text((typescript / "test/usage.ts").read_text())
    tsc = typescript / "node_modules/.bin/tsc"
    strict = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2022,dom", "--types", ""]
    compiled = _run([tsc, *strict, *options, name], project)
    assert (compiled.returncode, compiled.stdout) == (0, "")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("use.mjs", "import { TASK_LIST } from '@wearon/contracts'; console.log(TASK_LIST);"),
        ("use.cjs", "const { TASK_LIST } = require('@wearon/contracts'); console.log(TASK_LIST);"),
    ],
)
def test_node_loads_it_either_way(project: Path, name: str, source: str) -> None:
    (project / name).write_text(source)
    loaded = _run(["node", name], project)
    assert (loaded.stdout, loaded.stderr) == ("wearon:tasks:generation\n", "")
