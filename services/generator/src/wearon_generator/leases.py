"""Keeps the leases of everything this process holds, with one call for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from wearon_generator.ledger import Ledger
from wearon_generator.metrics import Metrics
from wearon_generator.supabase_client import SupabaseUnavailable, ask
from wearon_service_kit.background import Background

log = structlog.get_logger()

RENEW_SECONDS: Final = 10.0


class Lease:
    """A hold on one session; `lost` is set once another replica has taken it over."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.lost = asyncio.Event()


class LeaseKeeper:
    """Renews all leases of the process every `RENEW_SECONDS`.

    While Supabase is away it goes on trying: a lease may be renewed even after it ran out, as long as nobody
    else has taken the session.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._leases: dict[str, Lease] = {}
        self._background = Background("lease-keeper")

    def start(self) -> None:
        """Begin to renew."""
        self._background.start(self._run())

    async def stop(self) -> None:
        """Renew no more; what is still held runs out."""
        await self._background.stop()

    @contextmanager
    def keep(self, holder: str) -> Iterator[Lease]:
        """Renew the lease of `holder` for the duration of the block."""
        lease = Lease(holder)
        self._leases[holder] = lease
        try:
            yield lease
        finally:
            del self._leases[holder]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._renew()
            except SupabaseUnavailable as error:
                self._metrics.supabase_unavailable.inc()
                log.warning("leases_not_renewed", held=len(self._leases), reason=str(error))
            except Exception:
                # Without this task every lease of the process would run out.
                log.exception("lease_keeper_crashed")

    async def _renew(self) -> None:
        holders = list(self._leases)
        if not holders:
            return
        kept = await ask(lambda: self._ledger.renew(holders))
        for holder in holders:
            lease = self._leases.get(holder)
            # A job that has just been settled leaves on its own.
            if lease is not None and holder not in kept and not lease.lost.is_set():
                lease.lost.set()
