"""`python -m wearon_generator` with shorter periods, and an internet that consists of this machine.

    TIMING     JSON: periods that differ from those of `Timing`, {"longest_wait": 3}
    INTERNET   JSON: host names and the loopback ports that play them, {"shop.example": 8100}

Every such host has a public address, as far as the downloader can tell, and any port leads to the given one.
Nothing else differs: the same process, the same way in.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any

import httpcore
from prometheus_client import CollectorRegistry

from wearon_generator.__main__ import main
from wearon_generator.bootstrap import Generator, bootstrap, build_fetcher
from wearon_generator.settings import GeneratorSettings
from wearon_generator.timing import Timing
from wearon_service_kit.checked_http.addresses import Address

_FIRST_ADDRESS = int(ip_address("93.184.216.1"))
DOWNLOAD_SECONDS = 1.0
"""For one download, instead of 30."""


class _Internet(httpcore.AnyIOBackend):
    """Resolves the hosts to addresses of the public internet and connects those to loopback ports."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._addresses = {host: IPv4Address(_FIRST_ADDRESS + n) for n, host in enumerate(ports)}
        self._ports = {str(self._addresses[host]): port for host, port in ports.items()}

    async def resolve(self, host: str) -> Sequence[Address]:
        if host not in self._addresses:
            raise OSError(f"{host} is not known")
        return [self._addresses[host]]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        there = ("127.0.0.1", self._ports[host]) if host in self._ports else (host, port)
        return await super().connect_tcp(*there, timeout, local_address, socket_options)


async def build(settings: GeneratorSettings, registry: CollectorRegistry, **options: Any) -> Generator:
    """A generator that downloads from this internet."""
    internet = _Internet(json.loads(os.environ["INTERNET"]))
    fetcher = build_fetcher(
        settings, resolve=internet.resolve, network=internet, total_timeout=DOWNLOAD_SECONDS
    )
    return await bootstrap(settings, registry, fetcher=fetcher, **options)


if __name__ == "__main__":
    sys.exit(main(timing=Timing(**json.loads(os.environ["TIMING"])), build=build))
