"""How much memory a process may use, and who of it uses how much at a time."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MB: Final = 1024 * 1024
PROCESS_BYTES: Final = 224 * MB  # of a generator with 128 jobs in flight and no picture open
LEAST_BYTES: Final = 512 * MB  # with less, not even pictures of 12 megapixels would fit
_CGROUP_FILES: Final = (
    "sys/fs/cgroup/memory.max",  # version 2
    "sys/fs/cgroup/memory/memory.limit_in_bytes",  # version 1
)
_UNLIMITED: Final = 1 << 60  # version 1 writes a number near 2**63 where there is no limit


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process's container may use: its cgroup's limit, or the machine's memory without one.

    `root` is where `sys` is found.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _CGROUP_FILES:
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < _UNLIMITED:
            return min(int(text), machine)
    return machine


class ByteBudget:
    """Bytes that may be held at a time, given in the order they were asked for. For one event loop.

    Who asks for more than all of it gets all of it, once nobody else holds any.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Wait for `size` bytes and hold them while the context lasts."""
        size = min(size, self.limit)
        await self._take(size)
        try:
            yield
        finally:
            self.held -= size
            self._give()

    async def _take(self, size: int) -> None:
        if not self._waiting and self.held + size <= self.limit:
            self.held += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given in the moment it was given up
                self.held -= size
            self._give()
            raise

    def _give(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if self.held + size > self.limit:
                    return
                self.held += size
                turn.set_result(None)
            self._waiting.popleft()


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """One process's memory for pictures, shared out so that no one who waits holds what another waits for.

    `downloads`: files as they came, until they are decoded; those of strangers have a share of their own,
    since a stranger may send slowly and hold it for as long. `decodes`: what decoders take, beside the file.
    A job may ask for downloads, then for decodes; what it holds of the first while it waits for the second
    is given back without anybody needing more of the first. An eighth is given to none: prepared pictures
    and results live in it.
    """

    downloads: ByteBudget
    downloads_of_strangers: ByteBudget
    decodes: ByteBudget

    @classmethod
    def of(cls, limit: int) -> MemoryBudget:
        """The budget of a process that may use `limit` bytes in all, itself included."""
        free = max(limit - PROCESS_BYTES, LEAST_BYTES - PROCESS_BYTES)
        return cls(ByteBudget(free // 16), ByteBudget(free // 16), ByteBudget(free * 3 // 4))

    def downloads_of(self, trusted: bool) -> ByteBudget:
        """The share for files of a trusted origin, or of a stranger."""
        return self.downloads if trusted else self.downloads_of_strangers
