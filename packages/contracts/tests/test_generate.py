from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wearon_contracts import generate, typescript
from wearon_contracts.errors import ErrorCode, describe
from wearon_contracts.sessions import TRANSITIONS


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package folder in which everything is up to date and published."""
    (tmp_path / "pyproject.toml").touch()
    assert generate.main(["--publish"], tmp_path) == 0
    return tmp_path


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_what_is_committed_is_up_to_date_and_breaks_nobody() -> None:
    command = [sys.executable, "-m", "wearon_contracts.generate", "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_second_run_in_another_process_writes_the_same(package: Path) -> None:
    source = "import json; from wearon_contracts.generate import render; print(json.dumps(render()))"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, env=env
    )
    assert json.loads(other.stdout) == generate.render()


def test_a_stale_file_is_named(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit(package / "schemas/generation-task.schema.json", '"minItems": 1', '"minItems": 2')
    assert generate.main(["--check"], package) == 1
    told = capsys.readouterr().err
    assert told == "schemas/generation-task.schema.json is stale; run `python -m wearon_contracts.generate`\n"


def test_missing_and_left_over_files_are_named(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "typescript/generated/contracts.d.ts").unlink()
    (package / "schemas/fax.schema.json").write_text("{}")
    assert generate.main(["--check"], package) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in told] == [
        "typescript/generated/contracts.d.ts is missing",
        "schemas/fax.schema.json is no longer generated",
    ]


def test_a_check_changes_nothing(package: Path) -> None:
    file = package / "schemas/generation-task.schema.json"
    file.write_text("{}")
    generate.main(["--check"], package)
    assert file.read_text() == "{}"


def test_writing_repairs_all_of_it(package: Path) -> None:
    (package / "typescript/generated/contracts.d.ts").write_text("")
    (package / "schemas/fax.schema.json").write_text("{}")
    assert generate.main([], package) == 0
    assert generate.main(["--check"], package) == 0
    assert not (package / "schemas/fax.schema.json").exists()


def test_a_breaking_change_fails_the_check(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit(package / "schemas/published/generation-task.schema.json", '"maxItems": 16', '"maxItems": 20')
    assert generate.main(["--check"], package) == 1
    assert capsys.readouterr().err == (
        "generation-task breaks with what was published: image_urls: maxItems was 20, is 16\n"
    )


def test_a_breaking_change_is_not_published(package: Path) -> None:
    file = package / "schemas/published/generation-task.schema.json"
    _edit(file, '"maxItems": 16', '"maxItems": 20')
    before = file.read_text()
    assert generate.main(["--publish"], package) == 1
    assert file.read_text() == before


def test_breaking_change_is_published_with_a_reason_that_is_kept(package: Path) -> None:
    _edit(package / "schemas/published/generation-task.schema.json", '"maxItems": 16', '"maxItems": 20')
    (package / "schemas/published/fax.schema.json").write_text("{}")
    assert generate.main(["--publish", "--breaking", "nobody sends more than 16"], package) == 0
    assert generate.main(["--check"], package) == 0
    noted = (package / "schemas/published/breaking.md").read_text()
    assert "## nobody sends more than 16\n" in noted
    assert "- generation-task breaks with what was published: image_urls: maxItems was 20, is 16" in noted
    assert "- fax was published and is gone" in noted


@pytest.mark.parametrize("options", [["--breaking", "why"], ["--publish", "--breaking", " "]])
def test_breaking_needs_a_publication_and_a_reason(package: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit):
        generate.main(options, package)


def test_a_published_message_may_not_disappear(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "schemas/published/fax.schema.json").write_text("{}")
    assert generate.main(["--check"], package) == 1
    assert capsys.readouterr().err == "fax was published and is gone\n"


def test_outside_a_source_folder_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        generate.main([], tmp_path)
    assert "is not the source folder" in capsys.readouterr().err


def _constants() -> dict[str, object]:
    node = "import('./contracts.js').then((m) => console.log(JSON.stringify(m)))"
    folder = generate.PACKAGE / "typescript/generated"
    read = subprocess.run(["node", "-e", node], cwd=folder, capture_output=True, text=True, check=True)
    constants: dict[str, object] = json.loads(read.stdout)
    return constants


def test_node_reads_the_same_constants() -> None:
    constants = _constants()
    assert constants["TASK_LIST"] == "wearon:tasks:generation"
    assert constants["SIZES"] == ["XS", "S", "M", "L", "XL", "XXL"]
    assert constants["ERRORS"] == {
        code.value: {
            "sentence": describe(code).sentence,
            "retryable": describe(code).retryable,
            "family": describe(code).family.value,
        }
        for code in ErrorCode
    }
    transitions = constants["SESSION_TRANSITIONS"]
    assert isinstance(transitions, dict)
    assert {old: set(following) for old, following in transitions.items()} == TRANSITIONS


def test_commonjs_and_es_module_hold_the_same() -> None:
    files = typescript.files()
    modules = [name.removesuffix(".js") for name in files if name.endswith(".js")]
    assert modules
    for name in modules:
        assert files[f"{name}.js"].replace("export const ", "exports.") == files[f"{name}.cjs"]
        assert files[f"{name}.d.ts"] == files[f"{name}.d.cts"]


@pytest.mark.parametrize(
    ("schema", "type_"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer"}, "number"),
        ({"description": "anything", "default": None}, "unknown"),
        ({"const": 1, "type": "integer"}, "1"),
        ({"enum": ["a", "b"], "type": "string"}, '"a" | "b"'),
        ({"$ref": "#/$defs/Size"}, "Size"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, '("a" | "b")[]'),
        (
            {
                "type": "object",
                "propertyNames": {"enum": ["a"]},
                "additionalProperties": {"type": "number"},
            },
            'Partial<Record<"a", number>>',
        ),
    ],
)
def test_a_schema_has_its_typescript_type(schema: dict[str, object], type_: str) -> None:
    assert typescript.type_of(schema, "field") == type_


def test_a_schema_without_a_type_in_typescript_stops_the_generator() -> None:
    with pytest.raises(ValueError, match="field: no TypeScript for"):
        typescript.type_of({"type": "array", "prefixItems": []}, "field")
