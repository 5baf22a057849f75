"""When the sweeper sweeps, and what it leaves alone."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from services.generator.tests import virtual_time
from services.generator.tests.in_memory import (
    InMemoryBroker,
    InMemoryDatabase,
    SessionRow,
    new_task,
)

from wearon_generator.ledger import Held, Ledger, Session
from wearon_generator.metrics import Metrics
from wearon_generator.recovery import Sweeper, recover_jobs
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Timing

TIMING = Timing(sweep_interval=1)


class Supabase:
    """Unavailable for a while; notes when it was looked at in vain, and when it was swept."""

    def __init__(self, until: float) -> None:
        self._until = until
        self.in_vain: list[float] = []
        self.swept_at: list[float] = []

    async def look(self) -> None:
        if now() < self._until:
            self.in_vain.append(now())
            raise SupabaseUnavailable("away")

    async def sweep(self) -> None:
        self.swept_at.append(now())


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("until", [0.0, 15.0, 54.0])
def test_everybody_has_a_lease_to_renew_after_an_outage(until: float) -> None:
    async def test() -> None:
        supabase = Supabase(until)
        sweeper = Sweeper(TIMING, now, look=supabase.look, sweep=supabase.sweep)
        sweeper.start()
        await asyncio.sleep(100)
        await sweeper.stop()
        assert len(supabase.in_vain) >= until * 0.8, "it was not looked at all along"
        if until:
            assert supabase.swept_at[0] - supabase.in_vain[-1] >= TIMING.lease
        else:
            assert supabase.swept_at[0] == 0

    virtual_time.run(test())


def test_renewal_that_failed_puts_the_sweeps_off_for_a_lease() -> None:
    async def test() -> None:
        supabase = Supabase(0)
        sweeper = Sweeper(TIMING, now, look=supabase.look, sweep=supabase.sweep)
        sweeper.start()
        await asyncio.sleep(20.5)
        sweeper.supabase_was_unavailable()
        await asyncio.sleep(40)
        await sweeper.stop()
        assert not [moment for moment in supabase.swept_at if 20.5 < moment < 50.5]
        assert supabase.swept_at[-1] > 50.5

    virtual_time.run(test())


def test_process_never_recovers_a_session_that_it_holds_itself() -> None:
    async def test() -> None:
        database, broker = InMemoryDatabase(now), InMemoryBroker()
        ledger, own, other = Ledger(database, TIMING), new_task(), new_task()
        for task, holder in ((own, "me/1"), (other, "killed/1")):
            key = (task.channel.value, str(task.session_id))
            database.sessions[key] = SessionRow(str(task.owner_id))
            await ledger.hold(task, holder)
            database.row(task).lease_expires_at = 0.0
        mine = Session(own.channel, own.session_id)
        recovered = await recover_jobs(
            ledger, broker, Metrics(CollectorRegistry()), lambda session: session == mine
        )
        assert (recovered, [task["session_id"] for task in broker.published]) == (1, [str(other.session_id)])
        assert await ledger.renew(["me/1"]) == {"me/1"}
        assert not database.row(own).recovering
        await ledger.release(Held(mine, "me/1"))

    asyncio.run(test())
