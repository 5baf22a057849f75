"""Everything the services need, running: `with Stack() as stack: ...`."""

from __future__ import annotations

import contextlib
import secrets
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from wearon_local import downloads, servers, services
from wearon_local.app.next_app import NextApp
from wearon_local.paths import LOCAL_DIR, SUPABASE_DIR
from wearon_local.postgres_server import PostgresServer
from wearon_local.processes import Nursery, free_port
from wearon_local.redis_server import RedisServer
from wearon_local.sentinels import SentinelGroup
from wearon_local.services import Service
from wearon_local.standins import tokens

BUCKET: Final = "images"
PortName = Literal["redis", "postgres", "postgrest", "gateway", "openai"]
ServiceName = Literal["consumer", "generator", "sizing-api"]


def schema_files() -> list[Path]:
    """The application's stand-in schema, then this project's migrations, each in name order."""
    return [
        *sorted((SUPABASE_DIR / "dev").glob("*.sql")),
        *sorted((SUPABASE_DIR / "migrations").glob("*.sql")),
    ]


class Stack:
    """Redis, PostgreSQL, PostgREST, gateway and OpenAI stand-in on loopback, and the services one starts.

    All of it ends with the `with` block, on an exception or Ctrl-C, and with the process should that be
    killed. After entering: `redis`, `postgres`, `postgrest`, `gateway`, `openai` (processes that can be told
    to fail), `app` (the Next.js app's side), and the URLs and keys below.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        ports: Mapping[PortName, int] | None = None,
        openai_latency: float = 0.0,
        openai_jitter: float = 0.0,
        sentinels: bool = False,
        schema: Sequence[Path] | None = None,
    ) -> None:
        """`directory`: keep data and logs there instead of a temporary one. `ports`: those not to be picked.

        `sentinels`: a primary and a replica of Redis behind three Sentinels, instead of one server.
        `schema`: SQL files instead of `schema_files()`.
        """
        self._directory = directory
        self._ports = dict(ports or {})
        self._latency = (openai_latency, openai_jitter)
        self._sentinels = sentinels
        self._schema = list(schema) if schema is not None else schema_files()
        self._jwt_secret = secrets.token_hex(24)
        self._started: Counter[str] = Counter()
        self.services: list[Service] = []
        # Origin of a webhook receiver on loopback, which generators may reach once it is set.
        self.webhook_origin: str | None = None
        self.anon_key: Final = tokens.api_key(self._jwt_secret, "anon")
        self.service_role_key: Final = tokens.api_key(self._jwt_secret, "service_role")
        self.openai_api_key: Final = f"sk-standin-{secrets.token_hex(20)}"

    def __enter__(self) -> Self:
        program = downloads.postgrest()
        self._nursery = Nursery(keep=self._directory)
        try:
            self._start(program)
        except BaseException:
            self._nursery.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_services()
        self.app.close()
        self._nursery.close()

    @property
    def directory(self) -> Path:
        """Where data and logs are while it runs."""
        return self._nursery.directory

    @property
    def logs(self) -> Path:
        """One <name>.log per process."""
        return self._nursery.directory / "logs"

    @property
    def redis_url(self) -> str:
        return self.redis.url

    @property
    def database_url(self) -> str:
        """PostgreSQL as superuser, for migrations and tests; no service is given it."""
        return self.postgres.url

    @property
    def gateway_url(self) -> str:
        """SUPABASE_URL."""
        return self.gateway.url

    @property
    def openai_url(self) -> str:
        """OPENAI_BASE_URL, with its /v1."""
        return f"{self.openai.url}/v1"

    def env_for(self, service: ServiceName) -> dict[str, str]:
        """The environment for one service on this stack, without its port."""
        common = {"REDIS_URL": self.redis_url, "LOG_LEVEL": "INFO", "LOG_FORMAT": "json"}
        match service:
            case "consumer":
                return common
            case "generator":
                receiver = (
                    {} if self.webhook_origin is None else {"WEBHOOK_TRUSTED_ORIGINS": self.webhook_origin}
                )
                return {
                    **common,
                    **receiver,
                    "SUPABASE_URL": self.gateway_url,
                    "SUPABASE_SERVICE_ROLE_KEY": self.service_role_key,
                    "OPENAI_API_KEY": self.openai_api_key,
                    "OPENAI_BASE_URL": self.openai_url,
                    "STORAGE_BUCKET": BUCKET,
                }
            case "sizing-api":
                model = LOCAL_DIR / "models" / "pose_landmarker_full.task"
                return {
                    **common,
                    "SUPABASE_URL": self.gateway_url,
                    "MEDIAPIPE_MODEL_PATH": str(model),
                }
        raise ValueError(f"no service is called {service}")

    def start_service(
        self,
        service: ServiceName,
        env: Mapping[str, str] | None = None,
        *,
        wait: bool = True,
        module: str | None = None,
    ) -> Service:
        """Start one more process of a service with `env` on top of `env_for`, and wait until it is ready.

        `module`: run this one with `python -m` instead of the service's own.
        Raises ProcessFailed with the end of its log if it ends or is not ready in time.
        """
        self._started[service] += 1
        name = f"{service}-{self._started[service]}"
        full_env = {**self.env_for(service), **(env or {})}
        started = services.start_service(self._nursery, service, name, free_port(), full_env, module=module)
        self.services.append(started)
        return started.wait_ready() if wait else started

    def stop_services(self, *, timeout: float = 10) -> None:
        """SIGTERM to all services at once, SIGKILL to those still running after `timeout` seconds."""
        for service in self.services:
            service.process.resume()
            service.process.signal(signal.SIGTERM)
        for service in self.services:
            # Not a second SIGTERM: one that comes while Python winds up ends it with -15 instead of 0.
            service.process.wait_or_kill(timeout)
        self.services.clear()

    def reset(self) -> None:
        """Forget queues, faults, modes and records; database and objects stay."""
        with self.redis.client() as client:
            client.flushall()
        self.gateway.reset()
        self.openai.reset()

    def _port(self, name: PortName) -> int:
        return self._ports.get(name) or free_port()

    def _start(self, postgrest_program: Path) -> None:
        nursery = self._nursery
        latency, jitter = self._latency
        keys = {
            "SUPABASE_JWT_SECRET": self._jwt_secret,
            "SUPABASE_ANON_KEY": self.anon_key,
            "SUPABASE_SERVICE_ROLE_KEY": self.service_role_key,
        }
        self.redis = (
            SentinelGroup(nursery, secrets.token_hex(8))
            if self._sentinels
            else RedisServer(nursery, self._port("redis"))
        )
        self.postgres = PostgresServer(nursery, self._port("postgres"))
        self.postgrest = servers.postgrest(
            nursery,
            self._port("postgrest"),
            free_port(),
            program=postgrest_program,
            database_url=self.postgres.authenticator_url(),
            jwt_secret=self._jwt_secret,
        )
        self.gateway = servers.gateway(
            nursery,
            self._port("gateway"),
            postgrest_url=self.postgrest.url,
            buckets=[BUCKET],
            env={**keys, "DATABASE_URL": self.postgres.url},
        )
        self.openai = servers.openai(
            nursery, self._port("openai"), api_key=self.openai_api_key, latency=latency, jitter=jitter
        )
        self.gateway.launch()
        self.openai.launch()
        self.redis.start()
        self.postgres.start()
        self.postgres.apply(self._schema)
        self.postgres.let_postgrest_in()
        self.postgrest.start()
        self.gateway.wait_ready()
        self.openai.wait_ready()
        self.app = NextApp(
            database_url=self.postgres.url,
            redis_url=self.redis.url,
            gateway_url=self.gateway.url,
            service_role_key=self.service_role_key,
            jwt_secret=self._jwt_secret,
            bucket=BUCKET,
        )


@contextlib.contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that `with Stack()` ends in order."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
