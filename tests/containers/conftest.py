"""The stack of docker-compose.yml, once for all tests here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.containers.engine import ROOT, Project, present, python, require_engine

from wearon_local.app.next_app import NextApp
from wearon_local.processes import free_port, wait_until

_PORTS = {"consumer": 8001, "generator": 8002, "sizing-api": 8000}


@dataclass
class ComposeStack:
    """The running project, and the application's side of it as seen from the host."""

    project: Project
    app: NextApp
    redis_url: str
    gateway_url: str
    openai_url: str

    def set_latency(self, seconds: float) -> None:
        """How long the OpenAI stand-in takes from now on."""
        httpx.put(f"{self.openai_url}/_control/latency", json={"seconds": seconds}).raise_for_status()

    def provider_calls(self) -> int:
        """How often the OpenAI stand-in was called and answered a picture."""
        calls: list[dict[str, Any]] = httpx.get(f"{self.openai_url}/_control/calls").json()
        return sum(call["outcome"] == "ok" for call in calls)

    def scale(self, service: str, count: int) -> list[str]:
        """Run `count` containers of the service, wait until they are ready and return their ids."""
        self.project("up", "--detach", "--no-recreate", "--no-deps", "--scale", f"{service}={count}", service)
        self.wait_ready(service)
        return self.project.containers(service)

    def wait_ready(self, service: str, timeout: float = 90) -> None:
        """Wait until /ready of every container of the service says so."""
        program = f"""
import http.client
connection = http.client.HTTPConnection("127.0.0.1", {_PORTS[service]}, timeout=4)
connection.request("GET", "/ready")
print(connection.getresponse().status)
"""

        def ready() -> bool:
            found = self.project.containers(service)
            try:
                return bool(found) and all(python(container, program) == "200" for container in found)
            except AssertionError:
                return False

        wait_until(ready, timeout=timeout, what=f"{service} ready", every=0.5)


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """An engine with the three images. Whether or not tests failed, nothing of them is left at the end."""
    require_engine()
    before = present()
    yield
    assert present() - before == set(), "left behind by the tests"


@pytest.fixture(scope="session")
def stack(engine: None) -> Iterator[ComposeStack]:
    """docker-compose.yml as it is, with the code that is in the images, on free ports."""
    with running_stack() as running:
        yield running


@contextmanager
def running_stack(*more_files: Path) -> Iterator[ComposeStack]:
    """docker-compose.yml and these files on free ports, all services ready; removed at the end."""
    keys = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["x-local-keys"]
    jwt_secret, _, service_role_key = keys
    ports = {name: free_port() for name in ("REDIS", "POSTGRES", "GATEWAY", "OPENAI")}
    env = {f"WEARON_{name}_PORT": str(port) for name, port in ports.items()}
    # A range of its own, which other programs of this machine hardly use.
    first = 32000 + os.getpid() % 700
    env["WEARON_SIZING_PORTS"] = f"{first}-{first + 9}"
    env["WEARON_OPENAI_LATENCY"] = "1"
    files = [ROOT / "docker-compose.yml", *more_files]
    project = Project(f"wearon-test-{secrets.token_hex(3)}", files, env)
    gateway_url = f"http://127.0.0.1:{ports['GATEWAY']}"
    redis_url = f"redis://127.0.0.1:{ports['REDIS']}/0"
    app = NextApp(
        database_url=f"postgresql://postgres:local@127.0.0.1:{ports['POSTGRES']}/postgres",
        redis_url=redis_url,
        gateway_url=gateway_url,
        service_role_key=service_role_key,
        jwt_secret=jwt_secret,
        bucket="images",
    )
    started = ComposeStack(project, app, redis_url, gateway_url, f"http://127.0.0.1:{ports['OPENAI']}")
    try:
        project("up", "--detach", timeout=900)
        for service in ("consumer", "generator", "sizing-api"):
            started.wait_ready(service)
        yield started
    finally:
        app.close()
        project.down()
