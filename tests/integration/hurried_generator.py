"""`python -m wearon_generator` with shorter patience, and an internet that consists of this machine.

    HURRY      JSON: constants of wearon_generator's modules and what they are here, {"jobs.LONGEST_WAIT": 3}
    INTERNET   JSON: host names and the loopback ports that play them, {"shop.example": 8100}

Every such host has a public address, as far as the downloader can tell, and any port leads to the given one.
Nothing else differs: the same process, the same way in.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any

import httpcore

from wearon_generator import runtime
from wearon_generator.__main__ import main
from wearon_service_kit.images.addresses import Address

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


def hurry(constants: dict[str, float]) -> None:
    """Set constants; raises AttributeError for one that does not exist (any more)."""
    for name, value in constants.items():
        module_name, _, constant = name.partition(".")
        module = importlib.import_module(f"wearon_generator.{module_name}")
        getattr(module, constant)
        setattr(module, constant, value)


if __name__ == "__main__":
    hurry(json.loads(os.environ["HURRY"]))
    internet = _Internet(json.loads(os.environ.get("INTERNET", "{}")))
    runtime.ImageFetcher = functools.partial(  # type: ignore[misc, assignment]
        runtime.ImageFetcher,
        resolve=internet.resolve,
        network=internet,
        total_timeout=DOWNLOAD_SECONDS,
    )
    sys.exit(main())
