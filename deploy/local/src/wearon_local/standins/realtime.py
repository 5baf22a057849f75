"""Stands where Supabase Realtime stands: /realtime/v1/websocket, updates of the published tables' rows.

Speaks as much of Realtime's protocol (Phoenix channels, version 2.0.0) as supabase-js needs for
`postgres_changes`: phx_join, access_token, heartbeat, phx_leave. A trigger of deploy/supabase/dev notifies of
each update; the row is then read through PostgREST with the subscriber's own token, so row-level security
decides who sees it. Two updates that follow within milliseconds may both show the later row.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import psycopg
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

NOTIFY_CHANNEL: Final = "wearon_local_realtime"
_RECONNECT_SECONDS: Final = 0.5
_UNKNOWN_KEY: Final = 4401  # close code of our own; the real one refuses the handshake


@dataclass
class _Wish:
    """One `postgres_changes` entry of a channel."""

    id: int
    table: str
    column: str | None
    value: str | None

    def matches(self, table: str, row: dict[str, Any]) -> bool:
        return table == self.table and (self.column is None or str(row.get(self.column)) == self.value)


@dataclass
class _Channel:
    topic: str
    join_ref: str | None
    token: str
    wishes: list[_Wish]


@dataclass(eq=False)
class _Subscriber:
    socket: WebSocket
    channels: dict[str, _Channel] = field(default_factory=dict)

    async def send(self, join_ref: str | None, ref: str | None, topic: str, event: str, payload: Any) -> None:
        # A subscriber that has gone is taken out by its own receiver.
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.socket.send_text(json.dumps([join_ref, ref, topic, event, payload]))


class Realtime:
    """All subscribers of one gateway, and the connection on which PostgreSQL notifies."""

    def __init__(self, database_url: str, keys: set[str], rest: httpx.AsyncClient) -> None:
        """`keys`: API keys that may connect; `rest`: a client of PostgREST."""
        self._database_url = database_url
        self._keys = keys
        self._rest = rest
        self._subscribers: set[_Subscriber] = set()
        self._ids = itertools.count(1)

    def routes(self) -> list[WebSocketRoute]:
        """The socket that supabase-js opens."""
        return [WebSocketRoute("/realtime/v1/websocket", self._serve)]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hand on updates while the block runs; a database that is unavailable is waited for."""
        task = asyncio.create_task(self._listen(), name="realtime")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _listen(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._database_url, autocommit=True
                ) as connection:
                    await connection.execute(f"listen {NOTIFY_CHANNEL}")
                    async for notice in connection.notifies():
                        told = json.loads(notice.payload)
                        await self._hand_on(told["table"], told["id"])
            except (psycopg.Error, OSError, httpx.HTTPError):
                pass  # the database or PostgREST is unavailable: both are waited for
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _hand_on(self, table: str, row_id: str) -> None:
        for subscriber in list(self._subscribers):
            for channel in list(subscriber.channels.values()):
                if any(wish.table == table for wish in channel.wishes):
                    await self._tell(subscriber, channel, table, row_id)

    async def _tell(self, subscriber: _Subscriber, channel: _Channel, table: str, row_id: str) -> None:
        answer = await self._rest.get(
            f"/{table}", params={"id": f"eq.{row_id}"}, headers={"authorization": f"Bearer {channel.token}"}
        )
        rows = answer.json() if answer.is_success else []
        for row in rows:
            ids = [wish.id for wish in channel.wishes if wish.matches(table, row)]
            if not ids:
                continue
            data = {
                "schema": "public",
                "table": table,
                "type": "UPDATE",
                "commit_timestamp": datetime.now(UTC).isoformat(),
                "columns": [{"name": name, "type": "json"} for name in row],
                "record": row,
                "old_record": {"id": row_id},
                "errors": None,
            }
            payload = {"ids": ids, "data": data}
            await subscriber.send(channel.join_ref, None, channel.topic, "postgres_changes", payload)

    async def _serve(self, socket: WebSocket) -> None:
        await socket.accept()
        key = socket.query_params.get("apikey", "")
        if key not in self._keys:
            await socket.close(_UNKNOWN_KEY)
            return
        subscriber = _Subscriber(socket)
        self._subscribers.add(subscriber)
        try:
            while True:
                await self._take(subscriber, key, json.loads(await socket.receive_text()))
        except (WebSocketDisconnect, RuntimeError):
            return
        finally:
            self._subscribers.discard(subscriber)

    async def _take(self, subscriber: _Subscriber, key: str, message: list[Any]) -> None:
        join_ref, ref, topic, event, payload = message
        response: dict[str, Any] = {}
        match event:
            case "phx_join":
                channel = self._join(topic, join_ref, key, payload)
                subscriber.channels[topic] = channel
                wanted = payload.get("config", {}).get("postgres_changes", [])
                response["postgres_changes"] = [
                    {**wish, "id": entry.id} for wish, entry in zip(wanted, channel.wishes, strict=True)
                ]
            case "access_token":
                if topic in subscriber.channels and payload.get("access_token"):
                    subscriber.channels[topic].token = payload["access_token"]
                return
            case "phx_leave":
                subscriber.channels.pop(topic, None)
        await subscriber.send(join_ref, ref, topic, "phx_reply", {"status": "ok", "response": response})
        if event == "phx_join":
            told = {
                "status": "ok",
                "extension": "postgres_changes",
                "message": "Subscribed to PostgreSQL",
                "channel": topic.removeprefix("realtime:"),
            }
            await subscriber.send(join_ref, None, topic, "system", told)

    def _join(self, topic: str, join_ref: str | None, key: str, payload: dict[str, Any]) -> _Channel:
        wishes = []
        for wish in payload.get("config", {}).get("postgres_changes", []):
            column, _, rest = (wish.get("filter") or "").partition("=")
            wishes.append(
                _Wish(next(self._ids), wish.get("table", ""), column or None, rest.removeprefix("eq."))
            )
        return _Channel(topic, join_ref, payload.get("access_token") or key, wishes)
