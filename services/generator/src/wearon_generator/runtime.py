"""The generator inside its process: an event loop in a thread of its own, and Celery in the main one."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from celery import Celery
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from wearon_generator.bootstrap import Generator, bootstrap
from wearon_generator.celery_app import CeleryBroker, create_celery_app
from wearon_generator.foreign_messages import ForeignMessage
from wearon_generator.ledger import MigrationsMissing
from wearon_generator.metrics import gauge_value
from wearon_generator.recovery import Broker
from wearon_generator.settings import GeneratorSettings
from wearon_generator.storage import BucketMissing
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.tasks import register_tasks
from wearon_generator.timing import Timing
from wearon_service_kit.connection_errors import why_unreachable
from wearon_service_kit.health import CheckResult
from wearon_service_kit.tracing import NO_TRACER, Tracer

T = TypeVar("T")

CHECK_SECONDS: Final = 0.7


class Bootstrap(Protocol):
    """`bootstrap.bootstrap`, with some of its parts given or not."""

    def __call__(
        self,
        settings: GeneratorSettings,
        registry: CollectorRegistry,
        *,
        replica: str,
        broker: Broker,
        timing: Timing,
        tracer: Tracer,
    ) -> Coroutine[Any, Any, Generator]:
        """Build a generator."""
        ...


class EventLoopThread:
    """An asyncio event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="jobs", daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the loop and wait for it; to be called from any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


class Runtime:
    """A generator as the main thread sees it."""

    def __init__(
        self,
        settings: GeneratorSettings,
        registry: CollectorRegistry,
        *,
        timing: Timing | None = None,
        build: Bootstrap = bootstrap,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """`build`: composes the generator."""
        timing = timing or Timing()
        self.replica = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.broker_client = f"wearon-generator-broker-{self.replica}"
        """Name of the broker's connections to Redis, where the server takes names."""
        self.celery: Celery = create_celery_app(
            settings.redis_url.get_secret_value(),
            concurrency=settings.generator_concurrency,
            visibility_timeout=timing.visibility_timeout,
            client_name=self.broker_client,
            set_aside=self._set_aside,
        )
        self.stop_patience = timing.stop_patience
        self._thread = EventLoopThread()
        self._generator = self._thread.run(
            build(
                settings,
                registry,
                replica=self.replica,
                broker=CeleryBroker(self.celery),
                timing=timing,
                tracer=tracer,
            )
        )
        register_tasks(
            self.celery,
            self._generator.jobs,
            self._generator.rejections,
            self._generator.metrics,
            self._thread.run,
            crash_pause=timing.crash_pause,
        )

    def why_not_ready(self) -> str | None:
        """What keeps this process from taking jobs, in one line; None if nothing does."""
        try:
            self._thread.run(self._generator.ledger.check_schema())
            self._thread.run(self._generator.store.check_bucket())
        except (MigrationsMissing, BucketMissing) as error:
            return str(error)
        except SupabaseUnavailable as error:
            self._generator.sweeper.supabase_was_unavailable()
            return f"Supabase cannot be reached: {error}"
        self._thread.run(self._generator.model_watch.look_if_due())
        return self._generator.model_watch.problem

    def start(self) -> None:
        """Begin to renew leases, hand out slots and sweep."""
        self._thread.run(self._generator.start())

    def begin_stopping(self) -> None:
        """Give waiting jobs back at once; those in work go on. May be called from a signal handler."""
        self._thread.loop.call_soon_threadsafe(self._generator.stopping.begin)

    @property
    def jobs_left(self) -> bool:
        """Whether a job waits or is in work."""
        metrics = self._generator.metrics
        return gauge_value(metrics.waiting) + gauge_value(metrics.working) > 0

    def stop(self) -> None:
        """End what `start` began, once no job is left."""
        self._thread.run(self._generator.stop())

    def _set_aside(self, message: ForeignMessage) -> None:
        self._thread.run(self._generator.rejections.set_aside_foreign(message))

    # ------------------------------------------------------------------ what /ready asks

    def check_database(self) -> CheckResult:
        """Whether the database answers and has the migrations."""
        return self._check(self._generator.ledger.check_schema)

    def check_storage(self) -> CheckResult:
        """Whether the bucket for results exists."""
        return self._check(self._generator.store.check_bucket)

    def check_redis(self) -> CheckResult:
        """Whether Redis answers."""

        async def ping() -> None:
            await self._generator.redis.execute_command("PING")  # type: ignore[no-untyped-call]

        return self._check(ping)

    def check_provider(self) -> CheckResult:
        """Whether jobs are started, or wait because the provider refuses every job."""
        if self._generator.presence.paused:
            return CheckResult(True, "paused by the operator")
        if self._generator.breaker.reason is not None:
            return CheckResult(
                False, f"paused: the provider refuses every job ({self._generator.breaker.reason})"
            )
        return CheckResult(True)

    def check_model(self) -> CheckResult:
        """Whether the provider serves the model and takes the key; a fallback in use is told."""
        watch = self._generator.model_watch
        return CheckResult(watch.problem is None, watch.problem or watch.told)

    def _check(self, call: Callable[[], Awaitable[None]]) -> CheckResult:
        async def within_time() -> None:
            async with asyncio.timeout(CHECK_SECONDS):
                await call()

        try:
            self._thread.run(within_time())
        except SupabaseUnavailable as error:
            return CheckResult(False, str(error))
        except (RedisError, TimeoutError, OSError) as error:
            return CheckResult(False, why_unreachable(error))
        return CheckResult(True)
