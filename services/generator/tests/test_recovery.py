"""When the sweeper sweeps, and what it leaves alone."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry
from services.generator.tests import virtual_time
from services.generator.tests.in_memory import (
    InMemoryBroker,
    InMemoryDatabase,
    SessionRow,
    new_task,
)

from wearon_contracts.errors import ErrorCode
from wearon_contracts.tasks import Channel
from wearon_generator.ledger import Held, Ledger, Session
from wearon_generator.metrics import Metrics
from wearon_generator.recovery import ScanBudget, Sweeper, fail_orphans, recover_jobs
from wearon_generator.supabase_client import StatementTimeout, SupabaseUnavailable
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


class AlwaysElected:
    """The only replica there is."""

    async def won(self) -> bool:
        return True

    async def resign(self) -> None:
        pass


class EmptyQueue:
    """Nothing waits to be taken again."""

    async def waiting_again(self, _: set[str]) -> set[str]:
        return set()


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("until", [0.0, 15.0, 54.0])
def test_sweep_waits_for_a_lease_period_after_supabase_is_back(until: float) -> None:
    async def test() -> None:
        supabase = Supabase(until)
        sweeper = Sweeper(TIMING, now, look=supabase.look, sweep=supabase.sweep, election=AlwaysElected())
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
        sweeper = Sweeper(TIMING, now, look=supabase.look, sweep=supabase.sweep, election=AlwaysElected())
        sweeper.start()
        await asyncio.sleep(20.5)
        sweeper.supabase_was_unavailable()
        await asyncio.sleep(40)
        await sweeper.stop()
        resumed_at = 20.5 + TIMING.lease
        assert not [moment for moment in supabase.swept_at if 20.5 < moment < resumed_at]
        assert supabase.swept_at[-1] > resumed_at

    virtual_time.run(test())


def test_process_never_recovers_a_session_that_it_holds_itself() -> None:
    async def test() -> None:
        database, broker = InMemoryDatabase(now), InMemoryBroker()
        ledger, own, other = Ledger(database, TIMING), new_task(), new_task()
        for task, holder in ((own, "me/1"), (other, "killed/1")):
            key = (task.channel.value, str(task.session_id))
            database.sessions[key] = SessionRow(str(task.owner_id))
            await ledger.hold(task, holder)
            database.row(task).lease_expires_at = -10.0
        mine = Session(own.channel, own.session_id)
        recovered = await recover_jobs(
            ledger, EmptyQueue(), broker, Metrics(CollectorRegistry()), lambda session: session == mine
        )
        assert (recovered, [task["session_id"] for task in broker.published]) == (1, [str(other.session_id)])
        assert await ledger.renew(["me/1"]) == {"me/1"}
        assert not database.row(own).recovering
        await ledger.release(Held(mine, "me/1"))

    asyncio.run(test())


class SlowDatabase:
    """Ends statements that fail more than `most` sessions, or one that is never done with."""

    def __init__(self, most: int, endless: UUID | None = None) -> None:
        self._most = most
        self._endless = endless
        self.statements: list[int] = []

    async def reap(self, sessions: list[Session], *_: object) -> list[dict[str, Any]]:
        self.statements.append(len(sessions))
        if len(sessions) > self._most or self._endless in {session.session_id for session in sessions}:
            raise StatementTimeout("database error 57014")
        return [{"session_id": str(session.session_id), "verdict": "failed"} for session in sessions]

    async def set_aside(self, session: Session, _: int, error: str) -> dict[str, Any]:
        return {"session_id": str(session.session_id), "verdict": "set_aside", "error": error}


def fail(database: SlowDatabase, orphans: list[Session]) -> dict[str, str]:
    rows = asyncio.run(fail_orphans(cast(Ledger, database), orphans, 300, ErrorCode.STUCK))
    return {row["session_id"]: row["verdict"] for row in rows}


def test_orphans_are_failed_in_smaller_batches_where_a_statement_takes_too_long() -> None:
    orphans = [Session(Channel.B2C, uuid4()) for _ in range(100)]
    database = SlowDatabase(most=30)

    assert fail(database, orphans) == {str(orphan.session_id): "failed" for orphan in orphans}
    assert database.statements == [100, 50, 25, 25, 50, 25, 25]


def test_an_orphan_that_takes_too_long_alone_is_set_aside() -> None:
    orphans = [Session(Channel.B2C, uuid4()) for _ in range(10)]
    endless = orphans[6].session_id

    verdicts = fail(SlowDatabase(most=100, endless=endless), orphans)

    assert verdicts.pop(str(endless)) == "set_aside"
    assert list(verdicts.values()) == ["failed"] * 9


def test_reading_long_queues_is_spread_over_time() -> None:
    moment = 1000.0
    budget = ScanBudget(lambda: moment)
    assert budget.allows()
    budget.spend(1_000_000)
    moment += 1199
    assert not budget.allows()
    moment += 2
    assert budget.allows()
    budget.spend(1000)
    moment += TIMING.sweep_interval + 1
    assert budget.allows()
