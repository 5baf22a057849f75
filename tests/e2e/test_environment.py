"""Whatever a variable that a library reads by itself says: a service works as before, or says so and ends."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from integration.tryons import TryOns

from wearon_local.processes import wait_until
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # starts each service anew, many times

ABSURD: Final = "absurd, at %best"
NOWHERE: Final = "http://proxy.invalid:9"
ROOT: Final = Path(__file__).resolve().parents[2]

ENDS: Final = {
    # Set to this, the generator ends with one line that names the variable.
    "OPENAI_BASE_URL": ABSURD,
    "OPENAI_ORG_ID": ABSURD,
    "OPENAI_PROJECT_ID": ABSURD,
    "OPENAI_CUSTOM_HEADERS": ABSURD,
    "CELERY_BROKER_URL": "redis://elsewhere.invalid:1/0",
    "PROMETHEUS_MULTIPROC_DIR": "/no/such/folder",
    "HTTP_PROXY": ABSURD,
    "https_proxy": ABSURD,
    "ALL_PROXY": "socks5://proxy.invalid:9",
    "SSL_CERT_FILE": "/no/such/file",
}
WORKS: Final = {
    # With all of these it works as before.
    "OPENAI_ORG_ID": "",
    "OPENAI_PROJECT_ID": "",
    "OPENAI_CUSTOM_HEADERS": "",
    "OPENAI_WEBHOOK_SECRET": ABSURD,
    "CELERY_BROKER_URL": "",
    "WEB_CONCURRENCY": ABSURD,
    "FORWARDED_ALLOW_IPS": ABSURD,
    "HTTP_PROXY": NOWHERE,
    "HTTPS_PROXY": NOWHERE,
    "ALL_PROXY": NOWHERE,
    "NO_PROXY": ABSURD,
    "SSL_CERT_FILE": "",
}


@pytest.mark.parametrize("name", ENDS)
def test_generator_ends_with_one_line_that_names_the_variable(tmp_path: Path, name: str) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SUPABASE_URL": "http://127.0.0.1:1",
        "SUPABASE_SERVICE_ROLE_KEY": "key-of-a-test",
        "OPENAI_API_KEY": "sk-key-of-a-test",
        name: ENDS[name],
    }
    command = [sys.executable, "-m", "wearon_generator"]
    ended = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert name.upper() in line


def test_all_services_work_as_before_with_the_others_set_to_nonsense() -> None:
    with Stack() as stack:
        for service in ("consumer", "generator", "sizing-api"):
            stack.start_service(service, WORKS)
        tryons = TryOns(stack)
        tryon = tryons.order()
        tryons.wait_settled(tryon)
        tryons.assert_completed(tryon)
        (call,) = stack.openai.calls()
        assert not {"openai-organization", "openai-project"} & set(call["headers"])
        sizing = stack.services[-1]
        assert httpx.get(f"{sizing.url}/health", trust_env=False).json()["status"] == "ok"


@contextlib.contextmanager
def connect_proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that notes what it is asked to connect to, and connects to nothing."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(4096).decode(errors="replace").split("\r\n")[0])
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        finally:
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_try_real_with_a_blank_base_url_asks_for_openai_through_the_proxy(
    tmp_path: Path, variable: str
) -> None:
    with connect_proxy() as (proxy, asked):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "OPENAI_API_KEY": "sk-key-of-a-test",
            "OPENAI_BASE_URL": "",
            variable: proxy,
            "HTTP_PROXY": NOWHERE,
        }
        command = [sys.executable, str(ROOT / "deploy/tools/try_real.py")]
        with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as trial:
            try:
                wait_until(lambda: asked, timeout=120, what="a request at the proxy")
            finally:
                trial.terminate()
                trial.wait(60)
    assert set(asked) == {"CONNECT api.openai.com:443 HTTP/1.1"}
