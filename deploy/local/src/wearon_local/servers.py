"""The stack's HTTP servers as processes: started, killed, restarted on the same port, told to misbehave."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import Any, Final

import httpx

from wearon_local.processes import Nursery, Process
from wearon_local.standins.faults import Action, RequestRecord


class HttpServer:
    """A process that answers HTTP on a loopback port and keeps the port over restarts."""

    def __init__(
        self,
        nursery: Nursery,
        name: str,
        *,
        port: int,
        argv: list[str],
        env: dict[str, str],
        ready_url: str,
    ) -> None:
        self.name: Final = name
        self.port: Final = port
        self.url: Final = f"http://127.0.0.1:{port}"
        self._nursery = nursery
        self._argv = argv
        self._env = env
        self._ready_url = ready_url
        self._process: Process | None = None
        self._client = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    def launch(self) -> None:
        """Start it without waiting."""
        self._process = self._nursery.start(self.name, self._argv, env=self._env)

    def wait_ready(self) -> None:
        """Wait until it answers. Raises ProcessFailed with the end of its log."""
        if self._process is not None:
            self._process.wait_until(self._answers, what=f"{self.name} ready")

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait_ready()

    def kill(self) -> None:
        """SIGKILL: connections break, new ones are refused."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel and nothing is answered."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.resume()

    def _answers(self) -> bool:
        try:
            return self._client.get(self._ready_url).is_success
        except httpx.HTTPError:
            return False


class FaultyServer(HttpServer):
    """One with the control endpoints of `wearon_local.standins.faults`."""

    def inject(self, action: Action, *, path: str = "", times: int | None = 1, **fault: Any) -> int:
        """Arm a `faults.Fault` and return its id; `times=None`: until taken out."""
        body = {"action": action, "path": path, "times": times, **fault}
        return int(self._control("POST", "faults", json=body)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """All armed faults; `struck` says how often each did."""
        return list(self._control("GET", "faults"))

    def clear_faults(self, fault_id: int | None = None) -> None:
        """Take out one fault, or all."""
        self._control("DELETE", "faults" if fault_id is None else f"faults/{fault_id}")

    def requests(self) -> list[RequestRecord]:
        """What was asked of it and answered, oldest first."""
        return [RequestRecord(**r) for r in self._control("GET", "requests")]

    def reset(self) -> None:
        """Take out all faults and forget the requests."""
        self.clear_faults()
        self._control("DELETE", "requests")

    def _control(self, method: str, path: str, **request: Any) -> Any:
        answer = self._client.request(method, f"/_control/{path}", **request)
        if answer.is_error:
            raise ValueError(f"{self.name}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None


class Gateway(FaultyServer):
    """`wearon_local.standins.gateway`."""

    def objects(self) -> list[dict[str, Any]]:
        """Every stored object: bucket, name, size, sha256, content_type, writes, created_at, updated_at."""
        return list(self._control("GET", "objects"))


class OpenAi(FaultyServer):
    """`wearon_local.standins.openai`."""

    def calls(self, *, contains: str = "") -> list[dict[str, Any]]:
        """The calls (`openai_standin.Call`) whose prompt holds the text, oldest first."""
        return [c for c in self._control("GET", "calls") if contains in c["prompt"]]

    def set_mode(
        self,
        mode: str,
        *,
        times: int | None = None,
        for_seconds: float | None = None,
        contains: str | None = None,
    ) -> None:
        """Misbehave from now on; `mode` in the words of `openai_standin`."""
        body = {"mode": mode, "times": times, "for_seconds": for_seconds, "contains": contains}
        self._control("POST", "modes", json=body)

    def clear_modes(self) -> None:
        """Behave again."""
        self._control("DELETE", "modes")

    def set_latency(self, seconds: float, jitter: float = 0.0) -> None:
        """How long every answer takes from now on."""
        self._control("PUT", "latency", json={"seconds": seconds, "jitter": jitter})

    def set_today(self, today: date | None) -> None:
        """What day it is there, by which models are shut down; None: the real one."""
        self._control("PUT", "today", json={"today": today.isoformat() if today else None})

    def reset(self) -> None:
        """Behave again and forget everything; the latency stays."""
        super().reset()
        self.clear_modes()
        self.set_today(None)
        self._control("DELETE", "calls")


def gateway(
    nursery: Nursery, port: int, *, postgrest_url: str, buckets: list[str], env: dict[str, str]
) -> Gateway:
    """`env`: SUPABASE_JWT_SECRET, the two keys and DATABASE_URL."""
    storage = nursery.directory / "storage"
    storage.mkdir(exist_ok=True)
    argv = [sys.executable, "-m", "wearon_local.standins.gateway", "--port", str(port)]
    argv += ["--postgrest-url", postgrest_url, "--storage-dir", str(storage)]
    argv += [part for bucket in buckets for part in ("--bucket", bucket)]
    ready_url = f"http://127.0.0.1:{port}/_control/health"
    return Gateway(nursery, "gateway", port=port, argv=argv, env=env, ready_url=ready_url)


def openai(nursery: Nursery, port: int, *, api_key: str, latency: float, jitter: float) -> OpenAi:
    """Accepts only `api_key`; `latency` and `jitter` in seconds."""
    argv = [sys.executable, "-m", "wearon_local.standins.openai", "--port", str(port)]
    argv += ["--latency", str(latency), "--jitter", str(jitter)]
    ready_url = f"http://127.0.0.1:{port}/_control/health"
    env = {"OPENAI_API_KEY": api_key}
    return OpenAi(nursery, "openai", port=port, argv=argv, env=env, ready_url=ready_url)


def postgrest(
    nursery: Nursery, port: int, admin_port: int, *, program: Path, database_url: str, jwt_secret: str
) -> HttpServer:
    """Set up as Supabase sets it up: schema public, at most 1,000 rows, roles by JWT."""
    env = {
        "PGRST_DB_URI": database_url,
        "PGRST_DB_SCHEMAS": "public",
        "PGRST_DB_ANON_ROLE": "anon",
        "PGRST_DB_MAX_ROWS": "1000",
        "PGRST_DB_POOL": "20",
        "PGRST_DB_USE_LEGACY_GUCS": "false",
        "PGRST_JWT_SECRET": jwt_secret,
        "PGRST_SERVER_HOST": "127.0.0.1",
        "PGRST_SERVER_PORT": str(port),
        "PGRST_ADMIN_SERVER_PORT": str(admin_port),
        "PGRST_LOG_LEVEL": "error",
    }
    ready_url = f"http://127.0.0.1:{admin_port}/ready"
    return HttpServer(nursery, "postgrest", port=port, argv=[str(program)], env=env, ready_url=ready_url)
