"""The one downloader for picture URLs that come from strangers.

It speaks httpcore, the wire layer of httpx, because that takes a network backend: the place where a host name
becomes an address. There the address is checked and then dialled as such, so what was checked is what is
connected to (no DNS rebinding), while TLS and the Host header keep the name. Being below httpx it has no
redirects, cookies, proxies, environment variables or unbounded decompression to switch off.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, ip_address
from typing import Any, Final

import httpcore
import httpx

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.addresses import Address, is_public
from wearon_service_kit.images.errors import ImageError, ImageRefused, ImageUnreachable
from wearon_service_kit.images.formats import CONTENT_TYPES, MAGIC_BYTES, ImageFormat, sniff
from wearon_service_kit.origins import canonical_origin, parse_origin

__all__ = [
    "FetchedImage",
    "ImageError",
    "ImageFetcher",
    "ImageRefused",
    "ImageUnreachable",
    "Resolve",
    "resolve_with_system",
]

Resolve = Callable[[str], Awaitable[Sequence[Address]]]
"""Host name to addresses, in the order to try them; raises OSError when there are none."""

_MAX_URL_CHARACTERS: Final = 8192
_MAX_ADDRESSES: Final = 4  # tried per host; each gets an equal share of the time to connect
_CONNECT_SECONDS: Final = 10.0
_MAX_RETRY_AFTER: Final = 3600.0
_MAX_ERROR_BODY: Final = 4096
_PERMITTED_PORTS: Final = (80, 443)
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
# The last label of a host name is never a number; libc and browsers then read the whole as an IPv4 address.
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
_SIGNED_PATH: Final = re.compile(rb"/storage/v1/(object|render/image)/sign/")
_HEADERS: Final = (
    (b"Accept", b"image/jpeg, image/png, image/webp"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"WearOn-image-fetch/1"),
    (b"Connection", b"close"),
)


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """A file that begins like `format`; not decoded yet, so it may still be damaged."""

    data: bytes
    format: ImageFormat


@dataclass(frozen=True, slots=True)
class _Target:
    url: httpcore.URL
    host_header: bytes
    trusted: bool


class ImageFetcher:
    """Downloads pictures, many at a time, on one asyncio event loop.

    Refused, each with its own code: what is no http(s) URL; user names and passwords; ports other than 80 and
    443; hosts with any address outside the public internet; redirects; what is not JPEG, PNG or WebP by
    content type and by its first bytes; more than `max_bytes` after decompression, whatever Content-Length
    says.

    `trusted_origins` (scheme://host[:port], exactly) are excepted from the rules about ports and addresses,
    and from no other. `rewrite_origins` maps an origin as others write it to the one to fetch from, which is
    thereby trusted. `total_timeout`: seconds for one download, from looking up the host to the last byte,
    counted from when it is among the `max_concurrent` that run at once. Each holds at most twice `max_bytes`.

    `resolve`, `network` (opens the TCP connection to an address that was permitted) and `ssl_context` replace
    the system's, the sockets and the public certificate authorities.
    """

    def __init__(
        self,
        *,
        trusted_origins: Iterable[str] = (),
        rewrite_origins: Mapping[str, str] | None = None,
        total_timeout: float = 30.0,
        max_bytes: int = 10 * 1024 * 1024,
        max_concurrent: int = 16,
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._rewrite = {
            parse_origin(source): httpcore.URL(parse_origin(target))
            for source, target in (rewrite_origins or {}).items()
        }
        self._trusted = {parse_origin(origin) for origin in trusted_origins}
        self._trusted |= {parse_origin(origin) for origin in (rewrite_origins or {}).values()}
        self._total_timeout = total_timeout
        self._max_bytes = max_bytes
        self._places = asyncio.Semaphore(max_concurrent)
        context = ssl_context or httpcore.default_ssl_context()
        resolve = resolve or resolve_with_system
        network = network or httpcore.AnyIOBackend()

        def pool(permitted: Callable[[Address], bool]) -> httpcore.AsyncConnectionPool:
            # No connection is kept for another download: a job's pictures are fetched at the same time, and
            # an idle connection that the server is about to close would fail the next one.
            return httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=max_concurrent,
                max_keepalive_connections=0,
                network_backend=_CheckedNetwork(resolve, network, permitted),
            )

        # Two pools, because a backend is told host and port only, and trust goes with the scheme as well.
        self._public_pool = pool(is_public)
        self._trusted_pool = pool(lambda _address: True)

    async def fetch(self, url: str, *, timeout: float | None = None) -> FetchedImage:  # noqa: ASYNC109
        """Download the picture at `url`.

        `timeout`: seconds the caller can spare, the wait for a place included; without it only the download
        itself is limited. Raises ImageRefused (final) or ImageUnreachable (may be tried again).
        """
        target = self._target(url)
        budget = self._total_timeout if timeout is None else min(timeout, self._total_timeout)
        try:
            async with asyncio.timeout(timeout), self._places, asyncio.timeout(self._total_timeout):
                return await self._download(target, budget)
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise self._unreachable(target, ErrorCode.IMAGE_TIMEOUT, f"over {budget:g} s") from error
        except _UnknownHost as error:
            raise self._unreachable(target, ErrorCode.IMAGE_HOST_UNKNOWN, str(error)) from error
        except httpcore.LocalProtocolError as error:  # the URL cannot be put into a request
            raise ImageRefused(ErrorCode.IMAGE_URL_INVALID, type(error).__name__) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:  # OSError: TLS alerts
            raise self._unreachable(target, ErrorCode.IMAGE_UNREACHABLE, type(error).__name__) from error

    async def aclose(self) -> None:
        """Close what is still open; downloads under way fail."""
        await self._public_pool.aclose()
        await self._trusted_pool.aclose()

    def _target(self, url: str) -> _Target:
        parsed = _parse(url)
        host = parsed.raw_host.decode("ascii")
        origin = canonical_origin(parsed.scheme, host, parsed.port)
        wire = httpcore.URL(
            scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
        )
        if origin in self._rewrite:
            base = self._rewrite[origin]
            wire = httpcore.URL(scheme=base.scheme, host=base.host, port=base.port, target=wire.target)
            host = base.host.decode("ascii")
            origin = canonical_origin(base.scheme.decode("ascii"), host, base.port)
        trusted = origin in self._trusted
        if not trusted:
            _check_public(host, parsed.port)
        return _Target(wire, origin.partition("://")[2].encode("ascii"), trusted)

    async def _download(self, target: _Target, budget: float) -> FetchedImage:
        pool = self._trusted_pool if target.trusted else self._public_pool
        async with pool.stream(
            "GET",
            target.url,
            headers=[(b"Host", target.host_header), *_HEADERS],
            extensions={"timeout": {"connect": min(budget, _CONNECT_SECONDS)}},
        ) as response:
            headers = {name.lower(): value.decode("latin-1").strip() for name, value in response.headers}
            if response.status != 200:
                raise await self._bad_status(target, response, headers)
            expected = _expected_format(headers)
            length = headers.get(b"content-length", "")
            if length.isdecimal() and int(length) > self._max_bytes:
                raise ImageRefused(ErrorCode.IMAGE_TOO_LARGE, f"announces {int(length)} bytes")
            body = _Body(headers.get(b"content-encoding", ""), self._max_bytes)
            sniffed = False
            async for chunk in response.aiter_stream():
                body.feed(chunk)
                if not sniffed and len(body.data) >= MAGIC_BYTES:
                    _check_format(body.data, expected)
                    sniffed = True
        data = body.finish()
        _check_format(data, expected)
        return FetchedImage(data, expected)

    async def _bad_status(
        self, target: _Target, response: httpcore.Response, headers: Mapping[bytes, str]
    ) -> ImageError:
        status = response.status
        detail = f"status {status}"
        if 300 <= status < 400:
            return ImageRefused(ErrorCode.IMAGE_REDIRECT_REFUSED, detail)
        if status in (408, 429) or status >= 500:
            retry_after = _retry_after(headers.get(b"retry-after", ""))
            return self._unreachable(target, ErrorCode.IMAGE_UNREACHABLE, detail, retry_after)
        signed = target.trusted and _SIGNED_PATH.match(target.url.target)
        # Supabase answers 400 to an expired link (InvalidJWT) and to a missing object alike; the body of the
        # latter says 404.
        if signed and status in (400, 401, 403) and not _says_not_found(await _error_body(response)):
            return ImageRefused(ErrorCode.IMAGE_URL_EXPIRED, detail)
        return ImageRefused(ErrorCode.IMAGE_HTTP_ERROR, detail)

    @staticmethod
    def _unreachable(
        target: _Target, code: ErrorCode, detail: str, retry_after: float | None = None
    ) -> ImageUnreachable:
        where = target.url.host.decode("ascii")
        return ImageUnreachable(
            code, f"{where}: {detail}", trusted_origin=target.trusted, retry_after=retry_after
        )


async def resolve_with_system(host: str) -> Sequence[Address]:
    """The system's resolver, each lookup in a daemon thread of its own.

    The event loop's executor will not do: it has few threads, and a name server that never answers would hold
    them, and the end of the process, for as long as libc waits.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def settle(addresses: list[Address], error: OSError | None) -> None:
        if answer.done():  # the caller has gone
            return
        if error is None:
            answer.set_result(addresses)
        else:
            answer.set_exception(error)

    def look_up() -> None:
        addresses: list[Address] = []
        failure: OSError | None = None
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(ip_address(item[4][0]) for item in found))
        except OSError as error:
            failure = error
        except ValueError as error:  # a name that cannot be put into a query
            failure = OSError(str(error))
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, addresses, failure)

    threading.Thread(target=look_up, name="image-dns", daemon=True).start()
    return await answer


class _UnknownHost(httpcore.ConnectError):
    """The host has no address."""


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a host, checks every address, then dials the address itself.

    One refused address refuses the host, although dialling only the permitted ones would be as safe: a name
    that also points inside is an attack or a mistake, and the answer must not depend on the order of records.
    """

    def __init__(
        self, resolve: Resolve, inner: httpcore.AsyncNetworkBackend, permitted: Callable[[Address], bool]
    ) -> None:
        self._resolve = resolve
        self._inner = inner
        self._permitted = permitted

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        started = time.monotonic()
        addresses = await self._addresses(host)
        if not all(self._permitted(address) for address in addresses):
            raise ImageRefused(ErrorCode.IMAGE_ADDRESS_REFUSED, f"{host} is not on the public internet")
        failure: Exception = _UnknownHost(host)
        left = addresses[:_MAX_ADDRESSES]
        while left:
            address, *left = left
            share = None
            if timeout is not None:
                share = max(0.0, started + timeout - time.monotonic()) / (len(left) + 1)
            try:
                return await self._inner.connect_tcp(str(address), port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str) -> Sequence[Address]:
        with suppress(ValueError):
            return [ip_address(host)]
        try:
            return await self._resolve(host)
        except OSError as error:
            raise _UnknownHost(host) from error


class _Body:
    """Collects a response body and never holds more than `max_bytes` of it.

    gzip and deflate are undone although not asked for, some servers send them anyway; each step is told how
    much it may produce, so a decompression bomb stops there.
    """

    def __init__(self, encoding: str, max_bytes: int) -> None:
        encoding = encoding.lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise ImageRefused(ErrorCode.IMAGE_ENCODING_REFUSED, "content-encoding")
        self.data = bytearray()
        self._max_bytes = max_bytes
        # 32 + 15: largest window, gzip or zlib header as found
        self._inflate = None if encoding in ("", "identity") else zlib.decompressobj(32 + zlib.MAX_WBITS)

    def feed(self, chunk: bytes) -> None:
        if self._inflate is not None:
            try:
                chunk = self._inflate.decompress(chunk, self._max_bytes + 1 - len(self.data))
            except zlib.error as error:
                raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "content-encoding") from error
        if len(self.data) + len(chunk) > self._max_bytes:
            raise ImageRefused(ErrorCode.IMAGE_TOO_LARGE, f"over {self._max_bytes} bytes")
        self.data += chunk

    def finish(self) -> bytes:
        if not self.data:
            raise ImageRefused(ErrorCode.IMAGE_EMPTY)
        if self._inflate is not None and not self._inflate.eof:
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "content-encoding is cut off")
        return bytes(self.data)


def _parse(url: str) -> httpx.URL:
    if len(url) > _MAX_URL_CHARACTERS:
        raise ImageRefused(ErrorCode.IMAGE_URL_INVALID, "too long")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ImageRefused(ErrorCode.IMAGE_URL_INVALID, type(error).__name__) from error
    if not parsed.scheme:
        raise ImageRefused(ErrorCode.IMAGE_URL_INVALID, "no scheme")
    if parsed.scheme not in ("http", "https"):
        raise ImageRefused(ErrorCode.IMAGE_SCHEME_REFUSED, parsed.scheme[:20])
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if "@" in authority or parsed.userinfo:
        raise ImageRefused(ErrorCode.IMAGE_CREDENTIALS_REFUSED)
    if not parsed.raw_host or "\\" in authority:
        raise ImageRefused(ErrorCode.IMAGE_URL_INVALID, "no valid host")
    return parsed


def _check_public(host: str, port: int | None) -> None:
    """What can be said of a URL from a stranger before its host is looked up."""
    if port is not None and port not in _PERMITTED_PORTS:
        raise ImageRefused(ErrorCode.IMAGE_PORT_REFUSED, f"port {port}")
    if ":" in host:  # an IPv6 address; the network checks it
        return
    if not _HOST_NAME.fullmatch(host):
        raise ImageRefused(ErrorCode.IMAGE_URL_INVALID, "no valid host name")
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            IPv4Address(host)
        except ValueError:  # decimal, octal, hexadecimal, short: only the plain dotted form is read
            raise ImageRefused(ErrorCode.IMAGE_ADDRESS_REFUSED, "an odd spelling of an address") from None


def _expected_format(headers: Mapping[bytes, str]) -> ImageFormat:
    content_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    expected = CONTENT_TYPES.get(content_type)
    if expected is None:
        raise ImageRefused(ErrorCode.IMAGE_TYPE_REFUSED, content_type[:40] or "no content type")
    return expected


def _check_format(data: bytes | bytearray, expected: ImageFormat) -> None:
    found = sniff(data)
    if found != expected:
        raise ImageRefused(
            ErrorCode.IMAGE_TYPE_MISMATCH, f"{expected} announced, {found or 'something else'} sent"
        )


async def _error_body(response: httpcore.Response) -> bytes:
    body = b""
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > _MAX_ERROR_BODY:
            break
    return body


def _says_not_found(body: bytes) -> bool:
    try:
        document = json.loads(body)
    except ValueError:
        return False
    return isinstance(document, dict) and str(document.get("statusCode")) == "404"


def _retry_after(value: str) -> float | None:
    if value.isdecimal():
        return min(float(value), _MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):  # what email.utils raises on odd dates
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), _MAX_RETRY_AFTER)
