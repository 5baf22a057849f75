"""`python -m wearon_generator` with named steps, a clock that can jump, and periods divided by CHAOS_PACE.

Each call of the ledger, of Storage, of the image host and of the provider is a step before (`hold:asked`) and
after (`hold:answered`) it; so are the broker's publishing and acknowledging. The generator is composed from
parts that take note of their steps; only Celery, kombu and openai are changed from outside.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, TypeVar

import celery.app.base
import celery.app.task
import kombu.transport.redis
import structlog
from openai.resources.images import AsyncImages
from prometheus_client import CollectorRegistry
from tests.chaos.steps import Steps

import wearon_generator.__main__
from wearon_generator.bootstrap import (
    Generator,
    bootstrap,
    build_fetcher,
    connect_to_supabase,
)
from wearon_generator.ledger import Database, SupabaseDatabase
from wearon_generator.recovery import Broker
from wearon_generator.settings import GeneratorSettings
from wearon_generator.slots import Priority, SlotLine
from wearon_generator.storage import Bucket, SupabaseBucket
from wearon_generator.timing import Timing
from wearon_service_kit.images.errors import ImageUnreachable
from wearon_service_kit.images.fetch import FetchedImage, ImageFetcher

T = TypeVar("T")

STEPS: Final = Steps()
SHOP_HOST: Final = "/samples/"
"""Pictures below this path come from a host that is not ours; on loopback it has to be a trusted one."""


def _bound(name: str) -> Any:
    return structlog.contextvars.get_contextvars().get(name)


async def _traced(name: str, call: Callable[..., Awaitable[T]], *arguments: Any, **about: Any) -> T:
    """Make one call, a step of the session that is being worked on."""
    about = {"session": _bound("session_id"), "attempt": _bound("attempt"), **about}
    STEPS.at(f"{name}:asked", **about)
    try:
        answer = await call(*arguments)
    except BaseException as error:
        status = getattr(error, "status_code", None)
        STEPS.at(f"{name}:raised", error=type(error).__name__, status=status, **about)
        raise
    told = answer if isinstance(answer, dict) else {}
    about["attempt"] = told.get("attempt") or about["attempt"]
    STEPS.at(
        f"{name}:answered", verdict=told.get("verdict"), lease_until=told.get("lease_expires_at"), **about
    )
    return answer


class TracedDatabase:
    """The ledger's functions, each a step."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def call(self, function: str, params: dict[str, Any]) -> object:
        task = params.get("p_task") or {}
        about = {
            "session": params.get("p_session_id") or task.get("session_id") or _bound("session_id"),
            "holder": params.get("p_holder"),
            "attempt": params.get("p_attempt"),
        }
        step = function.removeprefix("generation_")
        return await _traced(step, self._database.call, function, params, **about)

    async def ledger_states(self, session_ids: Sequence[str]) -> object:
        return await self._database.ledger_states(session_ids)


class TracedBucket:
    """Storage, each call a step."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def check(self) -> None:
        await self._bucket.check()

    async def upload(self, path: str, data: bytes, mime: str) -> None:
        await _traced("upload", self._bucket.upload, path, data, mime)

    async def exists(self, path: str) -> bool:
        return await _traced("exists", self._bucket.exists, path)

    async def remove(self, paths: Sequence[str]) -> None:
        await _traced("remove", self._bucket.remove, paths)

    async def sign(self, path: str, ttl_seconds: int) -> str:
        return await _traced("sign", self._bucket.sign, path, ttl_seconds)


class TracedFetcher(ImageFetcher):
    """The downloader, each picture a step; the shop's host is a stranger's, whatever its address."""

    async def fetch(self, url: str, **options: Any) -> FetchedImage:
        return await _traced("images", functools.partial(self._fetch, url, **options))

    async def _fetch(self, url: str, **options: Any) -> FetchedImage:
        try:
            return await super().fetch(url, **options)
        except ImageUnreachable as error:
            if SHOP_HOST not in url:
                raise
            raise ImageUnreachable(
                error.code, error.detail, trusted_origin=False, retry_after=error.retry_after
            ) from error


class TracedLine(SlotLine):
    """The line for slots, each wait a step."""

    async def take(self, priority: Priority, holder: str = "") -> None:
        await _traced("slot", super().take, priority, holder, holder=holder or None)


class TracedBroker:
    """Publishing, a step."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def publish_again(self, task: dict[str, Any]) -> None:
        STEPS.at("publish:asked", task["session_id"])
        try:
            self._broker.publish_again(task)
        finally:
            STEPS.at("publish:answered", task["session_id"])

    def deliver_again(self, delivery_tag: str) -> None:
        self._broker.deliver_again(delivery_tag)


async def build(
    settings: GeneratorSettings, registry: CollectorRegistry, *, broker: Broker, timing: Timing, **more: Any
) -> Generator:
    """A generator whose parts take note of their steps."""
    supabase = connect_to_supabase(settings)
    renewing = connect_to_supabase(settings, timeout=timing.renewal_timeout)
    return await bootstrap(
        settings,
        registry,
        broker=TracedBroker(broker),
        timing=timing,
        database=TracedDatabase(SupabaseDatabase(supabase)),
        renewals=TracedDatabase(SupabaseDatabase(renewing)),
        bucket=TracedBucket(SupabaseBucket(supabase, settings.storage_bucket)),
        fetcher=build_fetcher(settings, TracedFetcher),
        line_class=TracedLine,
        now=lambda: JumpingDatetime.now(UTC),
        **more,
    )


def _blocking_step(owner: Any, method: str, name: str, session_of: Callable[..., str | None]) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    def traced(*arguments: Any, **options: Any) -> Any:
        session = session_of(*arguments)
        STEPS.at(f"{name}:asked", session)
        try:
            return original(*arguments, **options)
        finally:
            STEPS.at(f"{name}:answered", session)

    setattr(owner, method, traced)


class JumpingDatetime(datetime):
    """`datetime` whose `now` is off by what this process is told."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + timedelta(seconds=STEPS.clock_is_off_by())


def _session_of_message(_: Any, message: Any, *__: Any) -> str | None:
    arguments = json.loads(message.body)[0]
    return str(arguments[0].get("session_id")) if arguments else None


def _trace_libraries() -> None:
    edit = AsyncImages.edit

    @functools.wraps(edit)
    async def traced(*arguments: Any, **options: Any) -> Any:
        return await _traced("call", functools.partial(edit, *arguments, **options))

    AsyncImages.edit = traced  # type: ignore[method-assign]
    _blocking_step(
        celery.app.task.Task,
        "retry",
        "retry",
        lambda task: str(task.request.args[0].get("session_id")) if task.request.args else None,
    )
    _blocking_step(kombu.transport.redis.QoS, "ack", "ack", lambda *_: None)
    # What Celery has popped is nowhere but in its memory until this is done.
    _blocking_step(kombu.transport.redis.QoS, "append", "note", _session_of_message)


def _timing(pace: float) -> Timing:
    usual = Timing()
    return Timing(
        lease=math.ceil(usual.lease / pace),
        renewal_interval=usual.renewal_interval / pace,
        renewal_timeout=usual.renewal_timeout / pace,
        renewal_pause=usual.renewal_pause / pace,
        sweep_interval=usual.sweep_interval / pace,
        election=usual.election / pace,
        recovery_grace=max(3, round(usual.recovery_grace / pace)),
        foreign_host_patience=usual.foreign_host_patience / pace,
        # A run lasts minutes: what failed is tried again within seconds, whatever the pace.
        webhook_timeout=3.0,
        webhook_lease=8,
        webhook_first_pause=1.0,
        webhook_longest_pause=5.0,
    )


def _let_clock_jump() -> None:
    celery.app.base.datetime = JumpingDatetime
    original = kombu.transport.redis.time
    kombu.transport.redis.time = lambda: original() + STEPS.clock_is_off_by()


if __name__ == "__main__":
    _trace_libraries()
    _let_clock_jump()
    sys.exit(wearon_generator.__main__.main([], timing=_timing(STEPS.pace), build=build))
