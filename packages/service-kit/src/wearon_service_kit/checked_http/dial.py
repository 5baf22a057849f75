"""From a host name to a connection: the addresses are checked where they are dialled."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

import httpcore

from wearon_service_kit.checked_http.addresses import Address
from wearon_service_kit.checked_http.errors import Rule, TargetRefused

Resolve = Callable[[str], Awaitable[Sequence[Address]]]
"""Host name to addresses, in the order to try them; raises OSError when there are none."""

_MAX_ADDRESSES: Final = 4  # tried per host; each gets an equal share of the time to connect


class UnknownHost(httpcore.ConnectError):
    """The host has no address."""


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

    threading.Thread(target=look_up, name="dns-lookup", daemon=True).start()
    return await answer


class CheckedNetwork(httpcore.AsyncNetworkBackend):
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
            raise TargetRefused(Rule.ADDRESS, f"{host} is not on the public internet")
        failure: Exception = UnknownHost(host)
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
            raise UnknownHost(host) from error
