"""Log lines of a service: their form, their context, and that nothing escapes the redaction."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Literal
from unittest.mock import ANY
from uuid import UUID

import pytest
import structlog

from wearon_service_kit.logs import configure_logging, job_context

SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions, sys.excepthook, threading.excepthook)
    yield
    root.handlers[:], root.level, logging.raiseExceptions, sys.excepthook, threading.excepthook = before
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def configured(fmt: Literal["json", "console"] = "json", level: str = "INFO") -> io.StringIO:
    stream = io.StringIO()
    configure_logging("generator", level, fmt, secrets=[SECRET], stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_when_what_who_and_for_which_job() -> None:
    stream = configured()
    with job_context(request_id="r1", session_id="s1", channel="b2c", attempt=2, store_id=None):
        structlog.get_logger("wearon.pipeline").info("image fetched", bytes=123)
    structlog.get_logger("wearon.pipeline").info("idle")
    inside, outside = lines(stream)
    assert list(inside)[:4] == ["timestamp", "level", "event", "service"]
    assert inside["timestamp"].endswith("Z")
    del inside["timestamp"]
    assert inside == {
        "level": "info",
        "event": "image fetched",
        "service": "generator",
        "logger": "wearon.pipeline",
        "request_id": "r1",
        "session_id": "s1",
        "channel": "b2c",
        "attempt": 2,
        "bytes": 123,
    }
    assert "request_id" not in outside


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("half a pair \ud83d", "half a pair \ud83d"),
        ("line\u2028separator", "line\u2028separator"),
        ("naïve", "naïve"),
        (b"\xff\x00", ANY),
        (object(), ANY),
        (float("inf"), float("inf")),
        ({"nested": {1, 2}}, ANY),
        (ValueError("wrong"), "ValueError('wrong')"),
        (UUID(int=1), ANY),
    ],
)
def test_any_value_makes_one_line_of_json(value: object, written: object) -> None:
    stream = configured()
    structlog.get_logger("wearon").info("odd", value=value)
    (line,) = lines(stream)
    assert line["value"] == written


def test_contexts_nest_and_are_inherited_by_tasks_but_not_shared_between_them() -> None:
    stream = configured()
    log = structlog.get_logger("t")

    async def job(name: str) -> None:
        with job_context(request_id=name):
            log.info("before")
            await asyncio.sleep(0)
            await asyncio.gather(child(), child())
            log.info("after")

    async def child() -> None:
        with job_context(session_id="inner"):
            await asyncio.sleep(0)
            log.info("child")

    async def both() -> None:
        await asyncio.gather(job("one"), job("two"))

    asyncio.run(both())
    for name in ("one", "two"):
        events = [line["event"] for line in lines(stream) if line["request_id"] == name]
        assert events == ["before", "child", "child", "after"]
    assert all(("session_id" in line) == (line["event"] == "child") for line in lines(stream))


def test_a_coroutine_sent_to_another_threads_loop_keeps_the_job() -> None:
    stream = configured()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def work() -> None:
        structlog.get_logger("t").info("on the loop")

    with job_context(request_id="r1"):
        asyncio.run_coroutine_threadsafe(work(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
    assert lines(stream)[0]["request_id"] == "r1"


def test_the_standard_librarys_lines_take_the_same_form_and_context() -> None:
    stream = configured()
    with job_context(request_id="r1"):
        logging.getLogger("celery.worker").warning("lost %s", "redis://:pw@cache/0")
    warnings.warn("careful: token=abcdef", stacklevel=1)
    celery, warned = lines(stream)
    assert (celery["event"], celery["level"], celery["request_id"], celery["logger"]) == (
        "lost redis://***@cache/0",
        "warning",
        "r1",
        "celery.worker",
    )
    assert "abcdef" not in warned["event"]
    assert "careful" in warned["event"]


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_secrets_are_hidden_in_values_keys_tracebacks_and_whatever_else(
    fmt: Literal["json", "console"],
) -> None:
    stream = configured(fmt)
    log = structlog.get_logger("t")
    url = "https://x.supabase.co/storage/v1/object/sign/a.jpg?token=eyJhbGciOi.eyJleHAi.abc"
    log.info(f"see {url}", url=url, nested={"list": [url], "apikey": "zzzzzz"}, raw=url.encode())
    log.info("configured", **{SECRET: f"with {SECRET}"})
    try:
        raise ValueError(f"Bearer abcdefghijkl {SECRET}")
    except ValueError:
        log.exception("failed")
        logging.getLogger("other").exception("failed too")
    log.info("picture", b64_json="QUJD" * 1000)
    text = stream.getvalue()
    for secret in ("eyJ", "zzzzzz", SECRET, "abcdefghijkl", "QUJDQUJD"):
        assert secret not in text
    assert text.count("ValueError") >= 2, "tracebacks are there"
    assert text.count("Traceback") == 2


def test_libraries_that_log_urls_and_bodies_are_quiet_but_can_warn() -> None:
    stream = configured(level="DEBUG")
    for name in (
        "httpx",
        "httpx2",
        "httpcore.connection",
        "openai._base_client",
        "uvicorn.access",
        "urllib3",
    ):
        logging.getLogger(name).debug("GET /a?b")
        logging.getLogger(name).info("GET /a?b")
    assert stream.getvalue() == ""
    logging.getLogger("httpx").warning("slow")
    assert lines(stream)[0]["event"] == "slow"


def test_handlers_that_libraries_installed_do_not_print_a_second_time() -> None:
    own = io.StringIO()
    library = logging.getLogger("uvicorn.error")
    library.setLevel(logging.NOTSET)  # a server that another test started may have said WARNING
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    stream = configured()
    library.info("started")
    assert own.getvalue() == ""
    assert [line["event"] for line in lines(stream)].count("started") == 1


def test_lines_below_the_level_are_dropped() -> None:
    stream = configured(level="WARNING")
    structlog.get_logger("t").info("no")
    logging.getLogger("t").info("no")
    structlog.get_logger("t").warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_a_line_that_cannot_be_formatted_is_not_printed_raw(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    logging.getLogger("t").warning("%d", f"not a number, {SECRET}")
    assert capsys.readouterr() == ("", "")


def test_an_uncaught_exception_is_a_redacted_log_line() -> None:
    script = (
        "import threading\n"
        "from wearon_service_kit.logs import configure_logging\n"
        "configure_logging('consumer', 'INFO', 'json')\n"
        "def fail(): raise RuntimeError('redis://:hunter2@cache/0')\n"
        "thread = threading.Thread(target=fail, name='worker-1'); thread.start(); thread.join()\n"
        "fail()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == ""
    in_thread, in_main = (json.loads(line) for line in done.stdout.splitlines())
    assert in_thread["event"] == "uncaught exception in thread worker-1"
    assert in_main["event"] == "uncaught exception"
    for line in (in_thread, in_main):
        assert line["level"] == "critical"
        assert "RuntimeError: redis://***@cache/0" in line["exception"]


def test_the_console_form_is_for_people() -> None:
    stream = configured("console")
    with job_context(request_id="r1"):
        structlog.get_logger("t").info("job started", images=2)
    line = stream.getvalue()
    assert "job started" in line
    assert "images=2" in line
    assert "request_id=r1" in line
    assert "\x1b[" not in line, "no colours where nobody sees them"
