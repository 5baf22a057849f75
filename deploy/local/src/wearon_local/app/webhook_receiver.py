"""A shop's webhook endpoint on loopback: keeps what it is sent, and can be down, slow or in a bad mood."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from standardwebhooks import Webhook

from wearon_local.processes import free_port


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came; `at`: seconds of `time.monotonic`."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        """What a receiver tells repetitions by."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The body, not verified."""
        return dict(json.loads(self.body))

    def verified(self, secret: str) -> dict[str, Any]:
        """The body, as the reference library takes it; raises its WebhookVerificationError."""
        return dict(Webhook(secret).verify(self.body, self.headers))


@dataclass(slots=True)
class Manners:
    """How requests to one path are answered; `seconds`: before the answer."""

    status: int = 204
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


class WebhookReceiver:
    """`with WebhookReceiver() as shop: ...`; each path has manners of its own, else 204 at once."""

    def __init__(self) -> None:
        self.port: Final = free_port()
        self.origin: Final = f"http://127.0.0.1:{self.port}"
        self.manners: Final[dict[str, Manners]] = {}
        self._received: list[Received] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Listen; nothing happens if it does."""
        if self._server is None:
            self._server = _Server(("127.0.0.1", self.port), self._handler())
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def received(self, path: str | None = None) -> list[Received]:
        """What came so far, to one path or to all."""
        with self._lock:
            return [each for each in self._received if path in (None, each.path)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with receiver._lock:
                    receiver._received.append(Received(self.path, headers, body, time.monotonic()))
                manners = receiver.manners.get(self.path, Manners())
                time.sleep(manners.seconds)
                self.send_response(manners.status)
                for name, value in manners.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of callers that hang up."""
