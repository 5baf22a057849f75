"""The downloader: what it dials, what it sends, what it accepts, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import os
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

import httpcore
import pytest
from hostile import HostileServer, photo
from hostile.responses import head, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.checked_http.addresses import Address
from wearon_service_kit.checked_http.dial import Resolve, resolve_with_system
from wearon_service_kit.images.fetch import (
    FetchedImage,
    ImageError,
    ImageFetcher,
    ImageRefused,
    ImageUnreachable,
)
from wearon_service_kit.images.formats import refusal_of, sniff

PUBLIC = "93.184.216.34"


class Certificate(Protocol):
    path: Path
    key_path: Path


class Reroute(httpcore.AsyncNetworkBackend):
    """Notes the address that was dialled and connects to a local port instead; those in `dead` fail.

    Addresses in `elsewhere` lead to a port of their own.
    """

    def __init__(
        self, port: int, dead: Iterable[str] = (), elsewhere: Mapping[str, int] | None = None
    ) -> None:
        self.dialled: list[tuple[str, int]] = []
        self._port = port
        self._dead = set(dead)
        self._elsewhere = elsewhere or {}
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **more: Any) -> httpcore.AsyncNetworkStream:
        self.dialled.append((host, port))
        if host in self._dead:
            raise httpcore.ConnectError("unreachable")
        return await self._real.connect_tcp("127.0.0.1", self._elsewhere.get(host, self._port), *args, **more)


class Resolver:
    """Answers from a table; every answer may differ from the one before, as with DNS rebinding."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.asked: list[str] = []
        self._answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}

    async def __call__(self, host: str) -> Sequence[Address]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if not answers:
            raise OSError("no such host")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(text) for text in answer]


class Site:
    """A web server whose every answer is the same; optionally with TLS, noting the name clients ask for."""

    def __init__(self, answer: bytes, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self._answer = answer
        self._context = context
        if context is not None:
            context.sni_callback = lambda _socket, name, _context: self.names.append(name)

    def __enter__(self) -> Site:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    part = connection.recv(65536)
                    if not part:
                        return
                    request += part
                self.requests.append(request)
                connection.sendall(self._answer)


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(scenario)


def fetch(url: str, **options: Any) -> FetchedImage:
    async def scenario() -> FetchedImage:
        images = ImageFetcher(**options)
        return await images.fetch(url)

    return asyncio.run(scenario())


def refused(url: str, code: ErrorCode, **options: Any) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        fetch(url, **options)
    assert caught.value.code == code
    return caught.value


def unreachable(url: str, code: ErrorCode, **options: Any) -> ImageUnreachable:
    with pytest.raises(ImageUnreachable) as caught:
        fetch(url, **options)
    assert caught.value.code == code
    return caught.value


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(whole(photo())) as served:
        yield served


# What is dialled


def test_a_public_host_is_resolved_once_and_its_address_is_dialled(site: Site) -> None:
    resolver, network = Resolver(shop_example=[[PUBLIC]]), Reroute(site.port)
    image = fetch("http://shop.example/a%20b.jpg?x=1&token=y#top", resolve=resolver, network=network)
    assert image == FetchedImage(photo(), "JPEG")
    assert resolver.asked == ["shop.example"]
    assert network.dialled == [(PUBLIC, 80)]
    request = site.requests[-1]
    assert request.startswith(b"GET /a%20b.jpg?x=1&token=y HTTP/1.1\r\n")
    assert b"\r\nHost: shop.example\r\n" in request
    assert b"\r\nAccept-Encoding: identity\r\n" in request
    assert b"cookie" not in request.lower()
    assert b"authorization" not in request.lower()


def test_tls_keeps_the_name_while_the_address_is_dialled(certificate: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key_path)
    trusting = ssl.create_default_context(cafile=str(certificate.path))
    with Site(whole(photo()), context) as secure:
        network = Reroute(secure.port)
        options: dict[str, Any] = {
            "resolve": Resolver(shop_example=[[PUBLIC]], other_example=[[PUBLIC]]),
            "network": network,
        }
        assert fetch("https://shop.example/a.jpg", ssl_context=trusting, **options).format == "JPEG"
        assert network.dialled == [(PUBLIC, 443)]
        assert secure.names == ["shop.example"]
        # Another name than the certificate's, and a certificate nobody vouches for
        error = unreachable(
            "https://other.example/", ErrorCode.IMAGE_UNREACHABLE, ssl_context=trusting, **options
        )
        assert error.trusted_origin is False
        unreachable("https://shop.example/", ErrorCode.IMAGE_UNREACHABLE, **options)


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["100.64.0.1"], ["0.0.0.0"], ["255.255.255.255"],
        ["::1"], ["fe80::1"], ["fd00::1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"], ["2002:7f00:1::"],
        [PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], ["2606:4700::1111", "::1"], [PUBLIC] * 9 + ["10.0.0.1"],
    ],
)  # fmt: skip
def test_a_host_with_any_address_inside_is_refused_and_nothing_is_dialled(
    site: Site, answer: list[str]
) -> None:
    network = Reroute(site.port)
    refused(
        "http://shop.example/a.jpg",
        ErrorCode.IMAGE_ADDRESS_REFUSED,
        resolve=Resolver(shop_example=[answer]),
        network=network,
    )
    assert network.dialled == []


def test_rebinding_between_two_lookups_does_not_help(site: Site) -> None:
    """The first answer is public, all later ones are not: only what was checked is ever dialled."""
    resolver, network = Resolver(evil_example=[[PUBLIC], ["127.0.0.1"]]), Reroute(site.port)

    async def scenario() -> None:
        images = ImageFetcher(resolve=resolver, network=network)
        await images.fetch("http://evil.example/a.jpg")
        with pytest.raises(ImageRefused):
            await images.fetch("http://evil.example/a.jpg")

    run(scenario())
    assert resolver.asked == ["evil.example"] * 2
    assert network.dialled == [(PUBLIC, 80)]


def test_the_next_address_is_tried_when_one_does_not_answer(site: Site) -> None:
    dead = ["2606:4700::1111", "93.184.216.35"]
    network = Reroute(site.port, dead)
    resolver = Resolver(shop_example=[[*dead, PUBLIC]])
    assert fetch("http://shop.example/a.jpg", resolve=resolver, network=network).data == photo()
    assert [host for host, _ in network.dialled] == [*dead, PUBLIC]


class Swallowing(Reroute):
    """What is sent to one of its addresses is never answered."""

    async def connect_tcp(self, host: str, port: int, *args: Any, **more: Any) -> Any:
        if host == "93.184.216.35":
            self.dialled.append((host, port))
            await asyncio.sleep(args[0])
            raise httpcore.ConnectTimeout
        return await super().connect_tcp(host, port, *args, **more)


def test_connection_that_is_not_made_is_told_with_its_own_limit(site: Site) -> None:
    error = unreachable(
        "http://storage.example/a.jpg",
        ErrorCode.IMAGE_TIMEOUT,
        trusted_origins=["http://storage.example"],
        resolve=Resolver(storage_example=[["93.184.216.35"]]),
        network=Swallowing(site.port),
        first_byte_timeout=0.2,
    )
    assert error.detail == "storage.example: no connection within 0.2 s"


def test_an_address_that_swallows_packets_leaves_time_for_the_next(site: Site) -> None:
    network = Swallowing(site.port)
    resolver = Resolver(shop_example=[["93.184.216.35", PUBLIC]])
    started = time.monotonic()
    fetch("http://shop.example/a.jpg", resolve=resolver, network=network, total_timeout=2)
    assert time.monotonic() - started < 1.7


def test_host_whose_every_address_is_dead_is_unreachable(site: Site) -> None:
    error = unreachable(
        "http://shop.example/a.jpg",
        ErrorCode.IMAGE_UNREACHABLE,
        resolve=Resolver(shop_example=[[PUBLIC]]),
        network=Reroute(site.port, [PUBLIC]),
    )
    assert error.trusted_origin is False
    assert "shop.example" in error.detail


def test_an_unknown_host_has_its_own_code(site: Site) -> None:
    unreachable(
        "http://nowhere.example/a.jpg",
        ErrorCode.IMAGE_HOST_UNKNOWN,
        resolve=Resolver(),
        network=Reroute(site.port),
    )
    unreachable("http://shop.invalid/a.jpg", ErrorCode.IMAGE_HOST_UNKNOWN, resolve=resolve_with_system)


def test_a_name_server_that_never_answers_ends_with_the_deadline_and_holds_nothing_up() -> None:
    async def scenario() -> None:
        async def hanging(host: str) -> Sequence[Address]:
            await asyncio.sleep(3600)
            return []

        images = ImageFetcher(resolve=hanging, max_concurrent=4)
        results = await asyncio.gather(
            *(images.fetch("http://shop.example/", timeout=0.3) for _ in range(20)),
            return_exceptions=True,
        )
        assert {getattr(result, "code", result) for result in results} == {ErrorCode.IMAGE_TIMEOUT}

    started = time.monotonic()
    run(scenario())
    assert time.monotonic() - started < 2


def test_the_systems_resolver_finds_localhost() -> None:
    assert ip_address("127.0.0.1") in run(resolve_with_system("localhost"))
    for host in ("a" * 64 + ".example", "shop.invalid", "\udcff.example"):
        with pytest.raises(OSError, match=r"."):
            run(resolve_with_system(host))


# Trusted origins


def test_only_the_exact_origin_is_trusted(site: Site) -> None:
    port = site.port
    assert fetch(f"http://127.0.0.1:{port}/a.jpg", trusted_origins=[f"http://127.0.0.1:{port}/"])
    refused(
        f"http://127.0.0.1:{port}/a.jpg", ErrorCode.IMAGE_PORT_REFUSED, trusted_origins=["http://127.0.0.1:1"]
    )
    refused(
        f"https://127.0.0.1:{port}/a.jpg",
        ErrorCode.IMAGE_PORT_REFUSED,
        trusted_origins=[f"http://127.0.0.1:{port}"],
    )
    refused(
        f"http://localhost:{port}/a.jpg",
        ErrorCode.IMAGE_PORT_REFUSED,
        trusted_origins=[f"http://127.0.0.1:{port}"],
    )
    refused("https://127.0.0.1/a.jpg", ErrorCode.IMAGE_ADDRESS_REFUSED, trusted_origins=["http://127.0.0.1"])
    refused(
        "http://127.0.0.1:443/a.jpg", ErrorCode.IMAGE_ADDRESS_REFUSED, trusted_origins=["http://127.0.0.1"]
    )


def test_a_trusted_private_host_on_80_is_fetched_and_its_https_twin_is_not(site: Site) -> None:
    resolver, network = Resolver(storage=[["10.1.2.3"]]), Reroute(site.port)
    options: dict[str, Any] = {"resolve": resolver, "network": network, "trusted_origins": ["http://storage"]}
    assert fetch("http://STORAGE:80/a.jpg", **options).format == "JPEG"
    assert network.dialled == [("10.1.2.3", 80)]
    refused("https://storage/a.jpg", ErrorCode.IMAGE_ADDRESS_REFUSED, **options)
    assert network.dialled == [("10.1.2.3", 80)]


def test_trust_excepts_from_nothing_else(site: Site) -> None:
    origin = f"127.0.0.1:{site.port}"
    trusted = [f"http://{origin}"]
    refused(f"http://me:pw@{origin}/a.jpg", ErrorCode.IMAGE_CREDENTIALS_REFUSED, trusted_origins=trusted)
    refused(f"ftp://{origin}/a.jpg", ErrorCode.IMAGE_SCHEME_REFUSED, trusted_origins=trusted)


def test_a_public_origin_is_rewritten_to_the_internal_one(site: Site) -> None:
    resolver = Resolver(kong=[["172.18.0.5"]])
    network = Reroute(site.port)
    fetch(
        "https://project.supabase.example/storage/v1/object/sign/a.jpg?token=t.o.k",
        rewrite_origins={"https://project.supabase.example/": "http://kong:8000"},
        resolve=resolver,
        network=network,
    )
    assert network.dialled == [("172.18.0.5", 8000)]
    assert site.requests[-1].startswith(b"GET /storage/v1/object/sign/a.jpg?token=t.o.k HTTP/1.1\r\n")
    assert b"\r\nHost: kong:8000\r\n" in site.requests[-1]


def test_an_outage_of_a_trusted_origin_is_marked_as_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    origin = f"http://127.0.0.1:{port}"
    error = unreachable(f"{origin}/a.jpg", ErrorCode.IMAGE_UNREACHABLE, trusted_origins=[origin])
    assert error.trusted_origin is True


def test_a_proxy_in_the_environment_is_ignored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(f"{site.origin}/a.jpg", trusted_origins=[site.origin]).format == "JPEG"


# What is accepted


def served(answer: bytes, **options: Any) -> FetchedImage:
    with Site(answer) as local:
        return fetch(f"{local.origin}/a", trusted_origins=[local.origin], **options)


LABELS = [
    "image/jpeg", "IMAGE/JPEG; charset=binary", "image/jpg", "image/jfif", "image/pjpeg", "image/png",
    "image/webp", "image/avif", "image/*", "image", "application/octet-stream", "binary/octet-stream",
    "text/plain", "text/html", "", None,
]  # fmt: skip


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("label", LABELS)
def test_picture_is_accepted_whatever_its_label(label: str | None, format_: str) -> None:
    data = photo(format_)
    assert served(whole(data, label)) == FetchedImage(data, format_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        ([b"avif", b"", b"mif1"], "AVIF"), ([b"mif1", b"", b"miaf", b"avif"], "AVIF"),
        ([b"avis", b""], "AVIF"),
        ([b"heic", b"", b"mif1"], ErrorCode.IMAGE_HEIC), ([b"mif1", b"", b"heic"], ErrorCode.IMAGE_HEIC),
        ([b"heix", b""], ErrorCode.IMAGE_HEIC), ([b"msf1", b"", b"hevc"], ErrorCode.IMAGE_HEIC),
        ([b"mp42", b"", b"isom"], ErrorCode.IMAGE_VIDEO), ([b"qt  ", b""], ErrorCode.IMAGE_VIDEO),
        ([b"crx ", b"", b"isom"], ErrorCode.IMAGE_TYPE_REFUSED),
    ],
)  # fmt: skip
def test_brands_tell_avif_from_heic_from_video(brands: list[bytes], expected: str) -> None:
    body = b"".join(brand.ljust(4, b"\0") for brand in brands)
    data = struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(64)
    found = sniff(data) or refusal_of(data).code
    assert found == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\ufeff \n<!DOCTYPE html>", ErrorCode.IMAGE_WEB_PAGE),
        ("<?xml version='1.0'?>\n<!-- a shop -->\n<HTML lang=en>", ErrorCode.IMAGE_WEB_PAGE),
        ("<script>location='/login'</script>", ErrorCode.IMAGE_WEB_PAGE),
        ("<?xml version='1.0'?><!DOCTYPE svg PUBLIC ''><svg/>", ErrorCode.IMAGE_SVG),
        ("<!-- made by hand --><svg:svg/>", ErrorCode.IMAGE_SVG),
        ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", ErrorCode.IMAGE_TYPE_REFUSED),
        ("hello", ErrorCode.IMAGE_TYPE_REFUSED),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_text_is_told_by_what_it_begins_with(text: str, code: ErrorCode, encoding: str) -> None:
    if encoding == "utf-16":
        text = text.lstrip("\ufeff")  # encoding puts one there
    assert refusal_of(text.encode(encoding)).code == code


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=2000))
def test_every_body_is_a_picture_or_has_a_reason(start: bytes, rest: bytes) -> None:
    for data in (start, start + rest, b"\0\0\0\x18ftyp" + start):
        assert sniff(data) or refusal_of(data).code.startswith("image_")


def test_bodies_without_a_length_in_chunks_and_compressed() -> None:
    data = photo()
    assert served(head() + data).data == data
    chunks = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (data[:5], data[5:]))
    assert served(head(Transfer_Encoding="chunked") + chunks + b"0\r\n\r\n").data == data
    assert served(whole(gzip.compress(data), Content_Encoding="gzip")).data == data
    assert served(whole(gzip.compress(data), Content_Encoding="X-GZIP")).data == data
    assert served(whole(zlib.compress(data), Content_Encoding="deflate")).data == data
    assert served(whole(data, Content_Encoding="identity")).data == data


def test_padding_behind_a_packed_picture_is_passed_over() -> None:
    data = photo()
    padding = bytes(200_000)  # more than one read
    for packed, encoding in ((gzip.compress(data), "gzip"), (zlib.compress(data), "deflate")):
        assert served(whole(packed + padding, Content_Encoding=encoding)).data == data


@pytest.mark.parametrize(
    "encoding", ["aws-chunked", "UTF-8", "base64", "none", "binary", "aws-chunked, identity", ",", "rot13"]
)
def test_encodings_that_are_none_mean_nothing(encoding: str) -> None:
    assert served(whole(photo(), Content_Encoding=encoding)).data == photo()
    if encoding != ",":
        packed = whole(gzip.compress(photo()), Content_Encoding=f"{encoding}, gzip")
        assert served(packed).data == photo()


@pytest.mark.parametrize("encoding", ["br", "zstd", "aws-chunked, BR"])
def test_encodings_that_cannot_be_undone_are_named(encoding: str) -> None:
    with pytest.raises(ImageRefused) as caught:
        served(whole(photo(), Content_Encoding=encoding))
    assert caught.value.code == ErrorCode.IMAGE_ENCODING_REFUSED
    assert caught.value.detail == encoding.rpartition(" ")[2].lower()


@pytest.mark.parametrize("status", [401, 402, 403, 451])
def test_access_refused_by_a_strangers_host_has_its_own_code(status: int) -> None:
    with Site(whole(b"no", "text/plain", f"{status} No")) as closed:
        refused(
            "http://shop.example/a.jpg",
            ErrorCode.IMAGE_ACCESS_REFUSED,
            resolve=Resolver(shop_example=[[PUBLIC]]),
            network=Reroute(closed.port),
        )
        refused(f"{closed.origin}/a.jpg", ErrorCode.IMAGE_HTTP_ERROR, trusted_origins=[closed.origin])


def test_exactly_the_limit_is_accepted_and_one_byte_more_is_not() -> None:
    data = photo()
    assert served(whole(data), max_bytes=len(data)).data == data
    assert served(whole(gzip.compress(data), Content_Encoding="gzip"), max_bytes=len(data)).data == data
    for answer in (whole(data), head() + data, whole(gzip.compress(data), Content_Encoding="gzip")):
        with pytest.raises(ImageRefused) as caught:
            served(answer, max_bytes=len(data) - 1)
        assert caught.value.code == ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", (7, 7)), ("0", (0, 0)), ("99999999", (3600, 3600)), (60, (50, 60)), (-60, (0, 0)),
        ("soon", None), ("-5", None), ("9" * 500, (3600, 3600)), ("Mon, 99 Foo 2026 99:99:99 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_as_a_date(
    header: str | int, expected: tuple[float, float] | None
) -> None:
    """As text, or as a date so many seconds from now."""
    if isinstance(header, int):
        header = email.utils.formatdate(time.time() + header, usegmt=True)
    with pytest.raises(ImageUnreachable) as caught:
        served(whole(b"", None, "429 Too Many Requests", Retry_After=header))
    waited = caught.value.retry_after
    if expected is None:
        assert waited is None
    else:
        assert waited is not None
        assert expected[0] <= waited <= expected[1]


def test_an_expired_link_counts_only_where_links_are_ours(site: Site) -> None:
    body = b'{"statusCode":"400","error":"InvalidJWT","message":"\\"exp\\" claim timestamp check failed"}'
    with Site(whole(body, "application/json", "400 Bad Request")) as expired:
        link = "/storage/v1/object/sign/images/a.jpg?token=t"
        refused(f"{expired.origin}{link}", ErrorCode.IMAGE_URL_EXPIRED, trusted_origins=[expired.origin])
        refused(f"{expired.origin}/a.jpg", ErrorCode.IMAGE_HTTP_ERROR, trusted_origins=[expired.origin])
        refused(
            f"http://shop.example{link}",
            ErrorCode.IMAGE_HTTP_ERROR,
            resolve=Resolver(shop_example=[[PUBLIC]]),
            network=Reroute(expired.port),
        )


def test_errors_hold_no_url_and_no_token() -> None:
    with HostileServer() as server:
        for url in (f"{server.origin}/missing?token=hunter2", "http://10.0.0.1/a?token=hunter2",
                    "https://user:hunter2@shop.example/", "http://shop.invalid/?token=hunter2"):  # fmt: skip
            with pytest.raises(ImageError) as caught:
                fetch(url, trusted_origins=[server.origin])
            assert "hunter2" not in str(caught.value)
            assert "hunter2" not in caught.value.detail


# Time


@pytest.mark.parametrize("total", [True, False])
def test_either_limit_ends_a_slow_download(total: bool) -> None:
    """`total_timeout` is the fetcher's, `timeout` the caller's; the shorter one counts."""

    async def scenario() -> float:
        with HostileServer() as server:
            url = f"{server.origin}/responses/slow-body"
            options: dict[str, Any] = {"total_timeout": 0.5 if total else 30}
            images = ImageFetcher(trusted_origins=[server.origin], **options)
            started = time.monotonic()
            with pytest.raises(ImageUnreachable) as caught:
                await images.fetch(url, timeout=30 if total else 0.5)
            assert caught.value.code == ErrorCode.IMAGE_TIMEOUT
            return time.monotonic() - started

    assert 0.4 < run(scenario()) < 1.5


def test_waiting_for_a_place_counts_for_the_caller_but_not_for_the_download() -> None:
    async def scenario() -> None:
        with HostileServer() as server:
            slow = f"{server.origin}/responses/slow-body"
            images = ImageFetcher(trusted_origins=[server.origin], max_concurrent=1, total_timeout=1)
            first = asyncio.create_task(images.fetch(slow))
            await until(lambda: bool(server.requests))
            patient = asyncio.create_task(images.fetch(server.good_url))
            started = time.monotonic()
            with pytest.raises(ImageUnreachable) as caught:
                await images.fetch(server.good_url, timeout=0.2)
            assert caught.value.code == ErrorCode.IMAGE_TIMEOUT
            assert time.monotonic() - started < 0.7
            with pytest.raises(ImageUnreachable):
                await first
            assert (await patient).format == "JPEG", "it waited almost as long as a download may take"

    run(scenario())


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it is another thread's doing
            await asyncio.sleep(0.01)


# Many at once


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_many_downloads_share_one_fetcher_and_nothing_stays_open() -> None:
    async def scenario() -> None:
        with HostileServer() as server:
            names = ["endless", "gzip-bomb", "redirect-301", "drops-in-the-body", "silent", "base64", "empty"]
            bad = [f"{server.origin}/responses/{name}" for name in names]
            images = ImageFetcher(trusted_origins=[server.origin], max_concurrent=8, total_timeout=5)
            await images.fetch(server.good_url)
            before = open_files()
            tasks = [asyncio.create_task(images.fetch(server.good_url)) for _ in range(100)]
            tasks += [asyncio.create_task(images.fetch(bad[n % 7], timeout=2)) for n in range(140)]
            cancelled = [asyncio.create_task(images.fetch(bad[4])) for _ in range(20)]
            await until(lambda: len(server.requests) > 20)
            for task in cancelled:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, FetchedImage) for result in results[:100])
            assert all(isinstance(result, ImageError) for result in results[100:])
            assert all(
                isinstance(result, asyncio.CancelledError)
                for result in await asyncio.gather(*cancelled, return_exceptions=True)
            )
            # The server shares this process: its ends close as its threads notice.
            await until(lambda: open_files() <= before)
            assert (await images.fetch(server.good_url)).format == "JPEG"

    run(scenario())


def test_no_more_downloads_at_once_than_allowed() -> None:
    async def scenario() -> None:
        with HostileServer() as server:
            slow = f"{server.origin}/responses/silent"
            images = ImageFetcher(trusted_origins=[server.origin], max_concurrent=3)
            tasks = [asyncio.create_task(images.fetch(slow)) for _ in range(10)]
            await until(lambda: len(server.requests) == 3)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert len(server.requests) == 3

    run(scenario())


# Slow hosts


def test_host_that_sends_no_first_byte_is_given_up_after_the_first_byte_limit() -> None:
    async def scenario() -> None:
        with HostileServer() as server:
            images = ImageFetcher(trusted_origins=[server.origin], trusted_first_byte_timeout=0.3)
            for name in ("silent", "early-hints-forever", "slow-header"):
                with pytest.raises(ImageUnreachable) as caught:
                    await images.fetch(f"{server.origin}/responses/{name}")
                assert caught.value.code == ErrorCode.IMAGE_TIMEOUT
                assert 0.2 < caught.value.seconds < 3

    run(scenario())


def test_stranger_is_given_less_time_to_its_first_byte_than_our_storage() -> None:
    async def scenario() -> None:
        with HostileServer() as server:
            images = ImageFetcher(
                trusted_origins=[server.origin],
                resolve=Resolver(shop_example=[[PUBLIC]]),
                network=Reroute(server.port),
                first_byte_timeout=0.2,
                trusted_first_byte_timeout=1.0,
            )
            took = {}
            for origin in ("http://shop.example", server.origin):
                with pytest.raises(ImageUnreachable) as caught:
                    await images.fetch(f"{origin}/responses/silent")
                took[origin] = caught.value.seconds
            assert 0.1 < took["http://shop.example"] < 0.9 < took[server.origin]

    run(scenario())


def test_hanging_hosts_hold_up_neither_our_storage_nor_other_hosts(site: Site) -> None:
    """200 pictures on ten hosts that never answer wait, each host for itself; all others come at once."""

    async def scenario() -> None:
        with HostileServer() as silent:
            resolver = Resolver(
                shop_example=[[PUBLIC]], **{f"hang{n}_example": [["93.184.216.35"]] for n in range(10)}
            )
            network = Reroute(site.port, elsewhere={"93.184.216.35": silent.port})
            images = ImageFetcher(
                trusted_origins=[site.origin], resolve=resolver, network=network, first_byte_timeout=30
            )
            hanging = [
                asyncio.create_task(images.fetch(f"http://hang{n % 10}.example/responses/silent"))
                for n in range(200)
            ]
            await until(lambda: len(silent.requests) == 60)
            async with asyncio.timeout(5):
                for _ in range(5):
                    assert (await images.fetch(f"{site.origin}/a.jpg")).format == "JPEG"
            assert len(silent.requests) == 60, "six for each host"
            # Four places are left for all other strangers together.
            async with asyncio.timeout(5):
                await asyncio.gather(*(images.fetch("http://shop.example/a.jpg") for _ in range(20)))
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

    run(scenario())


def test_waiting_to_be_admitted_takes_nothing_from_the_time_of_the_download(site: Site) -> None:
    async def scenario() -> None:
        asked: list[tuple[int, bool]] = []
        admitted = asyncio.Event()

        async def admit(size: int, trusted: bool) -> None:
            asked.append((size, trusted))
            await admitted.wait()

        images = ImageFetcher(trusted_origins=[site.origin], total_timeout=0.5)
        download = asyncio.create_task(images.fetch(f"{site.origin}/a.jpg", admit=admit))
        await until(lambda: bool(asked))
        done, _ = await asyncio.wait([download], timeout=0.8)
        assert not done
        admitted.set()
        assert (await download).data == photo()
        assert asked == [(len(photo()), True)]

    run(scenario())


# Anything at all


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.from_regex(r"\A(https?|ftp|file)?:?/{0,3}[^/]{0,30}(:[0-9a-z]{0,6})?(/.{0,10})?\Z"),
        st.builds(
            "{}://{}{}{}".format,
            st.sampled_from(["http", "https", "HTTP"]),
            st.one_of(
                st.ip_addresses().map(str), st.ip_addresses(v=6).map("[{}]".format), st.integers(0, 2**33)
            ),
            st.sampled_from(["", ":80", ":443", ":22", "@", ".", "%", "\\"]),
            st.sampled_from(["", "/", "?", "#", "/a.jpg"]),
        ),
    )
)
def test_no_text_leads_to_anything_but_an_image_error(url: str) -> None:
    """Whatever is dialled is public; whatever is raised is ours."""
    network = Dead()
    resolve: Resolve = Resolver()
    with pytest.raises(ImageError):
        fetch(url, network=network, resolve=resolve, ssl_context=_CONTEXT)
    assert all(ip_address(host).is_global and port in (80, 443) for host, port in network.dialled)


_CONTEXT = ssl.create_default_context()


class Dead(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.dialled.append((host, port))
        raise httpcore.ConnectError("unreachable")


# Who gives a download up


def connections_to(port: int) -> int:
    """How many of this process's sockets lead to `port`."""
    found = 0
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as opened:
            found += opened.family == socket.AF_INET and opened.getpeername()[1] == port
    return found


def test_downloads_given_up_at_any_moment_leave_no_socket_open(site: Site) -> None:
    async def scenario() -> int:
        images = ImageFetcher(trusted_origins=[site.origin])
        for turns in range(600):
            download = asyncio.ensure_future(images.fetch(f"{site.origin}/a.jpg"))
            for _ in range(turns):
                await asyncio.sleep(0)
            download.cancel()
            await asyncio.wait([download])
        # What is closed in the background has a moment for it.
        for _ in range(100):
            await asyncio.sleep(0)
        return connections_to(site.port)

    assert run(scenario()) == 0
