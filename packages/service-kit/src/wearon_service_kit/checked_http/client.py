"""Requests to targets: trusted ones reach any address, all others the public internet only.

It speaks httpcore, the wire layer of httpx, because that takes a network backend: the place where a host name
becomes an address. There the address is checked and then dialled as such, so what was checked is what is
connected to (no DNS rebinding), while TLS and the Host header keep the name. Being below httpx it has no
redirects, cookies, proxies, environment variables or unbounded decompression to switch off.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import httpcore

from wearon_service_kit.checked_http.addresses import is_public
from wearon_service_kit.checked_http.dial import CheckedNetwork, Resolve, resolve_with_system
from wearon_service_kit.checked_http.targets import Target, Targets


class CheckedHttp:
    """Sends requests on one asyncio event loop, each over a connection of its own.

    `trusted_origins` and `rewrite_origins`: see `Targets`. `resolve`, `network` (opens the TCP connection to
    an address that was permitted) and `ssl_context` replace the system's, the sockets and the public
    certificate authorities.
    """

    def __init__(
        self,
        *,
        trusted_origins: Iterable[str] = (),
        rewrite_origins: Mapping[str, str] | None = None,
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._targets = Targets(trusted_origins, rewrite_origins or {})
        self._ssl_context = ssl_context or httpcore.default_ssl_context()
        resolve = resolve or resolve_with_system
        network = network or httpcore.AnyIOBackend()
        # Two, because a backend is told host and port only, and trust goes with the scheme as well.
        self._public_network = CheckedNetwork(resolve, network, is_public)
        self._trusted_network = CheckedNetwork(resolve, network, lambda _address: True)

    def target(self, url: str) -> Target:
        """Where `url` leads; raises `TargetRefused` as far as that shows before its host is looked up."""
        return self._targets.of(url)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: Target,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        connect_timeout: float,
        content: bytes | None = None,
    ) -> AsyncIterator[httpcore.Response]:
        """The answer, its head read. `connect_timeout`: seconds.

        Raises `TargetRefused` when the host has an address that may not be connected to, `UnknownHost`, and
        what httpcore raises.
        """
        # A pool for each request: no connection is kept for another one, and a pool that many share forgets
        # to close the connection of a task that is cancelled at certain moments (httpcore 1.0).
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            network_backend=self._trusted_network if target.trusted else self._public_network,
        )
        try:
            async with pool.stream(
                method,
                target.url,
                headers=[(b"Host", target.host_header), *headers, (b"Connection", b"close")],
                content=content,
                extensions={"timeout": {"connect": connect_timeout}},
            ) as response:
                yield response
        finally:
            await asyncio.shield(pool.aclose())
