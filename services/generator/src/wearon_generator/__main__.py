"""`python -m wearon_generator`: one Celery worker process."""

from __future__ import annotations

import argparse
import ctypes
import functools
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import redis
import structlog
from celery import signals
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from redis.exceptions import RedisError

from wearon_generator.bootstrap import bootstrap
from wearon_generator.celery_app import BROKER_POP_SECONDS, end_blocking_pops, forget_client_name
from wearon_generator.runtime import Bootstrap, Runtime
from wearon_generator.settings import GeneratorSettings
from wearon_generator.timing import Timing
from wearon_service_kit.health import CheckResult, HealthServer
from wearon_service_kit.logs import configure_logging
from wearon_service_kit.redis_clients import connect
from wearon_service_kit.redis_server import refuse_unsuitable, takes_client_names
from wearon_service_kit.settings import load_settings
from wearon_service_kit.tracing import start_tracing

log = structlog.get_logger()

_LOOK_AGAIN_SECONDS: Final = 5.0  # between two looks whether all that a generator needs is there
_UNBLOCK_SECONDS: Final = 0.3  # between two tries to end the worker's blocking pops
_M_ARENA_MAX: Final = -8  # of glibc's malloc.h


def main(
    arguments: list[str] | None = None, *, timing: Timing | None = None, build: Bootstrap = bootstrap
) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. `timing`, `build`: see `Runtime`."""
    parser = argparse.ArgumentParser(
        prog="python -m wearon_generator",
        description="Takes try-on jobs from Celery's queue and turns each into a finished picture. "
        "Configured by environment variables and a .env file; .env.example lists them.",
    )
    parser.parse_args(arguments)
    settings = load_settings(GeneratorSettings)
    configure_logging("generator", settings.log_level, settings.log_format, secrets=settings.secret_values())
    # They tell of each message in their own words and without its request_id; the jobs' own lines tell more.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    _limit_malloc_arenas()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    tracer = start_tracing("wearon-generator", settings)
    runtime = Runtime(settings, registry, timing=timing, build=build, tracer=tracer)
    client = connect(settings.redis_url, name="wearon-generator-start")
    refuse_unsuitable(client)
    if not takes_client_names(client):
        forget_client_name(runtime.celery)
    worker_ready = threading.Event()
    checks = {
        "worker": lambda: CheckResult(worker_ready.is_set(), "" if worker_ready.is_set() else "not started"),
        "redis": runtime.check_redis,
        "database": runtime.check_database,
        "storage": runtime.check_storage,
        "provider": runtime.check_provider,
        "provider_model": runtime.check_model,
    }
    with HealthServer(settings.health_port, checks, registry, host=settings.health_host) as health:
        log.info("generator_started", replica=runtime.replica, health_port=health.port)
        if not _wait_until_ready(runtime):
            return 0
        runtime.start()
        exit_code = _run_worker(runtime, worker_ready, client)
        runtime.stop()
        tracer.stop()
        log.info("generator_stopped", replica=runtime.replica)
    return exit_code


def _limit_malloc_arenas() -> None:
    """Keep glibc from giving each of the many threads a heap of its own, which they hardly use."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def _wait_until_ready(runtime: Runtime) -> bool:
    """Take no job before the database and the bucket are there; False if asked to stop meanwhile."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    said = None
    try:
        while not stop.is_set():
            reason = runtime.why_not_ready()
            if reason is None:
                return True
            if reason != said:
                log.error("generator_not_ready", reason=reason)
                said = reason
            stop.wait(_LOOK_AGAIN_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return False


def _run_worker(runtime: Runtime, worker_ready: threading.Event, client: redis.Redis) -> int:
    stopping = threading.Event()

    def stop_popping() -> None:
        """Celery waits for the answer of the pop that it has sent."""
        until = time.monotonic() + BROKER_POP_SECONDS
        while time.monotonic() < until:
            with suppress(RedisError):  # some servers refuse it: the pop ends by itself then
                end_blocking_pops(client, runtime.broker_client)
            time.sleep(_UNBLOCK_SECONDS)

    def on_ready(**_: Any) -> None:
        worker_ready.set()
        log.info("worker_ready", replica=runtime.replica)

    def begin_stopping(exit_code: int) -> None:
        if stopping.is_set():
            return
        stopping.set()
        worker_ready.clear()
        log.info("worker_stopping", replica=runtime.replica)
        runtime.begin_stopping()
        end_by_force = functools.partial(_end_by_force, runtime, exit_code)
        threading.Thread(target=end_by_force, name="end-by-force", daemon=True).start()
        threading.Thread(target=stop_popping, name="stop-popping", daemon=True).start()

    def on_shutting_down(**_: Any) -> None:
        begin_stopping(0)

    def keep_our_logging(**_: Any) -> None:
        """A receiver of this signal is what stops Celery from setting up logging of its own."""

    signals.worker_ready.connect(on_ready, weak=False)
    signals.worker_shutting_down.connect(on_shutting_down, weak=False)
    signals.setup_logging.connect(keep_our_logging, weak=False)

    class Worker(runtime.celery.Worker):  # type: ignore[misc, name-defined]
        def on_close(self) -> None:
            """No signal tells of the end of a worker that an error stops, which waits for its jobs too."""
            begin_stopping(self.exitcode or 0)
            super().on_close()

    worker = Worker(
        hostname=f"generator@{runtime.replica}",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _end_by_force(runtime: Runtime, exit_code: int) -> None:
    """End a stopping process that no job is left in, though Celery does not come to its end.

    It waits for each message to be given back, and on a Redis that keeps silent each takes its timeouts. The
    messages are not lost: Redis has them as taken, and the ledger has their sessions.
    """
    idle_since = time.monotonic()
    while time.monotonic() < idle_since + runtime.stop_patience:
        time.sleep(0.5)
        if runtime.jobs_left:
            idle_since = time.monotonic()
    log.warning("generator_ended_by_force", replica=runtime.replica)
    os._exit(exit_code)


if __name__ == "__main__":
    sys.exit(main())
