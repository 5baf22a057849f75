"""A collector of traces: takes OTLP over HTTP as protobuf and keeps the spans."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from wearon_local.processes import wait_until


@dataclass(frozen=True)
class Span:
    """One span; ids in hexadecimal, `parent` empty for the first of a trace, `links` (trace, span)."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: list[tuple[str, str]]
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """`received`: every body, unpacked, as it came."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    def named(self, name: str, service: str = "") -> list[Span]:
        """The spans whose name begins so."""
        return [s for s in self.spans if s.name.startswith(name) and s.service.startswith(service)]

    def wait(self, name: str, *, number: int = 1, service: str = "") -> list[Span]:
        """The spans whose name begins so, once there are `number` of them."""
        wait_until(lambda: len(self.named(name, service)) >= number, timeout=30, what=f"span {name}")
        return self.named(name, service)

    def take(self, body: bytes) -> None:
        self.received.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = str(_values(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self.spans += [_span(service, span) for span in scope.spans]


def _span(service: str, span: ProtoSpan) -> Span:
    return Span(
        service=service,
        name=span.name,
        kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    def value(any_value: AnyValue) -> Any:
        kind = any_value.WhichOneof("value")
        return getattr(any_value, kind) if kind else None

    pairs: list[KeyValue] = list(attributes)
    return {pair.key: value(pair.value) for pair in pairs}


@contextmanager
def collecting(host: str = "127.0.0.1") -> Iterator[Collector]:
    """A collector at this address, on a port of its own, for `OTEL_EXPORTER_OTLP_ENDPOINT`."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            if known:
                packed = self.headers.get("Content-Encoding") == "gzip"
                collector.take(gzip.decompress(body) if packed else body)
            self.send_response(200 if known else 404)
            self.end_headers()

        def _body(self) -> bytes:
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            body = b""
            while size := int(self.rfile.readline(), 16):  # Node sends chunks
                body += self.rfile.read(size + 2)[:size]
            self.rfile.readline()
            return body

        log_message: Callable[..., None] = lambda *_: None

    with ThreadingHTTPServer((host, 0), Handler) as server:
        collector.url = f"http://{host}:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector
        server.shutdown()
