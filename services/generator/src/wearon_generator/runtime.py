"""Everything of one generator process, built in one place, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import secrets
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import structlog
from celery import Celery
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from wearon_generator.breaker import ProviderBreaker
from wearon_generator.celery_app import create_celery_app, deliver_again, publish_again
from wearon_generator.dead_letters import DeadLetters
from wearon_generator.end_users import hash_key
from wearon_generator.image_processor import ImageProcessor
from wearon_generator.jobs import VISIBILITY_TIMEOUT, JobRunner, Stopping
from wearon_generator.leases import LeaseKeeper
from wearon_generator.ledger import Ledger, MigrationsMissing
from wearon_generator.metrics import Metrics, gauge_value
from wearon_generator.models import find_model
from wearon_generator.openai_provider import OpenAIProvider, connect_openai
from wearon_generator.presence import Presence
from wearon_generator.queue_scan import QueueScan
from wearon_generator.recovery import Sweeper, cleanup_stuck_sessions
from wearon_generator.settings import GeneratorSettings
from wearon_generator.slots import RedisSlots, SlotLine
from wearon_generator.storage import BucketMissing, ResultStore
from wearon_generator.supabase_client import SupabaseUnavailable, ask, connect_supabase
from wearon_generator.tasks import register_tasks
from wearon_service_kit.health import CheckResult
from wearon_service_kit.images.fetch import ImageFetcher
from wearon_service_kit.redis_clients import connect_async

log = structlog.get_logger()
T = TypeVar("T")

CHECK_SECONDS: Final = 0.7
SUPABASE_CONNECTIONS: Final = 64
MOST_DECODE_THREADS: Final = 4


def decode_threads() -> int:
    """Threads for decoding pictures: the cores this process may use, but no more than memory is meant for."""
    return min(MOST_DECODE_THREADS, len(os.sched_getaffinity(0)))


def provider_scope(settings: GeneratorSettings) -> str:
    """Stands for what a refusal of every job may depend on: address, key and model."""
    parts = (
        settings.openai_base_url or "",
        settings.openai_api_key.get_secret_value(),
        settings.openai_model,
        settings.openai_quality or "",
        settings.openai_size or "",
        settings.openai_complexity or "",
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


class EventLoopThread:
    """An asyncio event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="jobs", daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the loop and wait for it; to be called from any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


class Runtime:
    """The parts of a generator and how they belong together."""

    def __init__(self, settings: GeneratorSettings, registry: CollectorRegistry) -> None:
        self.replica = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.metrics = Metrics(registry)
        self.celery: Celery = create_celery_app(
            settings.redis_url.get_secret_value(),
            concurrency=settings.generator_concurrency,
            visibility_timeout=VISIBILITY_TIMEOUT,
        )
        self._settings = settings
        self._thread = EventLoopThread()
        # Some clients bind themselves to the running loop, so they are built on it.
        self._thread.run(self._build())

    async def _build(self) -> None:
        settings, metrics = self._settings, self.metrics
        self._redis = connect_async(settings.redis_url, name="wearon-generator")
        supabase = connect_supabase(
            settings.supabase_url,
            settings.supabase_service_role_key.get_secret_value(),
            connections=SUPABASE_CONNECTIONS,
        )
        self._ledger = Ledger(supabase)
        self._store = ResultStore(
            supabase,
            settings.storage_bucket,
            settings.signed_url_ttl_seconds,
            origin=settings.supabase_url,
            public_origin=settings.supabase_public_url,
        )
        fetcher = ImageFetcher(
            trusted_origins=(settings.supabase_url, *settings.image_fetch_trusted_origins),
            rewrite_origins=(
                {settings.supabase_public_url: settings.supabase_url} if settings.supabase_public_url else {}
            ),
        )
        decoders = ThreadPoolExecutor(decode_threads(), thread_name_prefix="decode")
        self._breaker = ProviderBreaker(self._redis, self.replica, provider_scope(settings), metrics)
        slots = RedisSlots(self._redis, settings.generations_per_minute)
        self._presence = Presence(self._redis, self.replica, self._describe)
        self._line = SlotLine(
            slots,
            admission=self._wait_until_jobs_may_start,
            unused=self._breaker.inconclusive,
            given=self._breaker.given_to,
        )
        self._leases = LeaseKeeper(self._ledger, metrics)
        self._stopping = Stopping()
        self._queues = QueueScan(self._redis)
        self._sweeper = Sweeper(look=self._show_backlog, sweep=self._sweep)
        runner = JobRunner(
            replica=self.replica,
            ledger=self._ledger,
            store=self._store,
            images=ImageProcessor(fetcher, decoders, metrics),
            provider=self._connect_provider(),
            max_calls=settings.openai_max_retries,
            hash_key=hash_key(settings.supabase_service_role_key.get_secret_value()),
            line=self._line,
            leases=self._leases,
            breaker=self._breaker,
            dead_letters=DeadLetters(self._redis, self.replica),
            stopping=self._stopping,
            metrics=metrics,
        )
        register_tasks(self.celery, runner, self._thread.run)

    def _connect_provider(self) -> OpenAIProvider:
        settings = self._settings
        client = connect_openai(
            settings.openai_api_key.get_secret_value(),
            settings.openai_base_url,
            settings.openai_timeout_seconds,
        )
        model = find_model(settings.openai_model)
        fields = model.fields(settings.openai_quality, settings.openai_size, settings.openai_complexity)
        return OpenAIProvider(client, model, fields)

    def _describe(self) -> dict[str, Any]:
        return {
            "concurrency": self._settings.generator_concurrency,
            "waiting": gauge_value(self.metrics.waiting),
            "working": gauge_value(self.metrics.working),
            "provider_pause": self._breaker.reason,
        }

    async def _wait_until_jobs_may_start(self) -> None:
        await self._presence.wait_until_resumed()
        await self._breaker.wait_until_closed()

    async def _sweep(self) -> None:
        await cleanup_stuck_sessions(
            self._ledger,
            self._queues,
            publish=lambda task: publish_again(self.celery, task),
            deliver_again=lambda tag: deliver_again(self.celery, tag),
            stuck_after=self._settings.stuck_after_seconds,
            metrics=self.metrics,
        )

    async def _show_backlog(self) -> None:
        self.metrics.show_backlog(await ask(self._ledger.backlog))

    # ------------------------------------------------------------------ from the main thread

    def why_not_ready(self) -> str | None:
        """What keeps this process from taking jobs, in one line; None if nothing does."""
        try:
            self._thread.run(ask(self._ledger.check_schema))
            self._thread.run(ask(self._store.check_bucket))
        except (MigrationsMissing, BucketMissing) as error:
            return str(error)
        except SupabaseUnavailable as error:
            self._sweeper.supabase_was_unavailable()
            return f"Supabase cannot be reached: {error}"
        return None

    def start(self) -> None:
        """Begin to renew leases, hand out slots and sweep."""

        async def begin() -> None:
            await self._presence.start()
            self._breaker.start()
            self._leases.start()
            self._line.start()
            self._sweeper.start()

        self._thread.run(begin())

    def begin_stopping(self) -> None:
        """Give waiting jobs back at once; those in work go on. May be called from a signal handler."""
        self._thread.loop.call_soon_threadsafe(self._stopping.begin)

    def stop(self) -> None:
        """End what `start` began, once no job is left."""

        async def end() -> None:
            await self._sweeper.stop()
            await self._line.stop()
            await self._leases.stop()
            await self._breaker.stop()
            await self._presence.stop()
            await self._redis.aclose()

        self._thread.run(end())

    # ------------------------------------------------------------------ what /ready asks

    def check_database(self) -> CheckResult:
        """Whether the database answers and has the migrations."""
        return self._check(self._ledger.check_schema)

    def check_storage(self) -> CheckResult:
        """Whether the bucket for results exists."""
        return self._check(self._store.check_bucket)

    def check_redis(self) -> CheckResult:
        """Whether Redis answers."""

        async def ping() -> None:
            await self._redis.execute_command("PING")  # type: ignore[no-untyped-call]

        return self._check(ping)

    def check_provider(self) -> CheckResult:
        """Whether jobs are started, or wait because the provider refuses every job."""
        if self._presence.paused:
            return CheckResult(True, "paused by the operator")
        if self._breaker.reason is not None:
            return CheckResult(False, f"paused: the provider refuses every job ({self._breaker.reason})")
        return CheckResult(True)

    def _check(self, call: Any) -> CheckResult:
        async def within_time() -> None:
            async with asyncio.timeout(CHECK_SECONDS):
                await ask(call)

        try:
            self._thread.run(within_time())
        except (MigrationsMissing, BucketMissing, SupabaseUnavailable) as error:
            return CheckResult(False, str(error))
        except (RedisError, TimeoutError, OSError) as error:
            return CheckResult(False, type(error).__name__)
        return CheckResult(True)
