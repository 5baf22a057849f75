"""A cancelled session: at any moment it is either refunded and never called for, or it is too late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from services.generator.tests.house import House, in_house

from wearon_contracts.errors import ErrorCode
from wearon_contracts.tasks import GenerationTask
from wearon_generator.endings import Done, Ending, Outcome, Retry
from wearon_generator.image_processor import InputImageError
from wearon_generator.provider import ProviderError
from wearon_generator.refusals import Refusal

CANCELLED: Final = Done(Outcome.CANCELLED)

Situation = Callable[[House, GenerationTask], Awaitable[None]]


# ------------------------------------------------------------------------------------------- situations


async def plain(house: House, task: GenerationTask) -> None:
    """Nothing is in its way."""


async def slow_pictures(house: House, task: GenerationTask) -> None:
    house.images.seconds = 11.0


async def long_line(house: House, task: GenerationTask) -> None:
    """Two others are before it, and a slot comes every ten seconds."""
    house.slots.set_limit(6)
    for _ in range(2):
        house.begin(house.order())
    await asyncio.sleep(1)


async def no_more_slots(house: House, task: GenerationTask) -> None:
    """The provider is paused for 15 s."""
    house.breaker.closed.clear()
    asyncio.get_running_loop().call_later(15, house.breaker.closed.set)


async def suspect(house: House, task: GenerationTask) -> None:
    """Its first holder died before it claimed: it is claimed before its pictures are prepared."""
    first = house.begin(task)
    await house.until(lambda: house.database.rows)
    first.cancel()
    await asyncio.wait({first})
    house.database.row(task).lease_expires_at = -1.0


async def suspect_in_a_long_line(house: House, task: GenerationTask) -> None:
    """And it is claimed with the first slot, but called only with a later one."""
    await suspect(house, task)
    await long_line(house, task)


async def unusable_picture(house: House, task: GenerationTask) -> None:
    house.images.raises = InputImageError(ErrorCode.IMAGE_DAMAGED, 0, "cut off")


async def second_call(house: House, task: GenerationTask) -> None:
    """The first call brings a server error."""
    house.provider.script.append(ProviderError(Refusal.SERVER_ERROR, "status 500"))


async def rate_limited(house: House, task: GenerationTask) -> None:
    """The first call is to be repeated later."""
    house.provider.script.append(ProviderError(Refusal.RATE_LIMIT, "status 429", retry_after=10))


async def supabase_away(house: House, task: GenerationTask) -> None:
    """The first claims get no answer, or none that arrives."""
    house.database.faults.add("claim", "unavailable", times=2)
    house.database.faults.add("claim", "lost", times=2)


SITUATIONS: Final = (
    plain,
    slow_pictures,
    long_line,
    no_more_slots,
    suspect,
    suspect_in_a_long_line,
    unusable_picture,
    second_call,
    rate_limited,
    supabase_away,
)
CALLS: Final = (
    "hold",
    "claim",
    "begin_call",
    "renew",
    "record_usage",
    "check",
    "complete",
    "fail",
    "requeue",
    "exists",
    "upload",
    "sign",
)


# ------------------------------------------------------------------------------------------------- law


class Case:
    """One job in one situation, and everybody who wishes to cancel it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.task = house.order(prompt="the one")
        self.verdicts: list[str] = []

    def cancel(self) -> None:
        self.verdicts.append(self.house.database.cancel(self.task))

    async def run(self) -> Ending:
        """Deliver the task until it is dealt with."""
        ending = await self.house.run(self.task)
        while isinstance(ending, Retry):
            await asyncio.sleep(ending.after_seconds)
            ending = await self.house.run(self.task, returned=True)
        return ending

    def check(self, ending: Ending) -> None:
        """Exactly one of cancelled-and-refunded and too late, and no call after an accepted cancellation."""
        row, session = self.house.database.row(self.task), self.house.database.session(self.task)
        if "cancelled" in self.verdicts:
            assert self.verdicts.count("cancelled") == 1
            assert set(self.verdicts[self.verdicts.index("cancelled") + 1 :]) <= {"already_cancelled"}
            assert "the one" not in self.house.provider.prompts
            assert (session.status, row.settled_by, row.refund) == ("failed", "cancellation", "refunded")
            assert session.url is None
            assert ending == CANCELLED
            assert self.house.metric("failures_total", code="image_damaged") == 0
        else:
            assert set(self.verdicts) <= {"too_late", "completed", "failed"}
            assert row.settled_by == "worker"
            assert ending in (Done(Outcome.COMPLETED), Done(Outcome.FAILED))
            assert ("the one" in self.house.provider.prompts) == (ending == Done(Outcome.COMPLETED))
        assert self.house.metric("leases_lost_total") == 0


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("call", CALLS)
def test_cancelled_right_before_any_call_of_supabase(situation: Situation, call: str) -> None:
    async def test(house: House) -> None:
        case = Case(house)
        await situation(house, case.task)
        house.database.faults.add(call, "after", happens=case.cancel)
        house.bucket.faults.add(call, "after", happens=case.cancel)
        ending = await case.run()
        case.cancel()
        case.check(ending)

    in_house(test)


@settings(max_examples=80, deadline=None)
@given(
    situation=st.sampled_from(SITUATIONS),
    seconds=st.floats(0, 60),
    steps=st.integers(0, 40),
    times=st.integers(1, 3),
)
@example(situation=plain, seconds=0.0, steps=0, times=2)
def test_cancelled_at_any_moment(situation: Situation, seconds: float, steps: int, times: int) -> None:
    """`steps`: turns of the event loop after so many seconds, since much happens at one moment."""

    async def test(house: House) -> None:
        case = Case(house)
        await situation(house, case.task)

        async def cancel() -> None:
            await asyncio.sleep(seconds)
            for _ in range(steps):
                await asyncio.sleep(0)
            for _ in range(times):
                case.cancel()

        ending, _ = await asyncio.gather(case.run(), cancel())
        case.check(ending)

    in_house(test)


def test_cancelled_before_anybody_has_read_its_task() -> None:
    async def test(house: House) -> None:
        case = Case(house)
        case.cancel()
        ending = await case.run()
        case.check(ending)
        assert case.verdicts == ["cancelled"]
        assert house.lanes.reported == [("ended", case.task.session_id)]
        assert house.slots.reserved == 0

    in_house(test)


# -------------------------------------------------------------------------------------- what it costs


def test_job_that_waits_for_its_slot_leaves_the_line_with_the_next_renewal() -> None:
    async def test(house: House) -> None:
        house.breaker.closed.clear()
        case = Case(house)
        job = house.begin(case.task)
        await asyncio.sleep(20)
        case.cancel()
        cancelled_at = asyncio.get_running_loop().time()
        case.check(await job)
        assert asyncio.get_running_loop().time() - cancelled_at <= 8.1
        assert house.slots.reserved == 0

    in_house(test)


def test_cancelled_jobs_take_no_slot_from_those_behind_them() -> None:
    """A slot comes every ten seconds; the only job that was not cancelled gets the next one."""

    async def test(house: House) -> None:
        house.slots.set_limit(6)
        first = house.begin(house.order())
        await asyncio.sleep(1)
        cancelled = [Case(house) for _ in range(30)]
        jobs = [house.begin(case.task) for case in cancelled]
        await asyncio.sleep(1)
        last = house.begin(house.order(prompt="last"))
        await asyncio.sleep(7)  # after the renewal at 8 s; the slot comes before the next one
        for case in cancelled:
            case.cancel()
        assert await asyncio.gather(*jobs) == [CANCELLED] * 30
        await asyncio.gather(first, last)
        assert house.provider.prompts[-1] == "last"
        earlier, later = house.provider.called_at
        assert later - earlier == pytest.approx(10, abs=0.1)

    in_house(test)


def test_suspect_that_is_cancelled_before_its_call_passes_its_slot_on() -> None:
    async def test(house: House) -> None:
        house.slots.set_limit(6)
        case = Case(house)
        await suspect(house, case.task)
        job = house.begin(case.task)
        await house.until(lambda: house.database.row(case.task).attempt == 1)
        other = house.begin(house.order())
        house.database.faults.add("begin_call", "after", happens=case.cancel)
        case.check(await job)
        passed_on_at = asyncio.get_running_loop().time()
        await other
        assert house.provider.called_at[0] == pytest.approx(passed_on_at, abs=0.01)

    in_house(test)
