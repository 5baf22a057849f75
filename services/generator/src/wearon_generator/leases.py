"""Keeps the leases of everything this process holds, with one call for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from wearon_generator.ledger import Held, Ledger, Session
from wearon_generator.metrics import Metrics
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Timing
from wearon_service_kit.background import Background

log = structlog.get_logger()


class Lease:
    """A hold on one session; `lost` is set once another replica has taken it over."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.lost = asyncio.Event()


class LeaseKeeper:
    """Renews all leases of the process, so often that a few renewals may fail before one runs out.

    While Supabase is unavailable it goes on trying: a lease may be renewed even after it ran out, as long as
    nobody else has taken the session.
    """

    def __init__(
        self, ledger: Ledger, metrics: Metrics, timing: Timing, *, on_failure: Callable[[], None]
    ) -> None:
        """`ledger`: with connections of its own, so that no upload is in front; `on_failure`: called when
        a renewal failed."""
        self._ledger = ledger
        self._metrics = metrics
        self._timing = timing
        self._on_failure = on_failure
        self._leases: dict[str, Lease] = {}
        self._background = Background("lease-keeper")

    def start(self) -> None:
        """Begin to renew."""
        self._background.start(self._run())

    async def stop(self) -> None:
        """Renew no more; what is still held runs out."""
        await self._background.stop()

    @contextmanager
    def keep(self, held: Held) -> Iterator[Lease]:
        """Renew the lease of `held` for the duration of the block."""
        lease = Lease(held)
        self._leases[held.holder] = lease
        try:
            yield lease
        finally:
            del self._leases[held.holder]

    def holds(self, session: Session) -> bool:
        """Whether this process holds the session."""
        return any(lease.held.session == session for lease in self._leases.values())

    async def _run(self) -> None:
        await asyncio.sleep(self._timing.renewal_interval)
        while True:
            renewed = await self._renewed()
            await asyncio.sleep(self._timing.renewal_interval if renewed else self._timing.renewal_pause)

    async def _renewed(self) -> bool:
        try:
            async with asyncio.timeout(self._timing.renewal_timeout):
                await self._renew()
        except (SupabaseUnavailable, TimeoutError) as error:
            self._metrics.supabase_unavailable.inc()
            reason = str(error) or type(error).__name__
            log.warning("leases_not_renewed", held=len(self._leases), reason=reason)
        except Exception:
            # Without this task every lease of the process would run out.
            log.exception("lease_keeper_crashed")
        else:
            return True
        self._on_failure()
        return False

    async def _renew(self) -> None:
        holders = list(self._leases)
        if not holders:
            return
        kept = await self._ledger.renew(holders)
        missing = [holder for holder in holders if holder in self._leases and holder not in kept]
        if missing:
            # Asked once more: a proxy that empties an answer must not end every job of the process.
            kept |= await self._ledger.renew(missing)
        for holder in holders:
            lease = self._leases.get(holder)
            # A job that has just been settled leaves on its own.
            if lease is not None and holder not in kept and not lease.lost.is_set():
                lease.lost.set()
