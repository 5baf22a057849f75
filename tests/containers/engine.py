"""A container engine and compose, whichever form of it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGES: Final = {
    "consumer": "wearon-consumer:dev",
    "generator": "wearon-generator:dev",
    "sizing-api": "wearon-sizing:dev",
}
BASE_IMAGE: Final = os.environ.get("BASE", "python:3.11-slim-bookworm")
_NEEDED: Final = (
    "The container tests need Docker, running, and compose (docker compose or docker-compose 1.29)."
)


def run(argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = 600) -> str:
    """Run a command and return what it printed; raises AssertionError with its errors if it fails."""
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr}{done.stdout}"
    return done.stdout


def docker(*arguments: str, timeout: float = 600) -> str:
    """Run docker; returns what it printed, stripped."""
    return run(["docker", *arguments], timeout=timeout).strip()


def run_detached(*arguments: str) -> str:
    """As `docker run --detach`, but what cannot be started is removed again; returns the container's id."""
    container = docker("create", *arguments)
    try:
        docker("start", container)
    except AssertionError:
        docker("rm", "--force", "--volumes", container)
        raise
    return container


def present() -> set[str]:
    """Everything that the engine keeps besides images: containers, volumes and networks."""
    return {
        f"{kind} {found}"
        for kind, *command in (
            ("container", "ps", "-a"),
            ("volume", "volume", "ls"),
            ("network", "network", "ls"),
        )
        for found in docker(*command, "--quiet").split()
    }


def remove_derived_images() -> None:
    """Those that a test made from another by a label `wearon.test`."""
    for image in set(docker("image", "ls", "--quiet", "--filter", "label=wearon.test").split()):
        docker("rmi", "--force", image)


def inspect(name: str) -> dict[str, Any]:
    """What the engine knows about a container or an image."""
    (found,) = json.loads(docker("inspect", name))
    return dict(found)


def find_compose() -> list[str]:
    """The command that is compose here."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise pytest.UsageError(f"{_NEEDED} No compose was found.")


def require_engine() -> None:
    """Stop the run with one clear line where there is no engine, or no image to test."""
    if not shutil.which("docker"):
        raise pytest.UsageError(f"{_NEEDED} There is no docker command.")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        raise pytest.UsageError(f"{_NEEDED} There is a docker command, but no engine answers it.")
    for image in IMAGES.values():
        found = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
        if found.returncode != 0:
            raise pytest.UsageError(f"The image {image} is not there: run `make images` first.")


class Project:
    """One compose project; `env` is what its files may refer to."""

    def __init__(self, name: str, files: Sequence[Path], env: Mapping[str, str]) -> None:
        self.name = name
        self._env = dict(env)
        self._argv = [*find_compose(), "--project-name", name]
        for file in files:
            self._argv += ["--file", str(file)]

    def __call__(self, *arguments: str, timeout: float = 600) -> str:
        return run([*self._argv, *arguments], env=self._env, timeout=timeout)

    def containers(self, service: str) -> list[str]:
        """Ids of the service's running containers."""
        found = docker(
            "ps",
            "--quiet",
            "--no-trunc",
            "--filter",
            f"label=com.docker.compose.project={self.name}",
            "--filter",
            f"label=com.docker.compose.service={service}",
        )
        return found.split()

    def down(self) -> None:
        """Remove everything of it, volumes included, without waiting for jobs."""
        with contextlib.suppress(AssertionError):
            self("kill")  # fails where nothing was started
        self("down", "--volumes", "--remove-orphans", "--timeout", "1")


def events(container: str) -> list[dict[str, Any]]:
    """The JSON lines of a container's log."""
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    lines = (done.stdout + done.stderr).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def python(container: str, program: str) -> str:
    """Run a Python program inside a container and return what it printed."""
    return docker("exec", container, "python", "-c", program)
