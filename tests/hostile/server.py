"""A web server that plays every hostile response and serves every hostile image."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from functools import cache
from socketserver import BaseRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Self

from hostile.images import HOSTILE_IMAGES, HostileImage, photo
from hostile.responses import HOSTILE_RESPONSES, HostileResponse, whole


@cache
def _built(image: HostileImage) -> bytes:
    return image.build()


class HostileServer:
    """On a free loopback port, while the context lasts.

    `url(case)` is where a case is played; `good_url` serves a harmless photo. `requests` holds the head of
    every request, oldest first.
    """

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._stop = threading.Event()
        self._responses = {case.path: case for case in HOSTILE_RESPONSES}
        self._images = {f"/images/{case.name}": case for case in HOSTILE_IMAGES}

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # the client has hung up, as it should
                    outer._answer(self.request)

        class Server(ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Where it listens on loopback."""
        return int(self._server.server_address[1])

    @property
    def good_url(self) -> str:
        return f"{self.origin}/photo.jpg"

    def url(self, case: HostileResponse | HostileImage) -> str:
        path = f"/images/{case.name}" if isinstance(case, HostileImage) else case.path
        return self.origin + path

    def _answer(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            received = connection.recv(65536)
            if not received:
                return
            request += received
        self.requests.append(request)
        path = request.split(b" ", 2)[1].decode("ascii")
        if path == "/photo.jpg":
            connection.sendall(whole(photo()))
        elif path in self._images:
            case = self._images[path]
            connection.sendall(whole(_built(case), case.content_type))
        elif path in self._responses:
            self._responses[path].respond(connection, self._stop)
        else:
            connection.sendall(whole(b"no such case", "text/plain", "404 Not Found"))
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            # Reading to the end lets the client see the answer before a reset.
            connection.settimeout(1)
            while connection.recv(65536):
                pass
