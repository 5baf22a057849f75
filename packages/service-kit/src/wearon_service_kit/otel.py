"""Spans by OpenTelemetry, sent to a collector as OTLP over HTTP; the OTEL_ variables configure it.

Every span is redacted where it leaves the process, like every log line: whatever wrote an attribute, and
whatever an exception said, no secret, signed URL or query of a photo's address gets out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from wearon_service_kit import __version__
from wearon_service_kit.redaction import hide
from wearon_service_kit.tracing import Attributes, Kind, Span

_KINDS: Final[dict[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
}
_OF_THE_JOB: Final = ("request_id", "session_id", "channel", "attempt")
_LEFT_OUT: Final = frozenset({"url.query"})
"""Attributes that are all secret or no use: a signature stands in a URL's query, under any name."""
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OpenTelemetryTracer:
    """See `tracing.Tracer`."""

    def __init__(
        self, service: str, *, secrets: Iterable[str] = (), exporter: SpanExporter | None = None
    ) -> None:
        """`secrets`: hidden wherever they appear. `exporter`: instead of the one of the OTEL_ variables."""
        # How the HTTP instrumentation names its attributes: as the conventions do since they are stable.
        os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
        if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            os.environ.setdefault("OTEL_SERVICE_NAME", service)
        resource = Resource.create({"service.version": __version__})
        self.provider: TracerProvider = TracerProvider(resource=resource)
        self.provider.add_span_processor(_JobAttributes())
        self.provider.add_span_processor(
            BatchSpanProcessor(RedactingExporter(exporter or OTLPSpanExporter(), secrets))
        )
        self._tracer = self.provider.get_tracer(service)

    def start(
        self, name: str, kind: Kind, attributes: Attributes | None = None, *, parent: str | None = None
    ) -> Span:
        """See `tracing.Tracer`."""
        context = _context(parent) if parent else Context()
        return _Span(self._tracer.start_span(name, context=context, kind=_KINDS[kind], attributes=attributes))

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        *,
        parent: str | None = None,
        earlier: str | None = None,
    ) -> Iterator[Span]:
        """See `tracing.Tracer`."""
        before = trace.get_current_span(_context(earlier)).get_span_context() if earlier else None
        with self._tracer.start_as_current_span(
            name,
            context=_context(parent) if parent else None,
            kind=_KINDS[kind],
            attributes=attributes,
            links=[trace.Link(before)] if before is not None and before.is_valid else None,
        ) as span:
            yield _Span(span)

    def describe(self, attributes: Attributes) -> None:
        """See `tracing.Tracer`."""
        trace.get_current_span().set_attributes(attributes)

    def stop(self) -> None:
        """See `tracing.Tracer`."""
        self.provider.shutdown()


class _Span:
    """See `tracing.Span`."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent")

    def describe(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()


def _context(traceparent: str) -> Context:
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=Context())


class _JobAttributes(SpanProcessor):
    """Puts on every span what `logs.job_context` says at that time."""

    def on_start(self, span: SdkSpan, *_: object, **__: object) -> None:
        bound = structlog.contextvars.get_contextvars()
        span.set_attributes({name: bound[name] for name in _OF_THE_JOB if name in bound})


class RedactingExporter(SpanExporter):
    """Hands spans on without what nobody may see.

    A call that belongs to no job (a lease renewed, a sweep) would be a trace of its own, of one span, every
    few seconds: those are dropped.
    """

    def __init__(self, exporter: SpanExporter, secrets: Iterable[str]) -> None:
        self._exporter = exporter
        self._hide = hide(secrets)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`."""
        wanted = [span for span in spans if span.parent is not None or span.kind is not SpanKind.CLIENT]
        return self._exporter.export([self._clean(span) for span in wanted])

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See `SpanExporter`."""
        return self._exporter.force_flush(timeout_millis)

    def _clean(self, span: ReadableSpan) -> ReadableSpan:
        said = span.status.description
        return ReadableSpan(
            name=self._hide(span.name),
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=self._clean_attributes(span.attributes),
            events=[Event(e.name, self._clean_attributes(e.attributes), e.timestamp) for e in span.events],
            links=span.links,
            kind=span.kind,
            instrumentation_scope=span.instrumentation_scope,
            status=Status(span.status.status_code, None if said is None else self._hide(said)),
            start_time=span.start_time,
            end_time=span.end_time,
        )

    def _clean_attributes(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            name: self._clean_value(value)
            for name, value in (attributes or {}).items()
            if name not in _LEFT_OUT
        }

    def _clean_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._hide(value)
        return [self._clean_value(one) for one in value] if isinstance(value, list | tuple) else value
