"""Composes a generator from its parts; every part that reaches outside the process can be replaced."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from supabase import AsyncClient

from wearon_generator.activity import Activity
from wearon_generator.attempt import Breaker, Images, LaneReports, Workshop
from wearon_generator.breaker import ProviderBreaker
from wearon_generator.dead_letters import DeadLetters
from wearon_generator.election import Election
from wearon_generator.end_users import hash_key
from wearon_generator.fallback import ProviderWithFallback
from wearon_generator.image_processor import ImageProcessor
from wearon_generator.keep_trying import Stopping
from wearon_generator.lanes import HandedTasks, Lanes, LaneUpkeep
from wearon_generator.leases import LeaseKeeper
from wearon_generator.ledger import Database, Ledger, SupabaseDatabase
from wearon_generator.metrics import MeanOfStep, Metrics, gauge_value
from wearon_generator.model_watch import ModelWatch
from wearon_generator.models import find_model
from wearon_generator.openai_provider import OpenAIProvider, connect_openai
from wearon_generator.presence import Attendance, Presence
from wearon_generator.provider import Provider
from wearon_generator.queue_scan import QueueScan
from wearon_generator.recovery import Broker, ScanBudget, Sweeper, cleanup_stuck_sessions
from wearon_generator.rejection import LetterBox, Rejections
from wearon_generator.retention import Limits, Retention, RetentionSweeper
from wearon_generator.settings import GeneratorSettings
from wearon_generator.slots import RedisSlots, SlotLine, SlotSource
from wearon_generator.storage import Bucket, ResultStore, SupabaseBucket
from wearon_generator.supabase_client import connect_supabase
from wearon_generator.timing import Clock, Now, Timing, utc_now
from wearon_generator.waiting import JobRunner
from wearon_generator.webhooks.client import WebhookClient
from wearon_generator.webhooks.outbox import Outbox
from wearon_generator.webhooks.sender import WebhookSender
from wearon_service_kit.images.fetch import ImageFetcher
from wearon_service_kit.memory import MB, MemoryBudget, memory_limit
from wearon_service_kit.redis_clients import connect_async
from wearon_service_kit.tracing import NO_TRACER, Tracer

log = structlog.get_logger()

SUPABASE_CONNECTIONS: Final = 64  # for jobs; uploads take the longest
RENEWAL_CONNECTIONS: Final = 2  # one call renews all leases; a second one, where the first hangs
WEBHOOK_CONNECTIONS: Final = 4  # to Supabase, for the outbox and for signing links
MOST_DECODE_THREADS: Final = 4
OWN_STORAGE_DOWNLOADS: Final = 48  # at once; 120 jobs a minute with two pictures of 8 s each need 32


class ProviderGuard(Breaker, Protocol):
    """A breaker as the whole process uses it."""

    reason: str | None

    def start(self) -> None:
        """Begin to look how things stand."""
        ...

    async def stop(self) -> None:
        """Look no more."""
        ...

    async def wait_until_closed(self) -> None:
        """Return when a job may start."""
        ...

    def given_to(self, holder: str) -> None:
        """`holder` starts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """The parts of one generator that its process starts, stops and asks."""

    settings: GeneratorSettings
    metrics: Metrics
    redis: Redis
    ledger: Ledger
    store: ResultStore
    jobs: JobRunner
    rejections: Rejections
    presence: Attendance
    breaker: ProviderGuard
    model_watch: ModelWatch
    leases: LeaseKeeper
    line: SlotLine
    lanes: Lanes
    sweeper: Sweeper
    webhooks: WebhookSender
    retention: RetentionSweeper
    stopping: Stopping

    async def start(self) -> None:
        """Begin to renew leases, hand out slots, sweep, tell webhooks and delete old pictures."""
        await self.presence.start()
        self.breaker.start()
        self.model_watch.start()
        self.leases.start()
        self.line.start()
        self.lanes.start()
        self.sweeper.start()
        self.webhooks.start()
        self.retention.start()

    async def stop(self) -> None:
        """End what `start` began, once no job is left."""
        await self.retention.stop()
        await self.webhooks.stop()
        await self.sweeper.stop()
        await self.line.stop()
        await self.lanes.stop()
        await self.leases.stop()
        await self.model_watch.stop()
        await self.breaker.stop()
        await self.presence.stop()
        await self.redis.aclose()


def provider_scope(settings: GeneratorSettings) -> str:
    """Stands for what a refusal of every job may depend on: address, key and model."""
    parts = (
        settings.openai_base_url or "",
        settings.openai_api_key.get_secret_value(),
        settings.openai_org_id or "",
        settings.openai_project_id or "",
        settings.openai_model,
        settings.openai_fallback_model or "",
        settings.openai_quality or "",
        settings.openai_size or "",
        settings.openai_complexity or "",
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def decode_threads() -> int:
    """Threads for decoding pictures: the cores this process may use, but no more than memory is meant for."""
    return min(MOST_DECODE_THREADS, len(os.sched_getaffinity(0)))


async def bootstrap(
    settings: GeneratorSettings,
    registry: CollectorRegistry,
    *,
    replica: str,
    broker: Broker,
    timing: Timing | None = None,
    clock: Clock = time.monotonic,
    now: Now = utc_now,
    database: Database | None = None,
    renewals: Database | None = None,
    bucket: Bucket | None = None,
    fetcher: ImageFetcher | None = None,
    images: Images | None = None,
    provider: Provider | None = None,
    slots: SlotSource | None = None,
    presence: Attendance | None = None,
    line_class: type[SlotLine] = SlotLine,
    breaker: ProviderGuard | None = None,
    dead_letters: LetterBox | None = None,
    lanes: LaneReports | None = None,
    webhooks: WebhookClient | None = None,
    tracer: Tracer = NO_TRACER,
) -> Generator:
    """Build a generator; what is None is the real thing. On the event loop, to which some clients bind.

    `broker`: publishes what the sweeper recovers. `renewals`: the database through connections of their own.
    """
    timing = timing or Timing()
    metrics = Metrics(registry)
    redis = connect_async(settings.redis_url, name="wearon-generator")
    supabase = functools.cache(lambda: connect_to_supabase(settings, tracer=tracer))
    for_webhooks = functools.cache(lambda: connect_to_supabase(settings, WEBHOOK_CONNECTIONS))
    ledger = Ledger(database or SupabaseDatabase(supabase()), timing)

    def store_through(client: Callable[[], AsyncClient]) -> ResultStore:
        return ResultStore(
            bucket or SupabaseBucket(client(), settings.storage_bucket),
            settings.signed_url_ttl_seconds,
            origin=settings.supabase_url,
            public_origin=settings.supabase_public_url,
        )

    store = store_through(supabase)
    activity = Activity()
    guard = breaker or ProviderBreaker(
        redis, replica, provider_scope(settings), metrics, activity, probe_seconds=timing.probe
    )
    memory = MemoryBudget.of((settings.memory_limit_mb or 0) * MB or memory_limit())
    stopping = Stopping(clock, timing.stop_patience)

    def describe() -> dict[str, Any]:
        return {
            "concurrency": settings.generator_concurrency,
            "waiting": gauge_value(metrics.waiting),
            "working": gauge_value(metrics.working),
            "provider_pause": guard.reason,
            "model": with_fallback.model,
            "fallback_because": with_fallback.reason,
        }

    with_fallback = ProviderWithFallback(
        *((provider, None) if provider else _connect_provider(settings, tracer))
    )
    model_watch = ModelWatch(with_fallback, metrics, clock, now, refused_because=lambda: guard.reason)
    presence = presence or Presence(redis, replica, activity, describe, clock)

    async def admission() -> None:
        await presence.wait_until_resumed()
        await model_watch.wait_until_served()
        await guard.wait_until_closed()

    line = line_class(
        slots or RedisSlots(redis, settings.generations_per_minute),
        clock,
        admission=admission,
        unused=guard.inconclusive,
        given=guard.given_to,
    )
    in_redis = Lanes(redis, settings.generations_per_minute, activity, MeanOfStep(metrics.steps, "images"))
    workshop = Workshop(
        ledger=ledger,
        store=store,
        images=images
        or _image_processor(fetcher or build_fetcher(settings, tracer=tracer), memory, metrics, timing),
        provider=with_fallback,
        max_calls=settings.openai_max_retries,
        hash_key=hash_key(settings.supabase_service_role_key.get_secret_value()),
        line=line,
        breaker=guard,
        lanes=lanes or in_redis,
        stopping=stopping,
        metrics=metrics,
        timing=timing,
        clock=clock,
        tracer=tracer,
    )
    queues = QueueScan(redis)
    budget = ScanBudget(clock)

    async def show_backlog() -> None:
        metrics.show_backlog(await ledger.backlog())

    upkeep = LaneUpkeep(redis, ledger, metrics, clock, interval=timing.lane_upkeep)

    async def sweep() -> None:
        # Refunds come first: a key that Redis cannot read would stop the upkeep of the lanes.
        await cleanup_stuck_sessions(
            ledger,
            queues,
            store,
            HandedTasks(redis),
            broker=broker,
            is_held_here=leases.holds,
            stuck_after=settings.stuck_after_seconds,
            budget=budget,
            timing=timing,
            now=now,
            metrics=metrics,
        )
        await upkeep.look()

    election = Election(redis, replica, timing.election)
    sweeper = Sweeper(timing, clock, look=show_backlog, sweep=sweep, election=election)
    sender = WebhookSender(
        Outbox(database or SupabaseDatabase(for_webhooks()), timing),
        store_through(for_webhooks),
        webhooks or webhook_client(settings, timing),
        is_elected=lambda: election.elected,
        metrics=metrics,
        timing=timing,
        clock=clock,
        now=now,
    )
    renewing = renewals or SupabaseDatabase(
        connect_to_supabase(settings, RENEWAL_CONNECTIONS, timeout=timing.renewal_timeout)
    )
    leases = LeaseKeeper(
        Ledger(renewing, timing), metrics, timing, on_failure=sweeper.supabase_was_unavailable
    )
    rejections = Rejections(
        ledger,
        dead_letters or DeadLetters(redis, replica),
        metrics,
        workshop.keep_trying(for_seconds=timing.patience_before_hold, until_stop=True),
        stopping,
    )
    return Generator(
        settings=settings,
        metrics=metrics,
        redis=redis,
        ledger=ledger,
        store=store,
        jobs=JobRunner(workshop, leases, rejections, activity, replica=replica),
        rejections=rejections,
        presence=presence,
        breaker=guard,
        model_watch=model_watch,
        leases=leases,
        line=line,
        lanes=in_redis,
        sweeper=sweeper,
        webhooks=sender,
        retention=RetentionSweeper(
            Retention(database or SupabaseDatabase(supabase()), settings.storage_bucket),
            store,
            Limits(settings.result_retention_hours, settings.input_retention_hours),
            is_elected=lambda: election.elected,
            metrics=metrics,
            timing=timing,
        ),
        stopping=stopping,
    )


def webhook_client(settings: GeneratorSettings, timing: Timing, **options: Any) -> WebhookClient:
    """The client that webhooks are sent with; `options`: see `WebhookClient`."""
    return WebhookClient(
        timeout=timing.webhook_timeout, trusted_origins=settings.webhook_trusted_origins, **options
    )


def connect_to_supabase(
    settings: GeneratorSettings, connections: int = SUPABASE_CONNECTIONS, **options: Any
) -> AsyncClient:
    """A client of the Supabase that the settings name; `options`: see `connect_supabase`."""
    key = settings.supabase_service_role_key.get_secret_value()
    return connect_supabase(
        settings.supabase_url, key, connections=connections, proxies=settings.proxies, **options
    )


def _connect_provider(settings: GeneratorSettings, tracer: Tracer) -> tuple[Provider, Provider | None]:
    """The model that makes the pictures, and the one for when that is refused."""
    client = connect_openai(
        settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        organization=settings.openai_org_id,
        project=settings.openai_project_id,
        proxies=settings.proxies,
        timeout_seconds=settings.openai_timeout_seconds,
        tracer=tracer,
    )

    def serve(name: str) -> Provider:
        model = find_model(name)
        if model.price is None:
            log.warning("model_without_price", model=name)
        if settings.openai_complexity and not model.complexities:
            log.warning("complexity_not_sent", model=name)
        fields = model.fields(settings.openai_quality, settings.openai_size, settings.openai_complexity)
        return OpenAIProvider(client, model, fields, tracer)

    fallback = settings.openai_fallback_model
    return serve(settings.openai_model), serve(fallback) if fallback else None


def build_fetcher(
    settings: GeneratorSettings, fetcher_class: type[ImageFetcher] = ImageFetcher, **options: Any
) -> ImageFetcher:
    """The downloader of input pictures; our own Storage is trusted."""
    return fetcher_class(
        trusted_origins=(settings.supabase_url, *settings.image_fetch_trusted_origins),
        rewrite_origins=(
            {settings.supabase_public_url: settings.supabase_url} if settings.supabase_public_url else {}
        ),
        max_concurrent=OWN_STORAGE_DOWNLOADS,
        **options,
    )


def _image_processor(
    fetcher: ImageFetcher, memory: MemoryBudget, metrics: Metrics, timing: Timing
) -> ImageProcessor:
    decoders = ThreadPoolExecutor(decode_threads(), thread_name_prefix="decode")
    return ImageProcessor(fetcher, decoders, memory, metrics, timing)
