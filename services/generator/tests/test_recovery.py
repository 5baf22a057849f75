from __future__ import annotations

import asyncio
import time

import pytest

from wearon_generator import recovery
from wearon_generator.recovery import Sweeper
from wearon_generator.supabase_client import SupabaseUnavailable

LEASE = 0.3


class Supabase:
    """Away for a while; notes when it was looked at in vain, and when it was swept."""

    def __init__(self, away_seconds: float) -> None:
        self._back_at = time.monotonic() + away_seconds
        self.in_vain: list[float] = []
        self.swept = asyncio.Event()
        self.swept_at = 0.0

    async def look(self) -> None:
        if time.monotonic() < self._back_at:
            self.in_vain.append(time.monotonic())
            raise SupabaseUnavailable("away")

    async def sweep(self) -> None:
        self.swept_at = self.swept_at or time.monotonic()
        self.swept.set()


@pytest.mark.parametrize("away_seconds", [0.0, LEASE / 2, LEASE * 1.8])
def test_everybody_has_a_lease_period_to_renew_after_an_outage(
    monkeypatch: pytest.MonkeyPatch, away_seconds: float
) -> None:
    monkeypatch.setattr(recovery, "SWEEP_SECONDS", LEASE / 30)
    monkeypatch.setattr(recovery, "LEASE_SECONDS", LEASE)

    async def run() -> Supabase:
        supabase = Supabase(away_seconds)
        sweeper = Sweeper(look=supabase.look, sweep=supabase.sweep)
        sweeper.start()
        try:
            await asyncio.wait_for(supabase.swept.wait(), 10)
        finally:
            await sweeper.stop()
        return supabase

    supabase = asyncio.run(run())
    if away_seconds:
        assert len(supabase.in_vain) > 3, "it was not looked at all along"
        assert supabase.swept_at - supabase.in_vain[-1] >= LEASE
