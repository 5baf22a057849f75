"""The TypeScript package as somebody else gets it: packed, unpacked into an empty project, compiled, run."""

from __future__ import annotations

import json
import re
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
    """An empty project with the packed package and what it depends on in its node_modules."""
    project = tmp_path_factory.mktemp("project")
    packed = _run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", project], typescript)
    assert packed.returncode == 0, packed.stderr
    target = project / "node_modules/@wearon/contracts"
    target.mkdir(parents=True)
    with tarfile.open(project / packed.stdout.strip()) as archive:
        for member in archive.getmembers():
            member.name = member.name.removeprefix("package/")
            archive.extract(member, target, filter="data")
    listed = _run(["npm", "ls", "--omit=dev", "--all", "--parseable"], typescript)
    assert listed.returncode == 0, listed.stderr
    for folder in map(Path, listed.stdout.splitlines()[1:]):
        installed = project / "node_modules" / folder.relative_to(typescript / "node_modules")
        installed.parent.mkdir(exist_ok=True)
        installed.symlink_to(folder)
    return project


@pytest.fixture(scope="module")
def application(project: Path, typescript: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has ioredis, supabase-js and Node's types besides."""
    application = tmp_path_factory.mktemp("application")
    (application / "node_modules").mkdir()
    for folder in (typescript / "node_modules").iterdir():
        (application / "node_modules" / folder.name).symlink_to(folder)
    (application / "node_modules/@wearon").symlink_to(project / "node_modules/@wearon")
    return application


def test_npm_package_holds_the_files_it_needs_and_no_others(project: Path) -> None:
    root = project / "node_modules/@wearon/contracts"
    files = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    modules = {
        "index", "cancel", "enqueue", "follow", "outcome", "owner", "place", "result", "routes", "sizing",
        "supabase", "watch", "webhooks",
    }  # fmt: skip
    compiled = {f"{module}.{kind}" for module in modules for kind in ("js", "d.ts")}
    generated = {"contracts", "task-schema"}
    assert files == {
        "package.json",
        "README.md",
        *(f"generated/{name}.{kind}" for name in generated for kind in ("js", "d.ts")),
        *(f"dist/esm/{file}" for file in compiled),
        *(f"dist/cjs/{file}" for file in compiled),
        *(f"dist/cjs/{name}.{kind}" for name in generated for kind in ("cjs", "d.cts")),
        "dist/cjs/package.json",
    }


def test_npm_package_has_the_version_of_the_python_package() -> None:
    python = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["version"]
    assert json.loads((PACKAGE / "typescript/package.json").read_text())["version"] == python


def test_npm_lock_names_no_registry_and_has_a_hash_for_every_file() -> None:
    lock = json.loads((PACKAGE / "typescript/package-lock.json").read_text())
    packages = [entry for name, entry in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in entry and "resolved" not in entry for entry in packages)


def _compile(typescript: Path, folder: Path, files: Sequence[str], options: Sequence[str]) -> str:
    """What the compiler has to say, if anything."""
    strict = ["--strict", "--noEmit", "--exactOptionalPropertyTypes", "--target", "es2022"]
    tsc = typescript / "node_modules/.bin/tsc"
    compiled = _run([tsc, *strict, "--lib", "es2023,dom", *options, *files], folder)
    assert (compiled.returncode == 0) == (compiled.stdout == "")
    return compiled.stdout


NODE16 = ("--module", "node16", "--moduleResolution", "node16")
BUNDLER = ("--module", "esnext", "--moduleResolution", "bundler")


@pytest.mark.parametrize(
    ("name", "options"), [("usage.mts", NODE16), ("usage.cts", NODE16), ("usage.ts", BUNDLER)]
)
def test_npm_types_accept_right_fields_and_refuse_wrong_ones(
    project: Path, typescript: Path, name: str, options: Sequence[str]
) -> None:
    (project / name).write_text((typescript / "test/usage.ts").read_text())
    assert _compile(typescript, project, [name], [*options, "--types", ""]) == ""


@pytest.mark.parametrize(("name", "options"), [("clients.mts", NODE16), ("clients.ts", BUNDLER)])
def test_the_clients_that_applications_have_fit(
    application: Path, typescript: Path, name: str, options: Sequence[str]
) -> None:
    (application / name).write_text((typescript / "test/clients.ts").read_text())
    # Without skipLibCheck it would be supabase-js that is checked.
    assert _compile(typescript, application, [name], [*options, "--types", "node", "--skipLibCheck"]) == ""


def test_the_examples_of_its_readme_compile(application: Path, typescript: Path) -> None:
    examples = re.findall(r"```ts\n(.*?)```", (typescript / "README.md").read_text(), re.DOTALL)
    assert examples
    # The file that the others import as an application does.
    (application / "lib").mkdir()
    [shared] = [example for example in examples if "createTryOnRoutes({" in example]
    (application / "lib/wearon.ts").write_text(shared)
    files = [f"example{number}.ts" for number in range(len(examples))]
    for file, example in zip(files, examples, strict=True):
        (application / file).write_text(example.replace("@/lib/wearon", "./lib/wearon"))
    options = [*BUNDLER, "--types", "node", "--skipLibCheck"]
    assert _compile(typescript, application, files, options) == ""


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


def test_the_packages_own_tests_pass(typescript: Path) -> None:
    tested = _run(["npm", "test", "--silent"], typescript)
    assert tested.returncode == 0, tested.stdout
