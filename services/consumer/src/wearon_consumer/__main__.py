"""`python -m wearon_consumer`: read the settings, wire everything, bridge until told to stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import redis
import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from wearon_consumer.batches import BatchBuilder
from wearon_consumer.bridge import Bridge
from wearon_consumer.celery_messages import CeleryMessages
from wearon_consumer.inflight import InFlight, Limits
from wearon_consumer.metrics import Backlog, Metrics
from wearon_consumer.settings import ConsumerSettings
from wearon_consumer.timing import ConsumerTiming
from wearon_contracts.queues import CELERY_QUEUE
from wearon_service_kit.health import CheckResult, HealthServer
from wearon_service_kit.logs import configure_logging
from wearon_service_kit.redis_clients import connect
from wearon_service_kit.redis_server import refuse_unsuitable
from wearon_service_kit.settings import load_settings
from wearon_service_kit.tracing import start_tracing

_log = structlog.get_logger(__name__)


def main(
    timing: ConsumerTiming | None = None,
    make_inflight: Callable[[redis.Redis, str, ConsumerTiming, Limits], InFlight] = InFlight,
) -> int:
    """Bridge until SIGTERM or SIGINT; returns the exit code. Tests hand in other intervals and steps."""
    timing = timing or ConsumerTiming()
    settings = load_settings(ConsumerSettings)
    configure_logging("consumer", settings.log_level, settings.log_format, secrets=settings.secret_values())
    client = connect(settings.redis_url, name="wearon-consumer")
    refuse_unsuitable(client)
    consumer_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    limits = Limits(
        settings.max_invalid_in_a_row, settings.max_dead_letter_mb * 1024 * 1024, settings.store_share
    )
    inflight = make_inflight(client, consumer_id, timing, limits)
    celery = CeleryMessages(CELERY_QUEUE)
    tracer = start_tracing("wearon-consumer", settings)
    builder = BatchBuilder(
        celery, consumer_id, lambda: datetime.now(UTC), limits.max_invalid_in_a_row, tracer
    )
    bridge = Bridge(inflight, builder, Metrics(registry), timing)
    registry.register(Backlog(client, inflight.name, bridge.progresses))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: bridge.stop())

    def redis_answers() -> CheckResult:
        client.ping()
        return CheckResult(True)

    def loop_progresses() -> CheckResult:
        stuck = bridge.why_stuck()
        return CheckResult(stuck is None, stuck or "")

    checks = {"redis": redis_answers, "loop": loop_progresses}
    with HealthServer(settings.health_port, checks, registry, host=settings.health_host) as health:
        _log.info("consumer_started", consumer_id=consumer_id, health_port=health.port)
        bridge.run()
    tracer.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
