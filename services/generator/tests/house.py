"""A whole generator in memory, on a clock that jumps: for tests of what it does with one job or with many."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from prometheus_client import CollectorRegistry
from services.generator.tests import virtual_time
from services.generator.tests.in_memory import (
    AlwaysThere,
    InMemoryBreaker,
    InMemoryBroker,
    InMemoryBucket,
    InMemoryDatabase,
    InMemoryImages,
    InMemoryLanes,
    InMemoryLetterBox,
    InMemorySlots,
    ScriptedProvider,
    SessionRow,
    new_task,
)

from wearon_contracts.tasks import Channel, GenerationTask
from wearon_generator.bootstrap import Generator, bootstrap
from wearon_generator.endings import Ending
from wearon_generator.settings import GeneratorSettings
from wearon_generator.timing import Timing
from wearon_generator.webhooks.client import WebhookClient

T = TypeVar("T")

_TRUSTS_NOBODY: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""No house sends a webhook; reading the public authorities for each would take longer than its test."""

SETTINGS = GeneratorSettings.model_validate(
    {
        "redis_url": "redis://127.0.0.1:1",
        "supabase_url": "http://supabase.internal",
        "supabase_public_url": "https://shop.example",
        "supabase_service_role_key": "x" * 8,
        "openai_api_key": "x" * 8,
    }
)


@dataclass(slots=True)
class House:
    """One replica and the world around it."""

    generator: Generator
    registry: CollectorRegistry
    database: InMemoryDatabase
    bucket: InMemoryBucket
    provider: ScriptedProvider
    images: InMemoryImages
    slots: InMemorySlots
    breaker: InMemoryBreaker
    letters: InMemoryLetterBox
    lanes: InMemoryLanes

    def order(self, channel: Channel = Channel.B2C, **changes: Any) -> GenerationTask:
        """A task whose session is in the database."""
        task = new_task(channel, **changes)
        key = (channel.value, str(task.session_id))
        self.database.sessions[key] = SessionRow(str(task.owner_id))
        return task

    async def run(self, task: GenerationTask, *, returned: bool = False) -> Ending:
        """Do what Celery does with one delivery."""
        return await self.generator.jobs.process(task, returned=returned)

    def begin(self, task: GenerationTask, *, returned: bool = False) -> asyncio.Task[Ending]:
        """The same, beside what follows."""
        return asyncio.create_task(self.run(task, returned=returned))

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the generator's metrics, 0 if there is none."""
        return self.registry.get_sample_value(f"wearon_generator_{name}", labels) or 0.0

    async def until(self, condition: Callable[[], object], step: float = 0.01) -> None:
        """Let the time pass until `condition` holds."""
        async with asyncio.timeout(3600):
            while not condition():  # noqa: ASYNC110 - nothing tells of most of what is waited for
                await asyncio.sleep(step)


@asynccontextmanager
async def open_house(
    beside: House | None = None,
    *,
    timing: Timing | None = None,
    replica: str = "one",
    images: InMemoryImages | None = None,
    provider: ScriptedProvider | None = None,
) -> AsyncIterator[House]:
    """A replica that renews leases and hands out slots; `beside` another one, it shares the world."""
    clock = asyncio.get_running_loop().time
    registry = CollectorRegistry()
    database = beside.database if beside else InMemoryDatabase(clock)
    bucket = beside.bucket if beside else InMemoryBucket()
    slots = beside.slots if beside else InMemorySlots(clock)
    provider = provider or (beside.provider if beside else ScriptedProvider(clock))
    images, breaker, letters = images or InMemoryImages(), InMemoryBreaker(), InMemoryLetterBox()
    lanes = InMemoryLanes()
    generator = await bootstrap(
        SETTINGS,
        registry,
        replica=replica,
        broker=InMemoryBroker(),
        timing=timing,
        clock=clock,
        database=database,
        renewals=database,
        bucket=bucket,
        images=images,
        provider=provider,
        slots=slots,
        presence=AlwaysThere(),
        breaker=breaker,
        dead_letters=letters,
        lanes=lanes,
        webhooks=WebhookClient(timeout=1, ssl_context=_TRUSTS_NOBODY),
    )
    generator.leases.start()
    generator.line.start()
    try:
        yield House(generator, registry, database, bucket, provider, images, slots, breaker, letters, lanes)
    finally:
        await generator.line.stop()
        await generator.leases.stop()


def in_house(test: Callable[[House], Coroutine[Any, Any, T]], **options: Any) -> T:
    """Run `test` with a house of its own."""

    async def run() -> T:
        # Traceback by traceback, printing would take longer than all the rest.
        with structlog.testing.capture_logs():
            async with open_house(**options) as house:
                return await test(house)

    return virtual_time.run(run())
