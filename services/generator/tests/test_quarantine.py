"""Jobs that were in a process when it died: only the one that kills processes uses up its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from services.generator.tests.house import House, in_house, open_house
from services.generator.tests.in_memory import InMemoryImages, ScriptedProvider
from services.generator.tests.virtual_time import run

from wearon_contracts.errors import ErrorCode
from wearon_contracts.tasks import GenerationTask
from wearon_generator.endings import Done, Outcome
from wearon_generator.ledger import Decision
from wearon_generator.metrics import Metrics
from wearon_generator.provider import Generated
from wearon_generator.quarantine import FEW, Quarantine

CULPRIT = "https://example.com/bomb.webp"


class Machine:
    """Runs one replica after the other: each is killed by what it does with the culprit."""

    def __init__(self, where: str) -> None:
        """`where`: the `pictures` or the `call` of the culprit is what kills."""
        self.where = where
        self.deaths = 0
        self.died = asyncio.Event()

    def kill(self) -> None:
        self.deaths += 1
        self.died.set()


class DeadlyImages(InMemoryImages):
    """Pictures of which one kills."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    async def download_and_resize(self, urls: list[str]) -> list[bytes]:
        pictures = await super().download_and_resize(urls)
        if self._machine.where == "pictures" and CULPRIT in urls:
            self._machine.kill()
            await asyncio.Event().wait()
        return pictures


class DeadlyProvider(ScriptedProvider):
    """A provider whose answer to one prompt kills."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(asyncio.get_running_loop().time)
        self._machine = machine

    async def edit(self, pictures: Sequence[bytes], prompt: str, end_user: str) -> Generated:
        made = await super().edit(pictures, prompt, end_user)
        if self._machine.where == "call" and prompt == CULPRIT:
            self._machine.kill()
            await asyncio.Event().wait()
        return made


async def run_to_the_end(machine: Machine, innocent: int) -> tuple[House, list[GenerationTask]]:
    """Order one culprit among innocent jobs, and start a replica anew whenever it dies."""
    async with open_house() as world:
        tasks = [world.order() for _ in range(innocent)]
        culprit = world.order(image_urls=[CULPRIT], prompt=CULPRIT)
        tasks.insert(innocent // 2, culprit)
        for life in range(12):
            machine.died.clear()
            async with open_house(
                world,
                replica=f"life-{life}",
                images=DeadlyImages(machine),
                provider=DeadlyProvider(machine),
            ) as house:
                left = [task for task in tasks if not is_settled(world, task)]
                jobs = [house.begin(task, returned=life > 0) for task in left]
                await house.until(lambda: machine.died.is_set() or all(job.done() for job in jobs))  # noqa: B023
                if not machine.died.is_set():
                    return world, tasks
                await house.generator.leases.stop()
                for job in jobs:
                    job.cancel()
                await asyncio.wait(jobs)
                # A killed process gives nothing back.
                assert "release" not in world.database.faults.calls
            await asyncio.sleep(31)
        raise AssertionError("it never ended")


def is_settled(world: House, task: GenerationTask) -> bool:
    return world.database.session(task).status in ("completed", "failed")


@pytest.mark.parametrize("where", ["pictures", "call"])
def test_only_the_job_that_kills_its_process_uses_up_its_attempts(where: str) -> None:
    async def test() -> None:
        machine = Machine(where)
        world, tasks = await run_to_the_end(machine, innocent=40)
        outcomes = [world.database.row(task).outcome for task in tasks]
        assert outcomes.count("completed") == 40
        (culprit,) = [task for task in tasks if task.prompt == CULPRIT]
        assert world.database.row(culprit).error_code == ErrorCode.ATTEMPTS_EXHAUSTED
        innocent = [world.database.row(task).attempt for task in tasks if task is not culprit]
        assert max(innocent) <= 3
        assert machine.deaths <= 6

    run(test())


def held(
    attempt: int = 0, holders_lost: int = 0, rate_limit_retries: int = 0, postponed: int = 0
) -> Decision[str]:
    return Decision("held", attempt, rate_limit_retries, postponed, holders_lost)


@pytest.mark.parametrize(
    ("decision", "is_suspect"),
    [
        (held(), False),
        (held(attempt=1, rate_limit_retries=1), False),
        (held(attempt=2, postponed=1, rate_limit_retries=1), False),
        (held(holders_lost=1), True),
        (held(attempt=1), True),
    ],
)
def test_only_a_job_whose_holder_vanished_is_a_suspect(decision: Decision[str], is_suspect: bool) -> None:
    async def test(house: House) -> None:
        assert Quarantine(house.generator.metrics).place(decision).is_suspect == is_suspect

    in_house(test)


def test_suspect_of_two_deaths_runs_while_no_other_suspect_does() -> None:
    async def test(house: House) -> None:
        metrics: Metrics = house.generator.metrics
        quarantine = Quarantine(metrics)
        few = [quarantine.place(held(attempt=1)) for _ in range(FEW + 1)]
        alone = quarantine.place(held(attempt=2))
        entering = [asyncio.create_task(place.enter()) for place in (*few[:FEW], alone, few[FEW])]
        await asyncio.sleep(1)
        assert [task.done() for task in entering] == [True] * FEW + [False, False]
        for place in few[:FEW]:
            place.leave()
        await asyncio.sleep(1)
        assert [task.done() for task in entering[FEW:]] == [True, False]
        alone.leave()
        await entering[-1]
        assert house.metric("quarantined_total", company="alone") == 1
        assert house.metric("quarantined_total", company="few") == FEW + 1

    in_house(test)


def test_suspect_that_stopped_waiting_takes_no_place() -> None:
    async def test(house: House) -> None:
        quarantine = Quarantine(house.generator.metrics)
        first = quarantine.place(held(attempt=1))
        await first.enter()
        async with AsyncExitStack() as stack:
            alone = quarantine.place(held(attempt=2))
            waiting = asyncio.create_task(alone.enter())
            stack.callback(alone.leave)
            await asyncio.sleep(1)
            waiting.cancel()
            await asyncio.wait({waiting})
        first.leave()
        others = [quarantine.place(held(attempt=1)) for _ in range(FEW)]
        await asyncio.gather(*(place.enter() for place in others))

    in_house(test)


def test_job_of_a_killed_replica_completes_in_quarantine() -> None:
    async def test(house: House) -> None:
        task = house.order()
        job = house.begin(task)
        await house.until(lambda: house.provider.called_at)
        job.cancel()
        await asyncio.wait({job})
        house.database.row(task).lease_expires_at = -10.0
        assert await house.run(task, returned=True) == Done(Outcome.COMPLETED)
        assert house.metric("quarantined_total", company="few") == 1

    in_house(test)
