"""Logs of a service: one JSON object per line (or a readable line), every one redacted.

Lines of structlog and of the standard library's `logging` (Celery, uvicorn, redis, asyncio, warnings,
uncaught exceptions) take the same way out, so neither escapes the redaction.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from wearon_service_kit.redaction import hide, redact

__all__ = ["configure_logging", "job_context", "redact"]

# They log every request with its full URL, its headers or its body at INFO or DEBUG.
_CHATTY: Final = (
    *("httpx", "httpx2", "httpcore", "httpcore2", "openai", "hpack", "urllib3", "uvicorn.access"),
    *("PIL", "asyncio", "matplotlib"),
)
# They bring handlers of their own that would print past ours.
_OWN_HANDLERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task", "py.warnings")


def configure_logging(
    service: str,
    level: str,
    fmt: Literal["json", "console"],
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard output) as `fmt`, from `level` up.

    `secrets` are the process's own keys (`ServiceSettings.secret_values()`): they are hidden wherever they
    appear, whatever they look like. Call once, before the first line is logged.
    """
    minimum = logging.getLevelNamesMapping()[level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _in_reading_order(service),
    ]
    output = stream or sys.stdout
    renderers: list[Processor]
    if fmt == "json":
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        renderers = [structlog.dev.ConsoleRenderer(colors=output.isatty(), exception_formatter=plain)]

    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *renderers,
                _redact_line(secrets),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(minimum)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(minimum, logging.WARNING))
    for name in _OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # A handler that fails would otherwise print the record to stderr, unredacted.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    # Straight to the stream: through the standard library a line costs more than twice as much.
    structlog.configure(
        processors=[*shared, *renderers, _redact_line(secrets)],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=lambda *names: _LineLogger(names[0] if names else "root", handler),
        cache_logger_on_first_use=True,
    )
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class _LineLogger:
    """Writes finished lines to the stream of `handler`, one at a time with those of the standard library."""

    def __init__(self, name: str, handler: logging.StreamHandler[TextIO]) -> None:
        self.name = name
        self._handler = handler

    def write(self, line: str) -> None:
        """Errors of the stream are dropped, as the handler drops its own."""
        with self._handler.lock or nullcontext(), suppress(OSError, ValueError):
            self._handler.stream.write(line + self._handler.terminator)
            self._handler.stream.flush()

    debug = info = warning = warn = error = critical = fatal = exception = msg = log = write


@contextmanager
def job_context(
    *,
    request_id: str | None = None,
    session_id: str | None = None,
    channel: str | None = None,
    **more: object,
) -> Iterator[None]:
    """Put these on every line logged inside, in this thread or task and in tasks started from it.

    None is left out. Contexts nest; the outer one is back afterwards.
    """
    fields = {"request_id": request_id, "session_id": session_id, "channel": channel, **more}
    with structlog.contextvars.bound_contextvars(
        **{name: value for name, value in fields.items() if value is not None}
    ):
        yield


def _in_reading_order(service: str) -> Processor:
    """Adds the service and puts first what a person looks for first."""

    def order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        first = {name: event.pop(name, None) for name in ("timestamp", "level", "event")}
        return {**first, "service": service, **event}

    return order


def _redact_line(secrets: Iterable[str]) -> Processor:
    """The last processor: works on the rendered line, so that no value, key or traceback gets around it."""
    clean = hide(secrets)

    def redact_line(_logger: WrappedLogger, _method: str, line: Any) -> str:
        return clean(str(line))

    return redact_line


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    thread = args.thread.name if args.thread else "unknown"
    logging.getLogger(__name__).critical(
        "uncaught exception in thread %s",
        thread,
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )
