"""What every HTTP request gets: an id, a line in the log, a place in the metrics, no bare failure."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.logs import job_context
from wearon_service_kit.tracing import Tracer
from wearon_sizing.answers import problem
from wearon_sizing.metrics import Metrics

# The largest valid request has some 115 KiB: two URLs of 8,192 characters and a chart of 40 rows, with every
# letter that is not ASCII written as six, which JSON allows.
MOST_BYTES: Final = 128 * 1024
# Seconds from the first to the last byte of a body. Its client gives up after 5 s altogether; what drips in
# more slowly only keeps a connection.
BODY_SECONDS: Final = 5.0
TOO_LARGE: Final = "The request is too large."
CLIENT_GONE: Final = 499  # a status for the log and the metrics, which nobody receives
_ACCEPTABLE_ID: Final = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
# Called every few seconds by machines; a line for each would bury the others.
QUIET: Final = frozenset({"/health", "/live", "/ready", "/metrics"})

_log = structlog.get_logger(__name__)


def request_id_of(scope: Scope) -> str:
    """The id that `RequestMiddleware` gave this request."""
    request_id: str = scope["state"]["request_id"]
    return request_id


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class StalledBodyError(Exception):
    """The body of a request is not complete after `BODY_SECONDS`."""


class RequestMiddleware:
    """ASGI middleware. The id is taken from X-Request-Id when that is plain text of up to 128 characters."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str], tracer: Tracer) -> None:
        self._tracer = tracer
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ACCEPTABLE_ID.fullmatch(given) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        path = scope["path"] if scope["path"] in self._paths else "other"
        status = 0
        start = time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        # The span of the request began before its id was known.
        self._tracer.describe({"request_id": request_id})
        with job_context(request_id=request_id):
            try:
                body = await _read(receive)
                if body is None:
                    self._metrics.refused(ErrorCode.REQUEST_INVALID, TOO_LARGE)
                    answer = problem(ErrorCode.REQUEST_INVALID, request_id, TOO_LARGE)
                    await JSONResponse(answer, 413)(scope, receive, note_status)
                else:
                    await self._app(scope, _replayed(body, receive), note_status)
            except ClientGoneError:
                self._metrics.abandoned.inc()
                status = CLIENT_GONE
            except StalledBodyError:
                self._metrics.refused(ErrorCode.REQUEST_TIMEOUT)
                # With the connection closed after it, so that the rest of the body is not waited for.
                answer = problem(ErrorCode.REQUEST_TIMEOUT, request_id)
                await JSONResponse(answer, 408, {"Connection": "close"})(scope, receive, note_status)
            except Exception:
                _log.exception("request_failed", path=path)
                self._metrics.refused(ErrorCode.INTERNAL_ERROR)
                if status:
                    raise
                answer = problem(ErrorCode.INTERNAL_ERROR, request_id)
                await JSONResponse(answer, 500)(scope, receive, note_status)
            seconds = time.perf_counter() - start
            self._metrics.requests.labels(path, str(status)).observe(seconds)
            log = _log.debug if path in QUIET else _log.info
            log("request", method=scope["method"], path=path, status=status, ms=round(seconds * 1000, 1))


async def _read(receive: Receive) -> bytes | None:
    """The body of a request, or None once there is more of it than any valid one has.

    Raises StalledBodyError when it is not there in time, ClientGoneError when its sender has left.
    """
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part: bytes = message.get("body", b"")
                body += part
                if len(body) > MOST_BYTES:
                    return None
                if not message.get("more_body", False):
                    return body
    except TimeoutError as error:
        raise StalledBodyError from error


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once, then what still comes from the client: that it has gone."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
