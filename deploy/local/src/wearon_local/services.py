"""The project's own services as processes, each started by the command that platform and operators use."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Final

import httpx

from wearon_local.processes import Nursery, Process


@dataclass(frozen=True, slots=True)
class ServiceKind:
    """How one service is started: its module and the variables that hold its HTTP address and port."""

    module: str
    host_variable: str
    port_variable: str


SERVICES: Final = {
    "consumer": ServiceKind("wearon_consumer", "HEALTH_HOST", "HEALTH_PORT"),
    "generator": ServiceKind("wearon_generator", "HEALTH_HOST", "HEALTH_PORT"),
    "sizing-api": ServiceKind("wearon_sizing", "HOST", "PORT"),
}


class Service:
    """One running service; `name` is unique in its stack, `process` is what signals go to."""

    def __init__(self, process: Process, port: int) -> None:
        self.name: Final = process.name
        self.process: Final = process
        self.url: Final = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=self.url, timeout=5, trust_env=False)

    @property
    def running(self) -> bool:
        return self.process.running

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def terminate(self, *, timeout: float = 10) -> int:
        """SIGTERM, then SIGKILL after `timeout` seconds; returns the exit code."""
        return self.process.terminate(timeout=timeout)

    def ready(self) -> bool:
        """Whether /ready answers 200 just now."""
        try:
            return self._client.get("/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self, *, timeout: float = 30) -> Service:
        """Wait for /ready and return itself. Raises ProcessFailed with the end of its log."""
        self.process.wait_until(self.ready, timeout=timeout, what="ready")
        return self

    def readiness(self) -> dict[str, Any]:
        """What /ready says, whatever its status."""
        return dict(self._client.get("/ready").json())

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels, as written there."""
        samples = {}
        for line in self._client.get("/metrics").text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        """The log lines that are JSON objects and have these values."""
        events = []
        for line in self.process.log().splitlines():
            if line.startswith("{"):
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:
                    # The last line may still be in the making.
                    continue
                if all(event.get(name) == value for name, value in fields.items()):
                    events.append(event)
        return events


def start_service(
    nursery: Nursery, kind: str, name: str, port: int, env: dict[str, str], *, module: str | None = None
) -> Service:
    """Start a service of `SERVICES`, or a `module` that stands in for its own; it is not waited for.

    It answers on loopback alone, unless `env` says otherwise: nobody else on the network should reach it.
    """
    service = SERVICES[kind]
    argv = [sys.executable, "-m", module or service.module]
    address = {service.host_variable: "127.0.0.1", service.port_variable: str(port)}
    full_env = {**address, "PYTHONUNBUFFERED": "1", **env}
    return Service(nursery.start(name, argv, env=full_env), port)
