"""What the sizing API counts. All names, with what they mean, stand here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.tracing import NO_TRACER, Tracer

_log = structlog.get_logger(__name__)
_SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 4)


class Metrics:
    """Counters of one app, in a registry of its own; its steps are spans as well where spans are made."""

    def __init__(self, tracer: Tracer = NO_TRACER) -> None:
        self._tracer = tracer
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Histogram(
            "wearon_sizing_request_seconds",
            "Time from request to answer, by path and status.",
            ["path", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.steps = Histogram(
            "wearon_sizing_step_seconds",
            "Time of one step of a request: download, queue, decode, detect, measure or check.",
            ["step"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter(
            "wearon_sizing_refusals",
            "Answers that are no measurement, by error code.",
            ["code"],
            registry=self.registry,
        )
        self.abandoned = Counter(
            "wearon_sizing_abandoned",
            "Requests whose client had gone before the answer.",
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "wearon_sizing_queue_depth",
            "Photos that wait for a landmarker.",
            registry=self.registry,
        )

    def refused(self, code: ErrorCode, reason: str = "") -> None:
        """Count a refusal, and say in the log why."""
        self.refusals.labels(code.value).inc()
        _log.info("refused", code=code.value, reason=reason)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step that was carried out, however it ended."""
        start = time.perf_counter()
        try:
            with self._tracer.span(name):
                yield
        finally:
            self.steps.labels(name).observe(time.perf_counter() - start)
