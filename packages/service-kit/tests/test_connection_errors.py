"""What an operator is told when a connection fails, with the clients the services use."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator

import httpx
import pytest
import redis

from wearon_service_kit.connection_errors import why_unreachable
from wearon_service_kit.redis_clients import connect

NOBODY = "host.invalid"


def of_httpx(url: str, timeout: float = 5) -> str:
    async def get() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=timeout) as client:
            await client.get(url)

    with pytest.raises(httpx.HTTPError) as raised:
        asyncio.run(get())
    return why_unreachable(raised.value)


def of_redis(host: str, port: int) -> str:
    with (
        connect(f"redis://{host}:{port}/0", name="test") as client,
        pytest.raises(redis.RedisError) as raised,
    ):
        client.ping()
    return why_unreachable(raised.value)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_unknown_host_name_is_told() -> None:
    assert of_httpx(f"http://{NOBODY}/") == of_redis(NOBODY, 6379) == "the host name is not known (DNS)"


def test_refused_connection_is_told() -> None:
    told = "the connection was refused: nothing listens there"
    assert of_httpx(f"http://127.0.0.1:{free_port()}/") == of_redis("127.0.0.1", free_port()) == told


def test_silence_is_told(listener: socket.socket) -> None:
    assert (
        of_httpx(f"http://127.0.0.1:{listener.getsockname()[1]}/", 0.2) == "no answer within the time limit"
    )


def test_server_without_tls_is_told(listener: socket.socket) -> None:
    def answer_in_the_clear() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=answer_in_the_clear, daemon=True).start()
    assert of_httpx(f"https://127.0.0.1:{listener.getsockname()[1]}/").startswith("TLS failed: ")


def test_certificate_of_nobody_is_told() -> None:
    refused = ssl.SSLCertVerificationError()
    refused.verify_message = "self-signed certificate"
    wrapped = OSError("All connection attempts failed")
    wrapped.__cause__ = refused
    assert why_unreachable(wrapped) == "the certificate is not trusted: self-signed certificate"


def test_other_errors_are_named_by_their_type() -> None:
    assert why_unreachable(ValueError("secret")) == "ValueError"
