"""The queue and its workers as the studio page shows them."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import httpx
import redis

from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    DEAD_LETTER_LIST,
    INFLIGHT_PREFIX,
    TASK_LIST,
    UNACKED_HASH,
)
from wearon_contracts.tasks import DeadLetter
from wearon_local.app.next_app import NextApp
from wearon_local.services import Service

RESTARTS_AFTER: Final = 5.0
_SHOWN_SESSIONS: Final = 12
_SHOWN_LETTERS: Final = 10
_KEPT_EVENTS: Final = 30

_SESSIONS: Final = """
    select l.session_id, l.state, l.attempt, l.holder, l.outcome, l.error_code, l.recovering,
           extract(epoch from l.lease_expires_at - clock_timestamp())::float8 as lease_seconds,
           extract(epoch from coalesce(l.settled_at, clock_timestamp()) - l.held_at)::float8 as seconds
      from generation_ledger l
     order by l.state = 'settled', l.held_at desc
     limit %s"""

State = Literal["ready", "starting", "killed"]


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a service. `waiting` and `working`: its jobs, None where that cannot be asked."""

    name: str
    kind: str
    state: State
    replica: str | None
    waiting: int | None = None
    working: int | None = None
    restarts_in: float | None = None


class Workers(Protocol):
    """The processes behind the queue; `how_to_kill` says what to type where the page cannot do it itself."""

    how_to_kill: str | None

    def all(self) -> list[Worker]: ...

    def kill(self, name: str) -> None:
        """SIGKILL, and another one a few seconds later. Raises KeyError if no such worker runs."""


class Events:
    """What the page's buttons did, newest first."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self._count = 0

    def add(self, text: str) -> None:
        self._count += 1
        self._events.appendleft({"number": self._count, "at": time.time(), "text": text})

    def all(self) -> list[dict[str, Any]]:
        return list(self._events)


class StackWorkers:
    """The consumer and generators that the local stack started."""

    how_to_kill: str | None = None

    def __init__(
        self, services: Callable[[], list[Service]], start: Callable[[], Service], events: Events
    ) -> None:
        """`services`: all of the stack, those that ended too. `start`: one more generator, not waited for."""
        self._services = services
        self._start = start
        self._happenings = events
        self._restarts: dict[str, float] = {}
        self._timers: list[threading.Timer] = []

    def all(self) -> list[Worker]:
        return [
            worker
            for service in self._services()
            if (worker := self._look(service)) is not None and worker.kind != "sizing-api"
        ]

    def kill(self, name: str) -> None:
        running = {s.name: s for s in self._services() if s.running and s.name.startswith("generator")}
        service = running[name]
        had = _jobs(service.url)
        service.kill()
        self._happenings.add(f"{name} was killed with {_counted(sum(had or (0,)), 'job')} in hand.")
        self._restarts[name] = time.monotonic() + RESTARTS_AFTER
        timer = threading.Timer(RESTARTS_AFTER, self._replace, [name])
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def close(self) -> None:
        """Start no more replacements."""
        for timer in self._timers:
            timer.cancel()

    def _replace(self, name: str) -> None:
        started = self._start()
        del self._restarts[name]
        self._happenings.add(f"{started.name} starts in place of {name}.")

    def _look(self, service: Service) -> Worker | None:
        kind = service.name.rpartition("-")[0]
        if not service.running:
            due = self._restarts.get(service.name)
            if due is None:
                return None
            return Worker(service.name, kind, "killed", None, restarts_in=max(0.0, due - time.monotonic()))
        started = service.events(event=f"{kind}_started")
        replica = started[0].get("replica") if started else None
        jobs = _jobs(service.url) if kind == "generator" else None
        state: State = "ready" if service.ready() else "starting"
        return Worker(service.name, kind, state, replica, *(jobs or (None, None)))


class ContainerWorkers:
    """The containers of docker-compose.yml: seen through their health ports, killed from outside."""

    how_to_kill: str | None = (
        "docker compose kill --signal SIGKILL generator, then docker compose start generator"
    )

    def __init__(self, urls: Mapping[str, str]) -> None:
        """`urls`: by service; a name that stands for several containers shows each."""
        self._urls = dict(urls)

    def all(self) -> list[Worker]:
        workers = []
        for kind, url in self._urls.items():
            parts = urlsplit(url)
            for address in _addresses(parts.hostname or "", parts.port or 80):
                at = f"http://{address}:{parts.port}"
                jobs = _jobs(at) if kind == "generator" else None
                workers.append(Worker(f"{kind} {address}", kind, _state(at), None, *(jobs or (None, None))))
        return workers

    def kill(self, name: str) -> None:
        raise KeyError(name)


class Queue:
    """Depths, dead letters and sessions, as they are at the moment of asking."""

    def __init__(self, app: NextApp, redis_url: str, workers: Workers, events: Events) -> None:
        self._app = app
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=5)
        # Kept, because the sessions of a killed worker still carry its name.
        self._names: dict[str, str] = {}
        self.workers: Final = workers
        self.events: Final = events

    def view(self) -> dict[str, Any]:
        workers = self.workers.all()
        self._names.update({w.replica: w.name for w in workers if w.replica})
        return {
            "depths": self._depths(),
            "dead_letters": self._dead_letters(),
            "workers": [asdict(w) for w in workers],
            "how_to_kill": self.workers.how_to_kill,
            "sessions": [_session(row, self._names) for row in self._app.rows(_SESSIONS, _SHOWN_SESSIONS)],
            "events": self.events.all(),
        }

    def close(self) -> None:
        self._redis.close()

    def _depths(self) -> dict[str, int]:
        inflight = sum(self._llen(key) for key in self._redis.scan_iter(f"{INFLIGHT_PREFIX}*"))
        return {
            "tasks": self._llen(TASK_LIST),
            "inflight": inflight,
            "celery": self._llen(CELERY_QUEUE),
            "again": self._llen(CELERY_RETRY_QUEUE),
            "unacked": int(self._redis.hlen(UNACKED_HASH)),
            "dead": self._llen(DEAD_LETTER_LIST),
        }

    def _llen(self, key: str | bytes) -> int:
        return int(self._redis.llen(key))

    def _dead_letters(self) -> list[dict[str, Any]]:
        elements = self._redis.lrange(DEAD_LETTER_LIST, 0, _SHOWN_LETTERS - 1)
        letters = [DeadLetter.model_validate_json(element) for element in elements]
        return [
            {
                "reason": letter.reason.value,
                "detail": letter.detail,
                "raw": letter.raw[:400],
                "set_aside_at": letter.set_aside_at.isoformat(),
                "session_id": None if letter.session_id is None else str(letter.session_id),
            }
            for letter in letters
        ]


def _session(row: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    replica = (row["holder"] or "").partition("/")[0]
    lease = row["lease_seconds"]
    state = row["outcome"] or row["state"]
    if row["outcome"] is None and (row["recovering"] or (lease is not None and lease < 0)):
        state = "lost"
    return {
        "id": str(row["session_id"]),
        "state": state,
        "attempt": row["attempt"],
        "worker": names.get(replica, replica or None),
        "lease_seconds": lease,
        "seconds": row["seconds"],
        "error_code": row["error_code"],
    }


def _jobs(url: str) -> tuple[int, int] | None:
    """Waiting and working, of one generator."""
    try:
        text = httpx.get(f"{url}/metrics", timeout=2, trust_env=False).text
    except httpx.HTTPError:
        return None
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("wearon_generator_jobs_")
    )
    waiting, working = (values.get(f"wearon_generator_jobs_{name}") for name in ("waiting", "working"))
    return None if waiting is None or working is None else (int(float(waiting)), int(float(working)))


def _state(url: str) -> State:
    try:
        ready = httpx.get(f"{url}/ready", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return "killed"
    return "ready" if ready else "starting"


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(address[4][0]) for address in found})


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number or 'no'} {noun}s"
