"""The stack with consumers and generators that can be killed, stopped, replaced and told to die at a step."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from tests.chaos import steps

from wearon_generator.webhooks.signing import new_secret
from wearon_local.app.webhook_receiver import WebhookReceiver
from wearon_local.processes import Nursery, ProcessFailed, free_port, passed_on_environment, wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack
from wearon_service_kit.redis_clients import connect

Kind = Literal["consumer", "generator"]
ROOT: Final = Path(__file__).resolve().parents[2]
_MODULES: Final = {"consumer": "tests.chaos.consumer_process", "generator": "tests.chaos.generator_process"}


@dataclass(frozen=True, slots=True)
class Pace:
    """The periods of the services, divided by `factor`; 1 is how they run in production. Seconds."""

    factor: float = 1.0
    stuck_after: int = 20

    @property
    def lease(self) -> float:
        return math.ceil(28 / self.factor)

    @property
    def taken_over(self) -> float:
        """After which a silent generator's jobs run elsewhere: its lease, the sweep's margin, two sweeps."""
        return self.lease + 2.0 + 2 * self.sweep

    @property
    def sweep(self) -> float:
        # Replicas spread their sweeps by a tenth.
        return 11.0 / self.factor

    @property
    def heartbeat(self) -> float:
        """After which a silent consumer is taken for dead."""
        return max(2.0, 6.0 / self.factor)

    @property
    def put_back(self) -> float:
        """After which a silent consumer's elements are back: its heartbeat, and a look at the lists."""
        return self.heartbeat + 6.0 / self.factor


@dataclass(slots=True)
class Replica:
    """One process of a service and what was done to it. Times are the machine's."""

    kind: Kind
    service: Service
    started_at: float
    ended_at: float | None = None
    stopped_at: float | None = None
    pauses: list[tuple[float, float]] = field(default_factory=list)
    terminated_at: float | None = None

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def works(self) -> bool:
        """Whether it should be doing its job just now."""
        return self.ended_at is None and self.stopped_at is None and self.terminated_at is None


@dataclass(frozen=True, slots=True)
class Step:
    """A line of a process's trace."""

    process: str
    at: float
    name: str
    session: str | None
    holder: str | None
    attempt: int | None
    verdict: str | None
    error: str | None
    status: int | None
    lease_until: float | None
    """When the lease ends that the ledger's answer tells of, by the database's clock."""

    @property
    def what(self) -> str:
        """The name without its ending."""
        return self.name.partition(":")[0]


class World:
    """The stack's services as processes of `generator_process` and `consumer_process`."""

    def __init__(self, stack: Stack, pace: Pace, *, generator_env: dict[str, str] | None = None) -> None:
        self.stack: Final = stack
        self.pace: Final = pace
        self.replicas: list[Replica] = []
        self._generator_env = generator_env or {}
        self._numbers = {"consumer": 0, "generator": 0}

    def __enter__(self) -> Self:
        self._nursery = Nursery()
        self._directory = self._nursery.directory / "chaos"
        for name in ("orders", "traces", "clocks"):
            (self._directory / name).mkdir(parents=True)
        self.redis = connect(self.stack.redis_url, name="chaos")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.redis.close()
        self._nursery.close()

    def save(self, directory: Path) -> None:
        """Copy logs and traces there."""
        shutil.copytree(self._directory, directory / "chaos", dirs_exist_ok=True)
        shutil.copytree(self._nursery.directory / "logs", directory / "logs", dirs_exist_ok=True)
        shutil.copytree(self.stack.logs, directory / "logs", dirs_exist_ok=True)

    # ------------------------------------------------------------------ processes

    def start(self, kind: Kind, *, wait: bool = True, **env: str) -> Replica:
        """One more replica, with `env` on top of what it needs."""
        self._numbers[kind] += 1
        name = f"{kind}-{self._numbers[kind]}"
        port = free_port()
        full_env = {
            **self.stack.env_for(kind),
            **(self._generator_env if kind == "generator" else {}),
            **env,
            "HEALTH_PORT": str(port),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(
                p for p in (str(ROOT), passed_on_environment().get("PYTHONPATH")) if p
            ),
            steps.DIRECTORY: str(self._directory),
            steps.NAME: name,
            steps.PACE: str(self.pace.factor),
        }
        process = self._nursery.start(name, [sys.executable, "-m", _MODULES[kind]], env=full_env)
        replica = Replica(kind, Service(process, port), time.time())
        self.replicas.append(replica)
        if wait:
            replica.service.wait_ready(timeout=60)
        return replica

    def working(self, kind: Kind | None = None) -> list[Replica]:
        """Those that should be doing their job."""
        self.notice_ends()
        return [r for r in self.replicas if r.works and kind in (None, r.kind)]

    def kill(self, replica: Replica) -> None:
        """SIGKILL."""
        replica.service.kill()
        replica.ended_at = time.time()

    def ask_to_end(self, replica: Replica) -> None:
        """SIGTERM, without waiting."""
        replica.terminated_at = time.time()
        replica.service.process.signal(signal.SIGTERM)

    def stop(self, replica: Replica) -> None:
        """SIGSTOP."""
        replica.service.process.pause()
        replica.stopped_at = time.time()

    def resume(self, replica: Replica) -> None:
        """SIGCONT."""
        if replica.stopped_at is not None and replica.service.running:
            replica.service.process.resume()
            replica.pauses.append((replica.stopped_at, time.time()))
        replica.stopped_at = None

    def notice_ends(self) -> list[Replica]:
        """Those that have ended, or stopped at a step, since the last time."""
        noticed = []
        for replica in self.replicas:
            if replica.ended_at is not None:
                continue
            if not replica.service.running:
                last = self.trace_of(replica.name)
                killed_itself = replica.service.process.returncode == -signal.SIGKILL and last
                replica.ended_at = last[-1].at if killed_itself else time.time()
                noticed.append(replica)
            elif replica.stopped_at is None and self._is_stopped(replica):
                replica.stopped_at = self.trace_of(replica.name)[-1].at
                noticed.append(replica)
        return noticed

    @staticmethod
    def _is_stopped(replica: Replica) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{replica.service.process.pid}/stat").read_text()
            return stat.rpartition(")")[2].split()[0] == "T"
        return False

    def end_all(self, *, timeout: float = 30) -> None:
        """SIGTERM to all that run, and wait until they are gone."""
        for replica in self.working():
            self.ask_to_end(replica)
        try:
            self.wait_ended(*self.replicas, timeout=timeout)
        except TimeoutError:
            # Reported as unexpected ends: only the survivors have no time of their end.
            late = [replica for replica in self.replicas if replica.ended_at is None]
            for replica in late:
                replica.service.process.signal(signal.SIGUSR1)
            time.sleep(0.5)  # they write down what they are doing
            for replica in late:
                replica.service.kill()

    def wait_ended(self, *replicas: Replica, timeout: float = 30) -> None:
        wait_until(
            lambda: self.notice_ends() is not None and all(r.ended_at for r in replicas),
            timeout=timeout,
            what=f"{[r.name for r in replicas]} ended",
        )

    def wait_stopped(self, replica: Replica, timeout: float = 30) -> None:
        """Until it has stopped at the step it was told to."""
        wait_until(
            lambda: self.notice_ends() is not None and replica.stopped_at,
            timeout=timeout,
            what=f"{replica.name} stopped",
        )

    # ------------------------------------------------------------------ webhooks

    def add_webhook(self, receiver: WebhookReceiver) -> None:
        """An endpoint that is told of all sessions; generators started from now on may reach it."""
        self._generator_env = {**self._generator_env, "WEBHOOK_TRUSTED_ORIGINS": receiver.origin}
        self.stack.app.rows(
            "insert into generation_webhook_endpoints (url, secret) values (%s, %s) returning id",
            f"{receiver.origin}/hook",
            new_secret(),
        )

    def wait_webhooks_delivered(self, timeout: float) -> None:
        """Until nothing is left to be sent, or the time is over: law 8 says then what is missing.

        What the ledger has still to close is waited for: an end that the cron wrote is told only then.
        """
        with contextlib.suppress(TimeoutError):
            wait_until(
                lambda: (
                    not self.stack.app.rows(
                        "select from generation_webhook_outbox where delivered_at is null"
                        " union all select from generation_ledger"
                        " where state <> 'settled' and lease_expires_at < 'infinity' limit 1"
                    )
                ),
                timeout=timeout,
                what="all webhooks are delivered",
                every=0.2,
            )

    # ------------------------------------------------------------------ steps and clocks

    def order(self, who: str, step: str, what: Literal["kill", "stop", "kill all"]) -> None:
        """Have a process (by name), any of a kind, or whoever works on a session die or stop at a step.

        `kill all`: not only the first, but each that comes to it.
        """
        order = self._directory / "orders" / f"{who} {step}"
        unfinished = order.with_name(f"{order.name} new")
        unfinished.write_text(what)
        unfinished.rename(order)

    def withdraw_order(self, who: str, step: str) -> bool:
        """False if it was obeyed."""
        try:
            (self._directory / "orders" / f"{who} {step}").unlink()
        except FileNotFoundError:
            return False
        return True

    def has_come_to(self, step: str, session: str) -> bool:
        """Whether any process has come to this step of a session."""
        wanted = f'"step": "{step}", "session": "{session}"'
        return any(wanted in file.read_text() for file in (self._directory / "traces").iterdir())

    def set_clock(self, replica: Replica, seconds: float) -> None:
        """Let its clock jump to so many seconds ahead of the machine's."""
        (self._directory / "clocks" / replica.name).write_text(str(seconds))

    def trace_of(self, process: str) -> list[Step]:
        """What a process has come by, oldest first."""
        return list(self._read_trace(self._directory / "traces" / process))

    def traces(self) -> list[Step]:
        """What all processes have come by, oldest first."""
        files = (self._directory / "traces").iterdir()
        return sorted((step for file in files for step in self._read_trace(file)), key=lambda step: step.at)

    @staticmethod
    def _read_trace(file: Path) -> Iterator[Step]:
        if not file.exists():
            return
        for line in file.read_text().splitlines():
            try:
                data: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:  # killed while writing it
                continue
            yield Step(
                file.name,
                data["at"],
                data["step"],
                *(data.get(key) for key in ("session", "holder", "attempt", "verdict", "error", "status")),
                datetime.fromisoformat(until).timestamp() if (until := data.get("lease_until")) else None,
            )

    def unexpected_ends(self) -> list[str]:
        """Processes that ended by themselves, or otherwise than they should when asked to. There are none."""
        return [
            f"{replica.name} ended with {replica.service.process.returncode}"
            for replica in self.replicas
            if not self._ended_well(replica)
        ]

    @staticmethod
    def _ended_well(replica: Replica) -> bool:
        code = replica.service.process.returncode
        if replica.ended_at is None:
            return False
        if replica.terminated_at is None:
            return code == -signal.SIGKILL
        began = replica.service.events(event="worker_ready") or replica.service.events(
            event="consumer_started"
        )
        # Before Python has come to the service's code, SIGTERM ends it the plain way.
        return code in (0, -signal.SIGKILL) or (code == -signal.SIGTERM and not began)


__all__ = ["Kind", "Pace", "ProcessFailed", "Replica", "Step", "World"]
