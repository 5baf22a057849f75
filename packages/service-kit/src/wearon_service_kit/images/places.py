"""Who may download at the same time, so that a host that hangs holds up nobody but its own pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from wearon_service_kit.checked_http.targets import Target

_STRANGERS_AT_ONCE: Final = 64  # downloads; each that waits for its first byte is a socket, no more
_PER_STRANGER: Final = 6  # what browsers allow themselves for one host


@dataclass(slots=True)
class _Host:
    places: asyncio.Semaphore
    users: int = field(default=0)


class Places:
    """Every trusted origin has `per_trusted` places of its own; strangers share 64, 6 for one host."""

    def __init__(self, per_trusted: int) -> None:
        self._per_trusted = per_trusted
        self._strangers = asyncio.Semaphore(_STRANGERS_AT_ONCE)
        self._hosts: dict[tuple[bool, str], _Host] = {}

    @asynccontextmanager
    async def take(self, target: Target) -> AsyncIterator[None]:
        """Wait for a place at the target's host and hold it while the context lasts."""
        key = (target.trusted, target.host_header.decode("ascii"))
        host = self._hosts.get(key)
        if host is None:
            allowed = self._per_trusted if target.trusted else _PER_STRANGER
            host = self._hosts[key] = _Host(asyncio.Semaphore(allowed))
        host.users += 1
        try:
            async with host.places:
                if target.trusted:
                    yield
                else:
                    async with self._strangers:
                        yield
        finally:
            host.users -= 1
            if not host.users:
                del self._hosts[key]
