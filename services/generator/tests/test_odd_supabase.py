"""What a broken network or a proxy makes of Supabase's answers, met by the real clients over a socket."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpcore
import pytest
from certificates import self_signed
from supabase import AsyncClient

from wearon_contracts.errors import ErrorCode
from wearon_contracts.tasks import Channel
from wearon_generator.ledger import Claim, Held, Ledger, Session, SupabaseDatabase
from wearon_generator.storage import SupabaseBucket
from wearon_generator.supabase_client import SupabaseUnavailable, connect_supabase
from wearon_generator.timing import Timing
from wearon_service_kit.environment import Proxies

Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Ask = Callable[[AsyncClient], Awaitable[object]]
PATH = "generated/a.jpg"
CLAIM = Claim(Held(Session(Channel.B2C, uuid4()), "me/1"), 1)


def says(body: str) -> Behave:
    """A 200 with this JSON."""

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body.encode())

    return behave


async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def sends_a_broken_tls_record(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Past the TLS layer, straight into the socket: a record of application data that nobody encrypted.
    connection = socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno()))
    connection.send(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    connection.close()


async def hangs_up_halfway(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"Key"')


def uploads(client: AsyncClient) -> Awaitable[object]:
    return SupabaseBucket(client, "images").upload(PATH, b"\xff\xd8\xff", "image/jpeg")


def checks(client: AsyncClient) -> Awaitable[object]:
    return Ledger(SupabaseDatabase(client), Timing()).check(CLAIM)


def outcomes(
    behave: Behave, asks: Sequence[Ask] = (uploads, checks), *, tls: ssl.SSLContext | None = None
) -> list[BaseException | None]:
    """What these raise, or else None; an upload and a call of the ledger if no others are given."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await behave(reader, writer)
        writer.close()

    async def run() -> list[BaseException | None]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        client = connect_supabase(url, "eyJ.eyJ.key", connections=2, proxies=Proxies(), timeout=5)
        async with server:
            results = await asyncio.gather(*(ask(client) for ask in asks), return_exceptions=True)
        return [result if isinstance(result, BaseException) else None for result in results]

    return asyncio.run(run())


@pytest.mark.parametrize("body", ["null", "[]", '"ok"', "{}", "7", '{"verdict": 7}', "<html>"])
def test_answer_of_another_shape_counts_as_unavailable(body: str) -> None:
    assert [type(error) for error in outcomes(says(body))] == [SupabaseUnavailable] * 2


@pytest.mark.parametrize(
    "body",
    [
        '{"signedURL":""}',
        '{"signedURL":"x"}',
        '{"signedURL":null}',
        '{"signedURL":"/object/sign/images/generated/a.jpg"}',
        '{"signedURL":"/object/sign/images/generated/b.jpg?token=t"}',
    ],
)
def test_link_that_does_not_lead_to_the_object_counts_as_unavailable(body: str) -> None:
    """A completed session would show it instead of the picture."""
    (error,) = outcomes(says(body), [lambda client: SupabaseBucket(client, "images").sign(PATH, 60)])
    assert type(error) is SupabaseUnavailable


@pytest.mark.parametrize("body", ["[null]", "[{}]", '["x"]', "[[]]", "[7]"])
def test_list_of_other_things_counts_as_unavailable(body: str) -> None:
    def asks(call: Callable[[Ledger], Awaitable[object]]) -> Ask:
        return lambda client: call(Ledger(SupabaseDatabase(client), Timing()))

    calls = [
        asks(lambda ledger: ledger.renew(["me/1"])),
        asks(lambda ledger: ledger.recover(5)),
        asks(lambda ledger: ledger.settled_among([str(uuid4())])),
        asks(lambda ledger: ledger.orphans(datetime.now(UTC), 300, 5)),
        asks(lambda ledger: ledger.reap([CLAIM.held.session], 300, ErrorCode.STUCK, "")),
        asks(lambda ledger: ledger.unwanted_objects(5)),
    ]
    assert [type(error) for error in outcomes(says(body), calls)] == [SupabaseUnavailable] * len(calls)


@pytest.mark.parametrize("behave", [resets, hangs_up_halfway])
def test_connection_that_ends_early_counts_as_unavailable(behave: Behave) -> None:
    assert [type(error) for error in outcomes(behave)] == [SupabaseUnavailable] * 2


def test_broken_tls_record_counts_as_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = self_signed(tmp_path, "shop.example")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    monkeypatch.setattr(
        httpcore, "default_ssl_context", lambda: ssl.create_default_context(cafile=certificate)
    )
    errors = outcomes(sends_a_broken_tls_record, tls=server)
    assert [type(error) for error in errors] == [SupabaseUnavailable] * 2
