from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from wearon_service_kit.logs import job_context
from wearon_service_kit.otel import OpenTelemetryTracer
from wearon_service_kit.tracing import NO_TRACER

KEY = "a-key-of-no-known-form"
SIGNED = "https://host.example/photo.jpg?token=eyJhbGciOiJIUzI1NiJ9.eyJ1cmwiOiJ4In0.c2lnbmF0dXJl"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Exported(SpanExporter):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def traced() -> SimpleNamespace:
    exported = Exported()
    tracer = OpenTelemetryTracer("test", secrets=[KEY], exporter=exported)

    def sent() -> list[ReadableSpan]:
        tracer.stop()
        return exported.spans

    return SimpleNamespace(tracer=tracer, sent=sent)


def test_secrets_are_hidden_wherever_a_span_can_hold_them() -> None:
    run = traced()
    try:
        with run.tracer.span(f"fetch {SIGNED}", attributes={"url.full": SIGNED, "url.query": "q=me"}) as span:
            span.describe({"header": f"Bearer {KEY}", "list": [SIGNED, "fine"], "number": 3})
            raise RuntimeError(f"{SIGNED} refused {KEY}")
    except RuntimeError:
        pass
    (sent,) = run.sent()
    assert sent.attributes is not None
    assert sent.attributes["number"] == 3
    assert "url.query" not in sent.attributes
    text = sent.to_json()
    for secret in (KEY, "token=ey", "q=me", "c2lnbmF0dXJl"):
        assert secret not in text
    assert "https://host.example/photo.jpg?***" in text
    assert sent.status.status_code is StatusCode.ERROR
    assert [event.name for event in sent.events] == ["exception"]


def test_span_tells_whose_job_it_belongs_to() -> None:
    run = traced()
    with job_context(request_id="req_1", session_id="s", channel="b2c", attempt=2), run.tracer.span("step"):
        pass
    (sent,) = run.sent()
    assert dict(sent.attributes or {}) == {
        "request_id": "req_1",
        "session_id": "s",
        "channel": "b2c",
        "attempt": 2,
    }


def test_call_that_belongs_to_no_job_is_not_sent() -> None:
    run = traced()
    with run.tracer.span("POST", "client"):
        pass
    with run.tracer.span("job", "consumer"), run.tracer.span("POST", "client"):
        pass
    assert [(span.name, span.kind) for span in run.sent()] == [
        ("POST", SpanKind.CLIENT),
        ("job", SpanKind.CONSUMER),
    ]


def test_span_continues_the_trace_it_is_told_and_is_linked_to_the_earlier_attempt() -> None:
    run = traced()
    with run.tracer.span("first", parent=CALLER) as first:
        pass
    with run.tracer.span("second", parent=CALLER, earlier=first.traceparent):
        pass
    one, other = run.sent()
    assert one.parent is not None and f"{one.parent.trace_id:032x}-{one.parent.span_id:016x}" in CALLER
    assert [link.context.span_id for link in other.links] == [one.context.span_id]


def test_trace_that_is_not_recorded_upstream_is_not_sent_but_handed_on() -> None:
    run = traced()
    with run.tracer.span("job", "consumer", parent=CALLER.removesuffix("01") + "00") as span:
        traceparent = span.traceparent
    assert run.sent() == []
    assert traceparent is not None and traceparent.startswith(CALLER[:35]) and traceparent.endswith("-00")


def test_no_tracer_hands_nothing_on() -> None:
    with NO_TRACER.span("step", earlier=CALLER) as span:
        span.describe({"some": "thing"})
        assert span.traceparent is None
    assert NO_TRACER.start("step", "consumer", parent=CALLER).traceparent is None
