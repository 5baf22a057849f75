"""The one downloader for picture URLs that come from strangers."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpcore

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.checked_http.client import CheckedHttp
from wearon_service_kit.checked_http.dial import Resolve, UnknownHost
from wearon_service_kit.checked_http.errors import Rule, TargetRefused
from wearon_service_kit.checked_http.targets import Target
from wearon_service_kit.images.body import Body
from wearon_service_kit.images.errors import ImageError, ImageRefused, ImageUnreachable
from wearon_service_kit.images.formats import ImageFormat
from wearon_service_kit.images.places import Places
from wearon_service_kit.pauses import asked_pause
from wearon_service_kit.tracing import NO_TRACER, Tracer

__all__ = ["FetchedImage", "ImageError", "ImageFetcher", "ImageRefused", "ImageUnreachable"]

Admit = Callable[[int, bool], Awaitable[object]]
"""Waits until there is room for so many bytes, the most that a download may come to, of an origin that is
trusted or not."""

_MAX_ERROR_BODY: Final = 4096
_REDIRECTS: Final = (300, 301, 302, 303, 307, 308)
_ACCESS_REFUSED: Final = (401, 402, 403, 451)
_HEADERS: Final = (
    # AVIF is accepted too, but not asked for: servers that choose by this header have a lighter kind as well.
    (b"Accept", b"image/jpeg, image/png, image/webp, image/*;q=0.5"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"WearOn-image-fetch/1"),
)
_CODES: Final = {
    Rule.URL: ErrorCode.IMAGE_URL_INVALID,
    Rule.SCHEME: ErrorCode.IMAGE_SCHEME_REFUSED,
    Rule.CREDENTIALS: ErrorCode.IMAGE_CREDENTIALS_REFUSED,
    Rule.PORT: ErrorCode.IMAGE_PORT_REFUSED,
    Rule.ADDRESS: ErrorCode.IMAGE_ADDRESS_REFUSED,
}


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """A file that begins like `format`; not decoded yet, so it may still be damaged."""

    data: bytes
    format: ImageFormat


class ImageFetcher:
    """Downloads pictures, many at a time, on one asyncio event loop.

    Refused, each with its own code: what `Targets` refuses; hosts with any address outside the public
    internet; redirects; what is not JPEG, PNG, WebP or AVIF by its first bytes, whatever Content-Type says;
    more than `max_bytes`, as sent or after decompression, whatever Content-Length says.

    `trusted_origins`, `rewrite_origins`, `resolve`, `network`, `ssl_context`: see `CheckedHttp`.
    `total_timeout`: seconds for one download, from looking up the host to the last byte;
    `first_byte_timeout`: from looking it up to the head of the answer, `trusted_first_byte_timeout` for a
    trusted origin. They count from when the download has its place (see `Places`; `max_concurrent` for each
    trusted origin). Each download holds at most twice `max_bytes`.
    """

    def __init__(
        self,
        *,
        trusted_origins: Iterable[str] = (),
        rewrite_origins: Mapping[str, str] | None = None,
        total_timeout: float = 30.0,
        first_byte_timeout: float = 5.0,
        trusted_first_byte_timeout: float = 15.0,
        max_bytes: int = 10 * 1024 * 1024,
        max_concurrent: int = 16,
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._http = CheckedHttp(
            trusted_origins=trusted_origins,
            rewrite_origins=rewrite_origins,
            resolve=resolve,
            network=network,
            ssl_context=ssl_context,
        )
        self._total_timeout = total_timeout
        self._max_bytes = max_bytes
        self._connect_timeout = min(first_byte_timeout, total_timeout)
        self._first_byte_timeout = first_byte_timeout
        self._trusted_first_byte_timeout = trusted_first_byte_timeout
        self._places = Places(max_concurrent)
        self._tracer = tracer

    async def fetch(
        self,
        url: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        admit: Admit | None = None,
    ) -> FetchedImage:
        """Download the picture at `url`.

        `timeout`: seconds the caller can spare, the wait for a place included; without it only the download
        itself is limited. `admit` is waited for once the answer has begun, before more of it is read; that
        takes nothing from `total_timeout`.

        Raises ImageRefused (final) or ImageUnreachable (may be tried again).
        """
        try:
            target = self._http.target(url)
        except TargetRefused as refused:
            raise _refused(refused) from refused
        # Of its address a trace tells the host alone; the rest is a shopper's picture.
        with self._tracer.span("download picture", "client", {"server.address": target.host}) as span:
            try:
                image = await self._in_its_place(target, timeout, admit)
            except ImageError as error:
                span.fail(error.code.value)
                raise
            span.describe({"wearon.image.bytes": len(image.data)})
            return image

    async def _in_its_place(
        self,
        target: Target,
        timeout: float | None,  # noqa: ASYNC109
        admit: Admit | None,
    ) -> FetchedImage:
        try:
            async with asyncio.timeout(timeout), self._places.take(target):
                began = time.monotonic()
                try:
                    return await self._try(target, admit)
                except ImageUnreachable as error:
                    error.seconds = time.monotonic() - began
                    raise
        except TimeoutError as error:
            raise self._unreachable(target, ErrorCode.IMAGE_TIMEOUT, f"over {timeout:g} s") from error

    async def _try(self, target: Target, admit: Admit | None) -> FetchedImage:
        try:
            async with asyncio.timeout(self._total_timeout) as limit:
                return await self._download(target, limit, admit)
        except httpcore.ConnectTimeout as error:
            detail = f"no connection within {self._connect_timeout:g} s"
            raise self._unreachable(target, ErrorCode.IMAGE_TIMEOUT, detail) from error
        except (TimeoutError, httpcore.TimeoutException) as error:
            detail = f"over {self._total_timeout:g} s"
            raise self._unreachable(target, ErrorCode.IMAGE_TIMEOUT, detail) from error
        except TargetRefused as refused:
            raise _refused(refused) from refused
        except UnknownHost as error:
            raise self._unreachable(target, ErrorCode.IMAGE_HOST_UNKNOWN, str(error)) from error
        except httpcore.LocalProtocolError as error:  # the URL cannot be put into a request
            raise ImageRefused(ErrorCode.IMAGE_URL_INVALID, type(error).__name__) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:  # OSError: TLS alerts
            raise self._unreachable(target, ErrorCode.IMAGE_UNREACHABLE, type(error).__name__) from error

    async def _download(self, target: Target, limit: asyncio.Timeout, admit: Admit | None) -> FetchedImage:
        first_byte_timeout = self._trusted_first_byte_timeout if target.trusted else self._first_byte_timeout
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(first_byte_timeout):
                    response = await stack.enter_async_context(self._request(target))
            except TimeoutError as error:
                detail = f"no answer within {first_byte_timeout:g} s"
                raise self._unreachable(target, ErrorCode.IMAGE_TIMEOUT, detail) from error
            headers = {name.lower(): value.decode("latin-1").strip() for name, value in response.headers}
            if response.status != 200:
                raise await self._bad_status(target, response, headers)
            length = headers.get(b"content-length", "")
            if length.isdecimal() and int(length) > self._max_bytes:
                raise ImageRefused(ErrorCode.IMAGE_TOO_LARGE, f"announces {int(length)} bytes")
            encoding = headers.get(b"content-encoding", "")
            body = Body(encoding, self._max_bytes)
            if admit is not None:
                # Unpacked it may be as large as is allowed.
                known = length.isdecimal() and not encoding
                await _beside(limit, admit(int(length) if known else self._max_bytes, target.trusted))
            async for chunk in response.aiter_stream():
                body.feed(chunk)
            return FetchedImage(*body.finish())

    def _request(self, target: Target) -> AbstractAsyncContextManager[httpcore.Response]:
        return self._http.request("GET", target, _HEADERS, connect_timeout=self._connect_timeout)

    async def _bad_status(
        self, target: Target, response: httpcore.Response, headers: Mapping[bytes, str]
    ) -> ImageError:
        status = response.status
        detail = f"status {status}"
        if status in _REDIRECTS:
            return ImageRefused(ErrorCode.IMAGE_REDIRECT_REFUSED, detail)
        if status in (408, 429) or status >= 500:
            retry_after = asked_pause(headers.get(b"retry-after", ""), datetime.now(UTC))
            return self._unreachable(target, ErrorCode.IMAGE_UNREACHABLE, detail, retry_after)
        # Supabase answers 400 to an expired link (InvalidJWT) and to a missing object alike; the body of the
        # latter says 404.
        if target.signed and status in (400, 401, 403) and not _says_not_found(await _error_body(response)):
            return ImageRefused(ErrorCode.IMAGE_URL_EXPIRED, detail)
        if status in _ACCESS_REFUSED and not target.trusted:
            return ImageRefused(ErrorCode.IMAGE_ACCESS_REFUSED, detail)
        return ImageRefused(ErrorCode.IMAGE_HTTP_ERROR, detail)

    @staticmethod
    def _unreachable(
        target: Target, code: ErrorCode, detail: str, retry_after: float | None = None
    ) -> ImageUnreachable:
        return ImageUnreachable(
            code, f"{target.host}: {detail}", trusted_origin=target.trusted, retry_after=retry_after
        )


def _refused(refused: TargetRefused) -> ImageRefused:
    return ImageRefused(_CODES[refused.rule], refused.detail)


async def _beside(limit: asyncio.Timeout, wait: Awaitable[object]) -> None:
    """Wait without that the time counts for `limit`."""
    ends = limit.when()
    began = asyncio.get_running_loop().time()
    limit.reschedule(None)
    await wait
    if ends is not None:
        limit.reschedule(ends + asyncio.get_running_loop().time() - began)


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
