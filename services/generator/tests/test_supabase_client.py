"""What an operator is told when Supabase does not do what it was asked."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from postgrest.exceptions import APIError

from wearon_generator.supabase_client import SupabaseUnavailable, ask, connect_supabase, is_refusal
from wearon_service_kit.environment import Proxies

KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """A Supabase that gives one answer to everything; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def told(url: str) -> str:
    async def call() -> None:
        await ask(
            connect_supabase(url, KEY, connections=1, proxies=Proxies())
            .rpc("generation_schema_version", {})
            .execute
        )

    with pytest.raises(SupabaseUnavailable) as raised:
        asyncio.run(call())
    return str(raised.value)


def test_details_of_a_refused_row_are_in_no_traceback() -> None:
    row = "Failing row contains (a prompt that is nobody's business, https://x.example/photo)."
    body = {"code": "23514", "message": "violates check constraint c", "details": row, "hint": row}

    async def refused() -> None:
        raise APIError(body)

    with pytest.raises(SupabaseUnavailable) as raised:
        asyncio.run(ask(refused))
    assert is_refusal(raised.value)
    shown = "".join(traceback.format_exception(raised.value))
    assert "violates check constraint c" in shown
    assert "nobody's business" not in shown


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, json.dumps({"message": "Invalid API key", "hint": "Double check it."}), "Invalid API key"),
        (401, json.dumps({"message": "Legacy API keys are disabled"}), "Legacy API keys are disabled"),
        (540, "<html>Project paused</html>", "the Supabase project is paused"),
        (
            500,
            json.dumps({"message": "too many connections", "code": "53300"}),
            "too many connections (53300)",
        ),
        (503, json.dumps({}), "database: "),
    ],
)
def test_operator_reads_what_supabase_said(status: int, body: str, says: str) -> None:
    with answering(status, body) as url:
        said = told(url)
    assert says in said
    assert "None" not in said
    assert KEY not in said


def test_operator_reads_why_supabase_cannot_be_reached() -> None:
    assert told("http://host.invalid") == "the host name is not known (DNS)"
    assert told("http://127.0.0.1:1") == "the connection was refused: nothing listens there"


def test_long_page_of_a_proxy_is_cut() -> None:
    with answering(502, json.dumps({"message": "x" * 5000})) as url:
        assert len(told(url)) < 300
