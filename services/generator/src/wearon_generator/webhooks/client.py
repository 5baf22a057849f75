"""Posts to an address that a stranger chose, over the checked network that pictures are fetched through."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import httpcore

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.connection_errors import why_unreachable
from wearon_service_kit.images.addresses import Address, is_public
from wearon_service_kit.images.dial import CheckedNetwork, Resolve, UnknownHost, resolve_with_system
from wearon_service_kit.images.errors import ImageRefused
from wearon_service_kit.images.url import Target, Targets

_GONE: Final = 410
_REFUSALS: Final = {
    ErrorCode.IMAGE_URL_INVALID: "the URL is not valid",
    ErrorCode.IMAGE_SCHEME_REFUSED: "the URL does not begin with https://",
    ErrorCode.IMAGE_CREDENTIALS_REFUSED: "the URL has a user name in it",
    ErrorCode.IMAGE_PORT_REFUSED: "the URL has another port than 443",
    ErrorCode.IMAGE_ADDRESS_REFUSED: "the host is not on the public internet",
}
"""The downloader's refusals, said of an endpoint."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request; `error`: why it counts as failed, in words without the URL."""

    status: int | None = None
    error: str | None = None

    @property
    def delivered(self) -> bool:
        """Whether the endpoint has taken the event."""
        return self.error is None

    @property
    def gone(self) -> bool:
        """Whether the endpoint asks not to be told anything any more."""
        return self.status == _GONE


class WebhookClient:
    """Sends requests on one asyncio event loop and reads no more of an answer than its head.

    Refused, as for pictures: addresses outside the public internet (checked where they are dialled), user
    names, ports other than 443; no redirect is followed. And http://, since the body holds a link to a
    person's picture. `trusted_origins` (scheme://host[:port]) are excepted from all of these but the one on
    redirects. `timeout`: seconds for one request, from looking up the host to the head of the answer.

    `resolve`, `network` and `ssl_context` replace the system's, the sockets and the public authorities.
    """

    def __init__(
        self,
        *,
        timeout: float,
        trusted_origins: Iterable[str] = (),
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = timeout
        self._targets = Targets(trusted_origins, {})
        context = ssl_context or httpcore.default_ssl_context()
        resolve = resolve or resolve_with_system
        network = network or httpcore.AnyIOBackend()

        def pool(permitted: Callable[[Address], bool]) -> httpcore.AsyncConnectionPool:
            # No connection is kept: between two events an endpoint is silent for longer than servers wait.
            return httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=None,  # the sender's places are what limits them
                max_keepalive_connections=0,
                network_backend=CheckedNetwork(resolve, network, permitted),
            )

        self._public_pool = pool(is_public)
        self._trusted_pool = pool(lambda _address: True)

    def objection(self, url: str) -> str | None:
        """Why nothing will ever be sent to `url`, as far as it shows before its host is looked up."""
        try:
            self._target(url)
        except ImageRefused as refused:
            return _words_for(refused)
        return None

    async def post(self, url: str, body: str, headers: Mapping[str, str]) -> Answer:
        """Send `body` and say what came of it; raises nothing but a cancellation."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(self._target(url), body.encode(), headers)
        except ImageRefused as refused:
            return Answer(error=_words_for(refused))
        except UnknownHost:
            return Answer(error="the host is not known")
        except (TimeoutError, httpcore.TimeoutException):
            return Answer(error=f"no answer within {self._timeout:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return Answer(error=why_unreachable(error))

    async def aclose(self) -> None:
        """Close what is still open."""
        await self._public_pool.aclose()
        await self._trusted_pool.aclose()

    def _target(self, url: str) -> Target:
        target = self._targets.of(url)
        if target.url.scheme != b"https" and not target.trusted:
            raise ImageRefused(ErrorCode.IMAGE_SCHEME_REFUSED)
        return target

    async def _post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        pool = self._trusted_pool if target.trusted else self._public_pool
        async with pool.stream(
            "POST",
            target.url,
            headers=[
                (b"Host", target.host_header),
                (b"Content-Type", b"application/json"),
                (b"Content-Length", str(len(body)).encode()),
                (b"User-Agent", b"WearOn-webhooks/1"),
                (b"Connection", b"close"),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
            content=body,
            extensions={"timeout": {"connect": self._timeout}},
        ) as response:
            if 200 <= response.status < 300:
                return Answer(response.status)
            if 300 <= response.status < 400:
                return Answer(response.status, "it answered with a redirect, which is not followed")
            return Answer(response.status, f"status {response.status}")


def _words_for(refused: ImageRefused) -> str:
    return _REFUSALS.get(refused.code, refused.code.value)
