"""The gateway as a browser meets it: pages of any origin, and row updates through Realtime's socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from wearon_local.app.next_app import Job
from wearon_local.stack import Stack

TOPIC = "realtime:generation"


@contextmanager
def socket_of(stack: Stack, key: str) -> Iterator[ClientConnection]:
    url = stack.gateway_url.replace("http://", "ws://")
    with connect(f"{url}/realtime/v1/websocket?apikey={key}&vsn=2.0.0") as socket:
        yield socket


def join(socket: ClientConnection, job: Job, token: str) -> None:
    """Subscribe to the job's row as supabase-js does; returns when the server has agreed."""
    changes = [
        {"event": "UPDATE", "schema": "public", "table": job.table, "filter": f"id=eq.{job.session_id}"}
    ]
    payload = {"config": {"postgres_changes": changes}, "access_token": token}
    socket.send(json.dumps(["1", "1", TOPIC, "phx_join", payload]))
    reply = receive(socket)
    assert reply["event"] == "phx_reply"
    assert reply["payload"]["status"] == "ok"
    [agreed] = reply["payload"]["response"]["postgres_changes"]
    assert {name: agreed[name] for name in changes[0]} == changes[0]
    assert receive(socket)["event"] == "system"


def receive(socket: ClientConnection, timeout: float = 20) -> dict[str, Any]:
    join_ref, ref, topic, event, payload = json.loads(socket.recv(timeout=timeout))
    return {"join_ref": join_ref, "ref": ref, "topic": topic, "event": event, "payload": payload}


def set_status(stack: Stack, job: Job, status: str) -> None:
    with stack.postgres.connect() as database:
        database.execute(f"update {job.table} set status = %s where id = %s", (status, job.session_id))


def test_owner_is_told_of_an_update_and_a_stranger_is_not(stack: Stack) -> None:
    owner, stranger = stack.app.create_user(), stack.app.create_user()
    job, other = stack.app.b2c_job(owner), stack.app.b2c_job(stranger)
    with socket_of(stack, stack.anon_key) as mine, socket_of(stack, stack.anon_key) as theirs:
        join(mine, job, stack.app.user_token(owner))
        join(theirs, job, stack.app.user_token(stranger))
        set_status(stack, job, "processing")
        told = receive(mine)
        assert told["event"] == "postgres_changes"
        assert told["payload"]["data"]["type"] == "UPDATE"
        assert told["payload"]["data"]["record"]["status"] == "processing"
        # Whatever is told of the first job would come before the answer to this.
        set_status(stack, other, "processing")
        theirs.send(json.dumps([None, "9", "phoenix", "heartbeat", {}]))
        assert receive(theirs)["ref"] == "9"


def test_token_may_be_sent_after_the_join(stack: Stack) -> None:
    owner = stack.app.create_user()
    job = stack.app.b2c_job(owner)
    with socket_of(stack, stack.anon_key) as socket:
        join(socket, job, stack.anon_key)
        token = {"access_token": stack.app.user_token(owner)}
        socket.send(json.dumps(["1", "2", TOPIC, "access_token", token]))
        socket.send(json.dumps([None, "3", "phoenix", "heartbeat", {}]))
        assert receive(socket)["ref"] == "3"
        set_status(stack, job, "processing")
        assert receive(socket)["payload"]["data"]["record"]["id"] == str(job.session_id)


def test_socket_with_an_unknown_key_is_closed(stack: Stack) -> None:
    with socket_of(stack, "unknown") as socket, pytest.raises(ConnectionClosed):
        socket.recv(timeout=20)


@pytest.mark.parametrize("path", ["/rest/v1/generation_sessions", "/storage/v1/object/sign/images/x.jpg"])
def test_page_of_any_origin_may_call(stack: Stack, path: str) -> None:
    origin = {"Origin": "https://shop.example"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "apikey"}
    preflight = httpx.options(f"{stack.gateway_url}{path}", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "apikey" in preflight.headers["access-control-allow-headers"]
    answer = httpx.get(f"{stack.gateway_url}{path}", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "*"
