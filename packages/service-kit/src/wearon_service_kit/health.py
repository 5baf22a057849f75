"""The small HTTP server of a process without one: /live, /ready and /metrics, for probes and Prometheus."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Final, Self

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from wearon_service_kit.redaction import redact

_log = structlog.get_logger(__name__)

ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - probes come from outside the container

_REQUEST_SECONDS: Final = 2.0  # a request that has not arrived by then is dropped
_REQUEST_BYTES: Final = 8192  # of the head; a probe's has a few hundred
_MAX_CONNECTIONS: Final = 32  # at once; probes and scrapes need a few


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a dependency looks like just now; `detail` is for the operator, redacted before it is shown."""

    ok: bool
    detail: str = ""


Check = Callable[[], CheckResult]


class Readiness:
    """Answers "can this process do its work?" quickly, even when a dependency hangs.

    Each check runs in a thread of its own, at most one at a time. Its result is kept for `keep_seconds`, a
    failure for a tenth of that, so that a process that has become ready says so at once. One that raises has
    failed, and one that has run for `timeout_seconds` has too until it ends. The default is below the 1 s
    that a Kubernetes probe waits unless told otherwise.
    """

    def __init__(
        self, checks: Mapping[str, Check], *, timeout_seconds: float = 0.8, keep_seconds: float = 2.0
    ) -> None:
        self._checks = {
            name: _CachedCheck(name, check, timeout_seconds, keep_seconds) for name, check in checks.items()
        }

    def results(self) -> dict[str, CheckResult]:
        """The state of every check; takes at most `timeout_seconds` in all."""
        for check in self._checks.values():
            check.refresh()
        return {name: check.result() for name, check in self._checks.items()}

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Whether every check is fine, and the JSON document that says so check by check."""
        results = self.results()
        ready = all(result.ok for result in results.values())
        checks = {
            name: {"ok": result.ok, "detail": redact(result.detail)} for name, result in results.items()
        }
        return ready, {"ready": ready, "checks": checks}


@dataclass(slots=True)
class _Run:
    started: float
    done: threading.Event


class _CachedCheck:
    def __init__(self, name: str, check: Check, timeout: float, keep_seconds: float) -> None:
        self._name = name
        self._check = check
        self._timeout = timeout
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._run: _Run | None = None  # the one under way
        self._result = CheckResult(False, "not checked yet")
        self._fresh_until = 0.0

    def refresh(self) -> None:
        """Start a run unless the last result is fresh or a run is under way."""
        with self._lock:
            now = time.monotonic()
            if self._run is None and now >= self._fresh_until:
                self._run = _Run(now, threading.Event())
                thread = threading.Thread(target=self._work, args=(self._run,), daemon=True)
                thread.name = f"check-{self._name}"
                thread.start()

    def result(self) -> CheckResult:
        with self._lock:
            run = self._run
        if run is not None and not run.done.wait(max(0.0, run.started + self._timeout - time.monotonic())):
            return CheckResult(False, f"no answer within {self._timeout:g} s")
        with self._lock:
            return self._result

    def _work(self, run: _Run) -> None:
        try:
            result = self._check()
        except Exception as error:
            result = CheckResult(False, f"{type(error).__name__}: {error}")
        with self._lock:
            self._result = result
            keep = self._keep_seconds if result.ok else self._keep_seconds / 10
            self._fresh_until = time.monotonic() + keep
            self._run = None
        run.done.set()


class ReadyGauge(Collector):
    """wearon_ready{check="..."}: what /ready says, one check at a time.

    A scrape waits for the checks no longer than /ready does, and runs only those whose last result is not
    fresh any more.
    """

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def describe(self) -> Iterable[Metric]:
        """The name alone; without this, registering would run the checks before the process is set up."""
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for name, result in self._readiness.results().items():
            family.add_metric([name], float(result.ok))
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "wearon_ready", "1 while this check of /ready is fine, else 0.", labels=["check"]
        )


class HealthServer:
    """Serves in daemon threads, so it neither keeps the process alive nor slows its work down.

    /live    200 as long as the process runs, whatever its dependencies do
    /ready   200 or 503, {"ready": bool, "checks": {name: {"ok": bool, "detail": str}}}
    /metrics Prometheus text of `registry`, to which wearon_ready{check=name} is added

    GET and HEAD only; anything else is 404 or 501. `host`: an IPv4 or IPv6 address; `::` takes both kinds, as
    hosters with an IPv6 network inside want it. `port` 0 takes a free one, see `port` after `start`.
    """

    def __init__(
        self,
        port: int,
        checks: Mapping[str, Check],
        registry: CollectorRegistry,
        *,
        host: str = ANY_ADDRESS,
    ) -> None:
        self._address = (host, port)
        self._readiness = Readiness(checks)
        self._registry = registry
        registry.register(ReadyGauge(self._readiness))
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port in use once started, the one asked for before."""
        return int(self._server.server_address[1]) if self._server else self._address[1]

    def start(self) -> None:
        """Listen and serve. When the port is taken: says so in the log and raises SystemExit(1)."""
        if self._server is not None:
            raise RuntimeError("the health server runs already")
        try:
            self._server = _Server(self._address, self._answer)
        except OSError as error:
            _log.error("health_port_not_available", port=self._address[1], error=str(error))
            raise SystemExit(1) from error
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True).start()

    def stop(self) -> None:
        """Close the port. Safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        if path == "/live":
            return 200, "application/json", b'{"live": true}\n'
        if path == "/ready":
            ready, document = self._readiness.report()
            return (200 if ready else 503), "application/json", json.dumps(document).encode() + b"\n"
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        return 404, "application/json", b'{"detail": "not found"}\n'


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True  # a restarted process gets its port back at once
    request_queue_size = 64
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], answer: Callable[[str], tuple[int, str, bytes]]) -> None:
        self.answer = answer
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            # `::` means every address, those of IPv4 too, whatever the system's default is.
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own business; the default prints a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_SECONDS  # for the answer; the request has a total limit, see `setup`

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(_read_head(self.connection))

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def _respond(self, *, with_body: bool) -> None:
        try:
            status, content_type, body = self.server.answer(self.path.partition("?")[0])
        except Exception:  # a collector of the registry failed
            status, content_type, body = 500, "application/json", b'{"detail": "internal error"}\n'
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def version_string(self) -> str:
        """No banner: errors of the base class would name the Python version."""
        return "wearon"

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds; they are not news."""


def _read_head(connection: socket.socket) -> bytes:
    """The request up to its blank line, within a total time, so that a slow sender cannot hold a thread."""
    deadline = time.monotonic() + _REQUEST_SECONDS
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) < _REQUEST_BYTES:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        received = connection.recv(_REQUEST_BYTES)
        if not received:
            break
        head += received
    connection.settimeout(_REQUEST_SECONDS)
    return head
