"""Faults that a test puts between a client and one of the stack's HTTP servers, and a record of its requests.

Control endpoints, added to each server that uses `FaultInjection` (never part of anything that ships):

    POST   /_control/faults        a fault (see `Fault`), answers {"id": n}
    GET    /_control/faults        all of them with how often each struck
    DELETE /_control/faults        take all out; /_control/faults/{id} one
    GET    /_control/requests      what was asked and answered, oldest first; DELETE forgets it
    GET    /_control/health        {"ok": true}

A request with the header `x-wearon-local: direct` is neither struck nor recorded: tests ask so themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import struct
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_KEPT_REQUESTS: Final = 50_000
_DIRECT: Final = (b"x-wearon-local", b"direct")
_SECRET_PARAMETERS: Final = {"token", "apikey"}

Action = Literal["status", "delay", "hang", "drop", "reset", "lose_answer", "late_answer"]


class Fault(BaseModel):
    """What goes wrong, for which requests and how often.

    Actions: `status` answers `status`, `body`, `headers` without doing the work; `delay` waits `seconds`,
    then does it, even if the client has gone; `hang` never answers; `drop` closes the connection and `reset`
    resets it once the request is read; `lose_answer` does the work and closes the connection instead of
    answering; `late_answer` does the work and answers after `seconds`. Delays of several matching faults add
    up; of the others the first one counts.
    """

    model_config = ConfigDict(extra="forbid")

    action: Action
    method: str | None = None
    path: str = Field(default="", description="Regular expression, searched in the decoded path.")
    contains: str | None = Field(default=None, description="Text the request body must hold.")
    status: int = 500
    body: Any = None
    headers: dict[str, str] = {}
    seconds: float = 0.0
    times: int | None = Field(default=1, ge=1, description="How often it strikes; null: until taken out.")
    skip: int = Field(default=0, ge=0, description="How many matching requests are let through first.")
    for_seconds: float | None = Field(default=None, description="Until when it strikes, from now.")

    @model_validator(mode="after")
    def _path_compiles(self) -> Fault:
        try:
            re.compile(self.path)
        except re.error as error:
            raise ValueError(f"path is not a regular expression: {error}") from error
        return self


@dataclass
class _Armed:
    id: int
    fault: Fault
    since: float = field(default_factory=time.monotonic)
    seen: int = 0
    struck: int = 0

    def strikes(self, method: str, path: str, body: bytes) -> bool:
        fault = self.fault
        over = fault.for_seconds is not None and time.monotonic() > self.since + fault.for_seconds
        used_up = fault.times is not None and self.struck >= fault.times
        meant = (
            (fault.method is None or fault.method.upper() == method)
            and re.search(fault.path, path) is not None
            and (fault.contains is None or fault.contains.encode() in body)
        )
        if over or used_up or not meant:
            return False
        self.seen += 1
        if self.seen <= fault.skip:
            return False
        self.struck += 1
        return True


@dataclass(slots=True)
class RequestRecord:
    """One request as it came and went; `status` is None unless answered, `seconds` until it is over."""

    at: float
    method: str
    path: str
    query: str
    bytes_in: int
    faults: list[int]
    status: int | None = None
    seconds: float | None = None


class FaultInjection:
    """ASGI middleware: reads each request in full, lets the armed faults strike, keeps the record."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = itertools.count(1)
        self._armed: list[_Armed] = []
        self._requests: deque[RequestRecord] = deque(maxlen=_KEPT_REQUESTS)

    def routes(self) -> list[Route]:
        """The control endpoints, to be mounted beside the server's own routes."""
        return [
            Route("/_control/health", self._health),
            Route("/_control/faults", self._faults, methods=["GET", "POST", "DELETE"]),
            Route("/_control/faults/{id:int}", self._remove_fault, methods=["DELETE"]),
            Route("/_control/requests", self._records, methods=["GET", "DELETE"]),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_control/") or _DIRECT in scope["headers"]:
            await self._app(scope, receive, send)
            return
        started = time.time()
        body = await _read_all(receive)
        if body is None:
            return
        method, path = scope["method"], scope["path"]
        striking = [a for a in self._armed if a.strikes(method, path, body)]
        record = RequestRecord(
            at=started,
            method=method,
            path=path,
            query=_without_secrets(scope["query_string"].decode("latin-1")),
            bytes_in=len(body),
            faults=[a.id for a in striking],
        )
        self._requests.append(record)

        async def send_noted(message: Message) -> None:
            # Before it is sent: a client that has its answer finds the record complete.
            if message["type"] == "http.response.start":
                record.status = message["status"]
                record.seconds = round(time.time() - started, 4)
            await send(message)

        await self._answer(scope, _replayed(body, receive), send_noted, striking)
        if record.seconds is None:
            record.seconds = round(time.time() - started, 4)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, striking: list[_Armed]) -> None:
        for armed in striking:
            if armed.fault.action == "delay":
                await asyncio.sleep(armed.fault.seconds)
        final = next((a.fault for a in striking if a.fault.action != "delay"), None)
        if final is None:
            await self._app(scope, receive, send)
            return
        match final.action:
            case "status":
                await _failure(final)(scope, receive, send)
            case "hang":
                await until_gone(receive)
            case "drop" | "reset":
                await close_connection(scope, receive, reset=final.action == "reset")
            case "lose_answer":
                await self._app(scope, receive, _nowhere)
                await close_connection(scope, receive, reset=False)
            case "late_answer":
                answer: list[Message] = []
                await self._app(scope, receive, _into(answer))
                await asyncio.sleep(final.seconds)
                for message in answer:
                    await send(message)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"ok": True})

    async def _faults(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._armed.clear()
            return Response(status_code=204)
        if request.method == "POST":
            try:
                armed = _Armed(next(self._ids), Fault.model_validate_json(await request.body()))
            except ValidationError as error:
                return JSONResponse({"error": str(error)}, status_code=422)
            self._armed.append(armed)
            return JSONResponse({"id": armed.id}, status_code=201)
        return JSONResponse([{"id": a.id, "struck": a.struck, **a.fault.model_dump()} for a in self._armed])

    async def _remove_fault(self, request: Request) -> Response:
        self._armed = [a for a in self._armed if a.id != request.path_params["id"]]
        return Response(status_code=204)

    async def _records(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._requests.clear()
            return Response(status_code=204)
        return JSONResponse([asdict(r) for r in self._requests])


class ClosableConnections(H11Protocol):
    """Lets an application close the connection it was called over: its transport is in scope["state"]."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


async def close_connection(scope: Scope, receive: Receive, *, reset: bool) -> None:
    """End the connection without an answer: with FIN, or with RST if `reset`."""
    transport: asyncio.Transport = scope["state"]["transport"]
    if reset:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await until_gone(receive)


async def until_gone(receive: Receive) -> None:
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_all(receive: Receive) -> bytes | None:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting = [body]

    async def receive_again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again


async def _nowhere(_: Message) -> None:
    pass


def _into(answer: list[Message]) -> Send:
    async def send(message: Message) -> None:
        answer.append(message)

    return send


def _failure(fault: Fault) -> Response:
    if isinstance(fault.body, str):
        return Response(fault.body, fault.status, fault.headers, media_type="text/plain")
    body = fault.body if fault.body is not None else {"message": f"injected fault: {fault.status}"}
    return JSONResponse(body, fault.status, fault.headers)


def _without_secrets(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return urlencode([(k, "…" if k in _SECRET_PARAMETERS else v) for k, v in pairs], safe="…*,().")
