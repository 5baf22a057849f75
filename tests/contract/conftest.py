"""What the contract tests share: the TypeScript package's tools and a running ajv."""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "packages/contracts"
TYPESCRIPT = PACKAGE / "typescript"


@dataclass(frozen=True)
class Verdict:
    """Whether ajv takes a message, and the top-level keys it is refused for."""

    valid: bool
    keys: list[str]


class Ajv:
    """A Node process that judges messages by the generated JSON Schemas."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def judge(self, message: str, text: str) -> Verdict:
        """ajv's verdict on the JSON document `text`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"message": message, "text": text}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the Node validator ended; its error stands above"
        return Verdict(**json.loads(answer))


@pytest.fixture(scope="session")
def typescript() -> Path:
    """The TypeScript package's folder, its locked tools installed and its sources compiled.

    Several processes of one test run may ask at once: the first does it, the others wait and find it done.
    """
    lock = TYPESCRIPT / "package-lock.json"
    installed = TYPESCRIPT / "node_modules/.package-lock.json"
    built = TYPESCRIPT / "node_modules/.built"
    with (TYPESCRIPT / "package.json").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
            npm_ci = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(npm_ci, cwd=TYPESCRIPT, check=True)
        sources = _digest_of_sources()
        if not built.is_file() or built.read_text() != sources or not (TYPESCRIPT / "dist").is_dir():
            subprocess.run(["npm", "run", "--silent", "build"], cwd=TYPESCRIPT, check=True)
            built.write_text(sources)
    return TYPESCRIPT


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for pattern in ("src/*", "generated/*", "tools/*", "*.json"):
        for file in sorted(TYPESCRIPT.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def ajv(typescript: Path) -> Iterator[Ajv]:
    """ajv with every schema of the repository."""
    with subprocess.Popen(
        ["node", "tools/verdicts.js"],
        cwd=typescript,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        yield Ajv(process)
        # Each of its answers was read. Node 20 was once seen not to end by itself when its input did.
        process.kill()
