"""Spans of a process, or none: OpenTelemetry is imported only where a collector is named.

A trace travels as the text of a `traceparent` (W3C Trace Context), in the task and in the messages made of
it. What `logs.job_context` says of request, session and attempt stands on every span that begins inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal, Protocol

import structlog

from wearon_service_kit.settings import ServiceSettings

log = structlog.get_logger()

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "client", "consumer"]


class Span(Protocol):
    """One step of a trace."""

    @property
    def traceparent(self) -> str | None:
        """What makes another process's span a child of this one; None where nothing is traced."""
        ...

    def describe(self, attributes: Attributes) -> None:
        """Add to its attributes."""
        ...

    def fail(self, kind: str) -> None:
        """It did not do what it is named after, for a reason of this kind (an error code)."""
        ...

    def end(self) -> None:
        """It is over; only for a span that was made by `start`."""
        ...


class Tracer(Protocol):
    """Makes the spans of a process."""

    def start(
        self, name: str, kind: Kind, attributes: Attributes | None = None, *, parent: str | None = None
    ) -> Span:
        """A span that its caller ends; `parent`: a `traceparent`, None for a new trace."""
        ...

    def span(
        self,
        name: str,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        *,
        parent: str | None = None,
        earlier: str | None = None,
    ) -> AbstractContextManager[Span]:
        """A span around a block; spans begun inside are its children. An exception marks it as failed.

        `parent`: a `traceparent`; None: the span around this block, if there is one. `earlier`: the
        `traceparent` of a span that tried the same before; the new one is linked to it.
        """
        ...

    def describe(self, attributes: Attributes) -> None:
        """Add to the attributes of the span around this block, whoever made it."""
        ...

    @property
    def provider(self) -> Any | None:
        """OpenTelemetry's TracerProvider, for libraries that make their own spans; None: they make none."""
        ...

    def stop(self) -> None:
        """Send what is not sent yet; takes as long as the exporter's timeout at most."""
        ...


class _NoSpan:
    traceparent = None

    def describe(self, attributes: Attributes) -> None:
        pass

    def fail(self, kind: str) -> None:
        pass

    def end(self) -> None:
        pass


_NO_SPAN: Final = _NoSpan()
_NO_BLOCK: Final[AbstractContextManager[Span]] = nullcontext(_NO_SPAN)


class NoTracer:
    """Traces nothing; see `Tracer`."""

    provider = None

    def start(
        self, name: str, kind: Kind, attributes: Attributes | None = None, *, parent: str | None = None
    ) -> Span:
        """See `Tracer`."""
        return _NO_SPAN

    def span(
        self,
        name: str,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        *,
        parent: str | None = None,
        earlier: str | None = None,
    ) -> AbstractContextManager[Span]:
        """See `Tracer`."""
        return _NO_BLOCK

    def describe(self, attributes: Attributes) -> None:
        """See `Tracer`."""

    def stop(self) -> None:
        """See `Tracer`."""


NO_TRACER: Final[Tracer] = NoTracer()


def start_tracing(service: str, settings: ServiceSettings) -> Tracer:
    """The tracer of this process, `NO_TRACER` unless the settings name a collector. Call once.

    `service`: its name in the traces, unless OTEL_SERVICE_NAME says another.
    """
    if not settings.traced:
        return NO_TRACER
    try:
        # Only those pay for the import who want traces; most images do not have it at all.
        from wearon_service_kit.otel import OpenTelemetryTracer  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        log.error(
            "traces_not_installed",
            missing=missing.name,
            what_to_do="build the image with --build-arg TRACING=1, or unset OTEL_EXPORTER_OTLP_ENDPOINT",
        )
        return NO_TRACER
    return OpenTelemetryTracer(service, secrets=settings.secret_values())
