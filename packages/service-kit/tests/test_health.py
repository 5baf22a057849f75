"""The health server: quick answers whatever the dependencies and the clients do."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Counter

from wearon_service_kit.health import Check, CheckResult, HealthServer, Readiness

Start = Callable[[Mapping[str, Check]], HealthServer]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def starter(checks: Mapping[str, Check]) -> HealthServer:
            registry = CollectorRegistry()
            Counter("jobs", "Jobs seen", registry=registry).inc(3)
            return stack.enter_context(HealthServer(0, checks, registry, host="127.0.0.1"))

        yield starter


def ask(server: HealthServer, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes, float]:
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, dict(response.getheaders()), body, time.monotonic() - started


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def fine() -> CheckResult:
    return CheckResult(True, "answers")


def test_ready_when_every_check_is_fine(start: Start) -> None:
    status, headers, body, _ = ask(start({"redis": fine, "storage": fine}), "/ready")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "ready": True,
        "checks": {"redis": {"ok": True, "detail": "answers"}, "storage": {"ok": True, "detail": "answers"}},
    }


def test_not_ready_names_what_is_wrong_without_secrets(start: Start) -> None:
    def broken() -> CheckResult:
        raise ConnectionError("cannot reach redis://:hunter2@cache:6379/0")

    server = start({"redis": broken, "storage": lambda: CheckResult(False, "no bucket 'images'"), "x": fine})
    status, _, body, _ = ask(server, "/ready")
    assert status == 503
    checks = json.loads(body)["checks"]
    assert checks["redis"] == {
        "ok": False,
        "detail": "ConnectionError: cannot reach redis://***@cache:6379/0",
    }
    assert checks["storage"] == {"ok": False, "detail": "no bucket 'images'"}
    assert checks["x"]["ok"] is True
    assert ask(server, "/live")[0] == 200


def test_a_dependency_that_hangs_delays_no_answer_for_long(start: Start) -> None:
    release = threading.Event()
    running = []

    def hangs() -> CheckResult:
        running.append(1)
        release.wait()
        return fine()

    server = start({"redis": hangs, "other": fine})
    status, _, body, first = ask(server, "/ready")
    assert status == 503
    assert "no answer within 0.8 s" in json.loads(body)["checks"]["redis"]["detail"]
    assert json.loads(body)["checks"]["other"]["ok"] is True
    assert first < 1.5
    assert ask(server, "/ready")[3] < 0.5, "known to hang: no second wait"
    assert ask(server, "/live")[3] < 0.5
    assert len(running) == 1, "one run at a time"
    release.set()
    until(lambda: ask(server, "/ready")[0] == 200)


def test_results_are_kept_for_a_while_and_then_renewed() -> None:
    calls = []

    def counted() -> CheckResult:
        calls.append(1)
        return CheckResult(True, str(len(calls)))

    readiness = Readiness({"redis": counted}, keep_seconds=0.3)
    assert readiness.report() == (True, {"ready": True, "checks": {"redis": {"ok": True, "detail": "1"}}})
    for _ in range(5):
        readiness.results()
    assert len(calls) == 1
    until(lambda: readiness.results()["redis"].detail == "2")


def test_a_failure_is_kept_for_a_shorter_while() -> None:
    calls = []

    def failing_once() -> CheckResult:
        calls.append(1)
        return CheckResult(len(calls) > 1)

    readiness = Readiness({"redis": failing_once}, keep_seconds=30)
    assert not readiness.results()["redis"].ok
    readiness.results()
    assert len(calls) == 1
    until(lambda: readiness.results()["redis"].ok)


def test_metrics_are_those_of_the_registry(start: Start) -> None:
    status, headers, body, _ = ask(start({}), "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert b"jobs_total 3.0" in body


def ready_metrics(server: HealthServer) -> dict[str, float]:
    lines = ask(server, "/metrics")[2].decode().splitlines()
    samples = [line.rpartition(" ") for line in lines if line.startswith("wearon_ready")]
    return {labels: float(value) for labels, _, value in samples}


def test_metrics_say_of_each_check_whether_it_is_fine(start: Start) -> None:
    def broken() -> CheckResult:
        raise ConnectionError("cannot reach redis://:hunter2@cache:6379/0")

    server = start({"redis": broken, "storage": lambda: CheckResult(False), "worker": fine})
    assert ready_metrics(server) == {
        'wearon_ready{check="redis"}': 0.0,
        'wearon_ready{check="storage"}': 0.0,
        'wearon_ready{check="worker"}': 1.0,
    }


def test_metrics_run_no_check_before_they_are_asked_for_and_share_the_results_of_ready() -> None:
    calls = []

    def counted() -> CheckResult:
        calls.append(1)
        return fine()

    server = HealthServer(0, {"redis": counted}, CollectorRegistry(), host="127.0.0.1")
    assert calls == []
    with server:
        ask(server, "/ready")
        assert ready_metrics(server) == {'wearon_ready{check="redis"}': 1.0}
    assert len(calls) == 1


def test_a_dependency_that_hangs_delays_no_scrape_for_long(start: Start) -> None:
    release = threading.Event()

    def hangs() -> CheckResult:
        release.wait()
        return fine()

    server = start({"redis": hangs, "database": hangs, "worker": fine})
    status, _, body, seconds = ask(server, "/metrics")
    assert status == 200
    assert seconds < 1.5, "both are waited for at the same time"
    assert b"jobs_total 3.0" in body
    assert b'wearon_ready{check="redis"} 0.0' in body
    assert b'wearon_ready{check="worker"} 1.0' in body
    assert ask(server, "/metrics")[3] < 0.5, "known to hang: no second wait"
    release.set()
    until(lambda: 0.0 not in ready_metrics(server).values())


def test_other_paths_methods_and_queries(start: Start) -> None:
    server = start({})
    assert ask(server, "/")[0] == 404
    assert ask(server, "/live/")[0] == 404
    assert ask(server, "/../etc/passwd")[0] == 404
    assert ask(server, "/live?probe=1")[0] == 200
    assert ask(server, "/live", "POST")[0] == 501
    status, headers, body, _ = ask(server, "/ready", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    "request_line", ["GET /live HTTP/1.1", "POST / HTTP/1.1", "nonsense", "GET / HTTP/9.9"]
)
def test_no_banner_tells_what_runs_here(start: Start, request_line: str) -> None:
    with socket.create_connection(("127.0.0.1", start({}).port), timeout=10) as connection:
        connection.sendall(f"{request_line}\r\n\r\n".encode())
        answer = b""
        while received := connection.recv(4096):
            answer += received
    assert answer
    assert b"python" not in answer.lower()
    assert b"BaseHTTP" not in answer


def test_slow_and_silent_clients_do_not_block_others_and_are_dropped(start: Start) -> None:
    server = start({})
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            for _ in range(20)
        ]
        for connection in slow[:10]:
            connection.sendall(b"GET /live HT")
        assert ask(server, "/live")[3] < 1
        started = time.monotonic()
        sender = slow[0]
        sender.settimeout(0.2)
        closed = False
        while not closed and time.monotonic() - started < 15:
            try:
                sender.sendall(b"a")  # a byte at a time keeps every single read short
                closed = sender.recv(4096) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed, "a request has a total time limit"


def test_too_many_connections_are_turned_away_and_room_comes_back(start: Start) -> None:
    server = start({})
    others = threading.active_count()  # tests before may have left look-ups that never end
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        assert threading.active_count() - others < 50
    until(lambda: answers(server))


def answers(server: HealthServer) -> bool:
    try:
        return ask(server, "/live")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_the_port_is_free_again_at_once() -> None:
    first = HealthServer(0, {}, CollectorRegistry(), host="127.0.0.1")
    first.start()
    port = first.port
    assert ask(first, "/live")[0] == 200
    first.stop()
    first.stop()
    with HealthServer(port, {}, CollectorRegistry(), host="127.0.0.1") as second:
        assert ask(second, "/live")[0] == 200
        with pytest.raises(SystemExit, match="1"):
            HealthServer(port, {}, CollectorRegistry(), host="127.0.0.1").start()
