"""The operator's command line against a running stack: what it shows, what it does, what it refuses."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from psycopg.types.json import Jsonb
from tests.integration.tryons import TryOns

from wearon_contracts.queues import (
    DEAD_LETTER_LIST,
    INTAKE_STOPPED,
    INVALID_IN_A_ROW,
    LANE_IN_WORK_PREFIX,
    LANE_NEXT,
    LANE_PARKED,
    LANE_PREFIX,
    LANE_RULES,
    TASK_LIST,
    TASKS_KEPT,
    inflight_list,
)
from wearon_generator.operations.cli import main
from wearon_generator.presence import PAUSED_KEY, REPLICA_PREFIX
from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON, Job
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

# Every command of the operator, against a running stack.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("services")]

SETTINGS = ("REDIS_URL", "SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "STORAGE_BUCKET")


@pytest.fixture(scope="module")
def services(stack: Stack) -> list[Service]:
    return [
        stack.start_service("consumer"),
        stack.start_service("generator", {"STUCK_AFTER_SECONDS": "3600"}),
    ]


@pytest.fixture
def tryons(stack: Stack, services: list[Service]) -> TryOns:
    return TryOns(stack)


Ctl = Callable[..., Result]


@pytest.fixture
def ctl(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """`wearonctl` with these arguments, in an empty folder and with nothing but the stack's settings."""
    monkeypatch.chdir(tmp_path)
    given = stack.env_for("generator")
    env = {name: given[name] for name in SETTINGS} | {"STUCK_AFTER_SECONDS": "300"}

    def run(*arguments: str, **settings: str | None) -> Result:
        return CliRunner(env=env | settings).invoke(main, arguments)

    return run


@pytest.fixture
def ask(ctl: Ctl) -> Callable[..., Any]:
    """What a command that must succeed answers as JSON."""

    def run(*arguments: str, **settings: str | None) -> Any:
        result = ctl("--json", *arguments, **settings)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run


def dead_letter(stack: Stack, element: bytes) -> dict[str, Any]:
    """Push an element that is no valid task and wait until it is set aside."""
    with stack.redis.client() as redis:
        before = redis.llen(DEAD_LETTER_LIST)
        stack.app.push_raw(element)
        wait_until(lambda: redis.llen(DEAD_LETTER_LIST) > before, timeout=10, what="a dead letter")
        letter: dict[str, Any] = json.loads(redis.lindex(DEAD_LETTER_LIST, 0))
    return letter


def newest_id(ask: Callable[..., Any]) -> str:
    return str(ask("dead", "list", "--limit", "1")[0]["id"])


# ------------------------------------------------------------------ how it is called


COMMANDS = [
    ["status"],
    ["pause"],
    ["resume"],
    ["lanes"],
    ["lanes", "set"],
    ["lanes", "rules"],
    ["lanes", "drain"],
    ["intake", "show"],
    ["intake", "resume"],
    ["dead", "list"],
    ["dead", "show"],
    ["dead", "requeue"],
    ["dead", "drop"],
    ["session"],
    ["flagged"],
    ["looked-at"],
    ["cancel"],
    ["reap"],
    ["costs"],
    *(
        ["webhooks", name]
        for name in ("add", "list", "test", "rotate", "disable", "enable", "deliveries", "resend")
    ),
    ["retention"],
    ["erase"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_knows_json(ctl: Ctl, command: list[str]) -> None:
    result = ctl(*command, "--help")
    assert result.exit_code == 0
    description, _, options = result.stdout.partition("Options:")
    assert len(description.split()) > 6
    assert "--json" in options


def test_json_may_stand_before_or_after_the_command(ctl: Ctl, services: list[Service]) -> None:
    for arguments in (["--json", "status"], ["status", "--json"]):
        assert "queues" in json.loads(ctl(*arguments).stdout)


def test_missing_and_wrong_settings_are_one_line_and_exit_code_2(ctl: Ctl) -> None:
    result = ctl("status", SUPABASE_URL=None, REDIS_URL="http://nowhere")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "SUPABASE_URL" in line and "REDIS_URL" in line


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["erase"], {}),
        (["erase", "--session", str(uuid4()), "--user", str(uuid4())], {}),
        (["session", "no-uuid"], {}),
        (["dead", "list", "--limit", "0"], {}),
        (["costs", "--days", "0"], {}),
        (["flagged", "--limit", "-1"], {}),
        (["flagged", "--limit", "3000000000"], {}),
        (["costs", "--days", "2147483647"], {}),
        (["lanes", "set", f"user:{uuid4()}", "--share", "3000000000"], {}),
        (["webhooks", "rotate", str(uuid4()), "--hours", "nan"], {}),
        (["webhooks", "rotate", str(uuid4()), "--hours", "99999999"], {}),
        (["no-such-command"], {}),
    ],
)
def test_wrong_use_is_exit_code_2(ctl: Ctl, arguments: list[str], settings: dict[str, str]) -> None:
    result = ctl(*arguments, **settings)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [
        ("REDIS_URL", "redis://127.0.0.1:1/0", "Redis"),
        ("SUPABASE_URL", "http://127.0.0.1:1", "Supabase"),
        ("SUPABASE_SERVICE_ROLE_KEY", "wrong", "SUPABASE_SERVICE_ROLE_KEY"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_cannot_be_reached_is_a_sentence_and_exit_code_3(
    ctl: Ctl, setting: str, value: str, word: str, as_json: bool
) -> None:
    result = ctl(*(["--json"] if as_json else []), "status", **{setting: value})
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert word in (json.loads(line)["error"] if as_json else line)
    assert result.stdout == ""


def test_wearonctl_is_installed_as_a_command(stack: Stack, services: list[Service], tmp_path: Path) -> None:
    given = stack.env_for("generator")
    done = subprocess.run(
        [Path(sys.executable).with_name("wearonctl"), "--json", "status"],
        env={name: given[name] for name in SETTINGS},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["paused"] is None
    assert done.stderr == ""


# ------------------------------------------------------------------ queues and workers


def test_status_tells_depths_ages_and_who_lives(
    stack: Stack, ask: Callable[..., Any], tryons: TryOns
) -> None:
    ask("pause", "--reason", "a test")
    try:
        with stack.redis.client() as redis:
            redis.lpush(inflight_list("long-gone"), "x")
            status = ask("status")
            redis.delete(inflight_list("long-gone"))
        assert set(status["queues"]) == {TASK_LIST, "wearon.again", "wearon.generation", DEAD_LETTER_LIST}
        assert status["paused"]["reason"] == "a test"
        assert {(c["alive"], c["in_flight"]) for c in status["consumers"]} == {(True, 0), (False, 1)}
        (generator,) = status["generators"]
        assert {"id", "since", "concurrency", "waiting", "working", "provider_pause"} <= set(generator)
        assert {"waiting", "working", "retrying", "flagged", "owed"} <= set(status["ledger"])
    finally:
        ask("resume")


def test_stopped_intake_is_shown_and_resumed(stack: Stack, ask: Callable[..., Any], ctl: Ctl) -> None:
    with stack.redis.client() as redis:
        redis.set(INTAKE_STOPPED, json.dumps({"reason": "too_many_invalid"}))
        redis.set(INVALID_IN_A_ROW, 500)
        expected = {"intake_stopped": {"reason": "too_many_invalid"}, "invalid_in_a_row": 500}
        assert ask("intake", "show") == expected
        assert ask("status")["intake_stopped"] == expected["intake_stopped"]
        assert ctl("intake", "resume").exit_code == 1  # not without --yes
        assert ask("intake", "resume", "--yes") == {"intake_stopped": None, "was_stopped": True}
        assert not redis.exists(INTAKE_STOPPED, INVALID_IN_A_ROW)
    assert ask("intake", "show") == {"intake_stopped": None, "invalid_in_a_row": 0}


def test_lanes_are_shown_with_their_rules_and_drained(
    stack: Stack, ask: Callable[..., Any], ctl: Ctl
) -> None:
    lanes = [f"store:{uuid4()}", f"user:{uuid4()}"]
    with stack.redis.client() as redis:
        for lane, count in zip(lanes, (3, 1), strict=True):
            # Held back for 50 s, so that no running service takes from it.
            redis.zadd(LANE_PARKED, {lane: time.time() * 1000 + 50_000})
            redis.lpush(LANE_PREFIX + lane, *(str(uuid4()) for _ in range(count)))
        try:
            assert ask("lanes", "set", lanes[0], "--share", "20", "--in-work", "5") == {
                "lane": lanes[0],
                "share": 20,
                "in_work": 5,
            }
            shown = ask("lanes", "--limit", "5")
            assert shown["lanes"] == [
                {"lane": lanes[0], "waiting": 3, "share": 20, "in_work": 5},
                {"lane": lanes[1], "waiting": 1},
            ]
            assert (shown["lanes_in_all"], shown["tasks_in_all"], shown["store_share"]) == (2, 4, 10)
            assert ask("lanes", "rules") == {"rules": [{"lane": lanes[0], "share": 20, "in_work": 5}]}
            assert ctl("lanes", "set", "shop:1").exit_code == 2
            redis.hset(LANE_NEXT, lanes[0], "1")
            redis.zadd(LANE_IN_WORK_PREFIX + lanes[0], {str(uuid4()): 1})
            ask("lanes", "set", lanes[0])
            assert not redis.exists(LANE_RULES, LANE_NEXT, LANE_IN_WORK_PREFIX + lanes[0])
            assert ask("lanes", "rules") == {"rules": []}
            assert ask("lanes", "drain", "--yes") == {"handed": 0}
        finally:
            redis.delete(LANE_PARKED, LANE_RULES, *(LANE_PREFIX + lane for lane in lanes))


def test_the_oldest_task_has_an_age(stack: Stack, ask: Callable[..., Any], tryons: TryOns) -> None:
    with stack.redis.client() as redis:
        task = json.dumps({"created_at": "2026-01-01T00:00:00.000Z"})
        redis.lpush(inflight_list("somebody"), task)
        redis.set("wearon:consumers:somebody", "1 -", ex=60)
        try:
            assert ask("status")["oldest_task_seconds"] > 1_000_000
        finally:
            redis.delete(inflight_list("somebody"), "wearon:consumers:somebody")


def test_paused_generators_start_nothing_until_resumed(
    stack: Stack, ask: Callable[..., Any], tryons: TryOns, services: list[Service]
) -> None:
    generator = services[1]
    ask("pause")
    wait_until(
        lambda: "paused by the operator" in json.dumps(generator.readiness()), timeout=40, what="paused"
    )
    waiting = tryons.order()
    wait_until(lambda: ask("status")["ledger"]["waiting"], timeout=10, what="held")
    assert stack.app.statuses([waiting.job]) == {waiting.job.session_id: "queued"}
    assert ask("resume") == {"paused": None, "was_paused": True}
    (row,) = tryons.wait_settled(waiting)
    assert row["status"] == "completed"
    assert ask("resume")["was_paused"] is False


# ------------------------------------------------------------------ dead letters


def test_dead_letters_are_listed_newest_first_and_shown(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], services: list[Service]
) -> None:
    dead_letter(stack, b"not json 1")
    dead_letter(stack, b"not json 2 token=secret")
    newest, older = ask("dead", "list", "--limit", "2")
    assert newest["reason"] == older["reason"] == "not_json"
    assert "raw" not in newest
    assert ask("dead", "show", newest["id"])["id"] == newest["id"]
    assert ask("dead", "show", newest["id"][:6], "--raw")["raw"] == "not json 2 token=secret"
    assert "secret" not in ctl("dead", "show", newest["id"]).stdout
    assert newest["id"] in ctl("dead", "list").stdout


def test_an_id_must_mean_exactly_one_letter(stack: Stack, ctl: Ctl, services: list[Service]) -> None:
    for number in range(17):  # two of them begin with the same digit
        dead_letter(stack, f"not json {uuid4()} {number}".encode())
    for letter_id in ("nothing", ""):
        result = ctl("dead", "show", letter_id)
        assert (result.exit_code, "0 dead letters" in result.stderr) == (1, True)
    digits = [ctl("dead", "show", digit) for digit in "0123456789abcdef"]
    assert any("begin" in result.stderr and result.exit_code == 1 for result in digits)


def test_a_letter_is_dropped_once_and_only_when_confirmed(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], services: list[Service]
) -> None:
    dead_letter(stack, b"to be dropped")
    letter_id = newest_id(ask)
    refused = ctl("dead", "drop", letter_id)
    assert refused.exit_code == 1
    assert "--yes" in refused.stderr
    assert newest_id(ask) == letter_id
    assert ask("dead", "drop", letter_id, "--yes") == {"dropped": letter_id}
    assert ctl("dead", "drop", letter_id, "--yes").exit_code == 1


def test_a_letter_whose_session_waits_is_requeued(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], tryons: TryOns
) -> None:
    # Pushed before its row was written: set aside, and fine as soon as the row is there.
    late = tryons.make()
    rows = stack.app.rows("delete from generation_sessions where id = %s returning *", late.job.session_id)
    stack.app.push(late.job)
    wait_until(
        lambda: any(letter["session_id"] == late.id for letter in ask("dead", "list")),
        timeout=10,
        what="a dead letter",
    )
    letter_id = newest_id(ask)
    row = {name: value for name, value in rows[0].items() if value is not None}
    stack.app.rows(
        f"insert into generation_sessions ({', '.join(row)})"
        f" values ({', '.join(['%s'] * len(row))}) returning id",
        *row.values(),
    )
    assert ctl("dead", "requeue", letter_id).exit_code == 1
    assert ask("dead", "requeue", letter_id, "--yes") == {"requeued": letter_id}
    (settled,) = tryons.wait_settled(late)
    assert settled["status"] == "completed"
    assert ctl("dead", "requeue", letter_id, "--yes").exit_code == 1


def test_a_letter_whose_session_is_refunded_is_not_requeued(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], tryons: TryOns
) -> None:
    refunded = tryons.make(version=2)
    dead_letter(stack, json.dumps(refunded.job.task).encode())
    tryons.wait_settled(refunded)
    letter_id = newest_id(ask)
    result = ctl("dead", "requeue", letter_id, "--yes")
    assert result.exit_code == 1
    assert "given back" in result.stderr and refunded.id in result.stderr
    assert newest_id(ask) == letter_id
    with stack.redis.client() as redis:
        assert redis.llen(TASK_LIST) == 0


def test_an_element_that_is_no_letter_is_shown_all_the_same(
    stack: Stack, ask: Callable[..., Any], services: list[Service]
) -> None:
    with stack.redis.client() as redis:
        redis.lpush(DEAD_LETTER_LIST, "somebody else's")
    letter_id = newest_id(ask)
    shown = ask("dead", "show", letter_id, "--raw")
    assert (shown["raw"], shown["detail"]) == ("somebody else's", "not written by this project")
    ask("dead", "drop", letter_id, "--yes")


def a_letter(**changes: Any) -> bytes:
    letter = {
        "reason": "not_utf8",
        "detail": "",
        "raw": "/w==",
        "encoding": "base64",
        "set_aside_at": "2026-01-01T00:00:00Z",
        "set_aside_by": "somebody",
    }
    return json.dumps(letter | changes).encode()


FOREIGN = {
    "not_utf8": b"\xff\xfe of \x1b[2J somebody's",
    "json_but_no_letter": b'{"reason": "because"}',
    "a_number": b"17",
    "a_letter_of_the_wrong_reason": a_letter(reason="because"),
    "a_letter_of_no_moment": a_letter(set_aside_at="2026-02-31T00:00:00Z"),
    "half_a_pair": b'"\\ud800"',
    "nothing": b"",
    "deep": b"[" * 100_000,
}


@pytest.fixture
def foreign(stack: Stack) -> Iterator[Callable[[bytes], None]]:
    """Puts an element on the list of dead letters by hand."""
    with stack.redis.client() as redis:
        pushed: list[bytes] = []

        def push(element: bytes) -> None:
            redis.lpush(DEAD_LETTER_LIST, element)
            pushed.append(element)

        yield push
        for element in pushed:
            redis.lrem(DEAD_LETTER_LIST, 0, element)


@pytest.mark.parametrize("element", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_whatever_lies_on_the_list_is_shown_and_dropped(
    stack: Stack,
    ctl: Ctl,
    ask: Callable[..., Any],
    foreign: Callable[[bytes], None],
    element: bytes,
    as_json: list[str],
) -> None:
    foreign(element)
    listed = ask("dead", "list", "--limit", "1")[0]
    assert listed["detail"] == "not written by this project"
    shown = ask("dead", "show", listed["id"], "--raw")
    raw = shown["raw"].encode()
    assert (base64.b64decode(raw) if shown["encoding"] == "base64" else raw) == element
    for arguments in (["list"], ["show", listed["id"]], ["show", listed["id"], "--raw"]):
        result = ctl(*as_json, "dead", *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        assert listed["id"] in result.stdout and "\x1b" not in result.stdout
    result = ctl(*as_json, "dead", "drop", listed["id"], "--yes")
    assert (result.exit_code, listed["id"] in result.stdout) == (0, True), result.output
    with stack.redis.client() as redis:
        assert redis.lrem(DEAD_LETTER_LIST, 0, element) == 0


@pytest.mark.parametrize("element", [b"\xff\xfe", b'{"reason": "because"}', a_letter(raw="/w==")])
def test_what_is_requeued_is_what_was_pushed_byte_for_byte(
    stack: Stack, ask: Callable[..., Any], foreign: Callable[[bytes], None], element: bytes
) -> None:
    foreign(element)
    letter_id = newest_id(ask)
    pushed = b"\xff" if element == a_letter(raw="/w==") else element
    ask("dead", "requeue", letter_id, "--yes")
    # The consumer takes it and, since it still is no task, sets it aside: with the bytes it read.
    wait_until(lambda: newest_raw(ask) == pushed, timeout=10, what="the same bytes on the list again")
    ask("dead", "drop", newest_id(ask), "--yes")


def newest_raw(ask: Callable[..., Any]) -> bytes | None:
    listed = ask("dead", "list", "--limit", "1")
    if not listed or listed[0]["detail"] == "not written by this project":
        return None
    letter = ask("dead", "show", listed[0]["id"], "--raw")
    raw: str = letter["raw"]
    return base64.b64decode(raw) if letter["encoding"] == "base64" else raw.encode()


@pytest.mark.parametrize("raw", ["no base64!", "abc", "é"])
@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_letter_that_lost_its_element_is_shown_and_not_requeued(
    ctl: Ctl, ask: Callable[..., Any], foreign: Callable[[bytes], None], raw: str, as_json: list[str]
) -> None:
    foreign(a_letter(raw=raw))
    letter_id = newest_id(ask)
    assert ask("dead", "show", letter_id, "--raw")["raw"] == raw
    result = ctl(*as_json, "dead", "requeue", letter_id, "--yes")
    assert_a_sentence(result, as_json, f"dead drop {letter_id}")
    assert newest_id(ask) == letter_id
    ask("dead", "drop", letter_id, "--yes")


def assert_a_sentence(result: Result, as_json: list[str], says: str, code: int = 1) -> None:
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert says in (json.loads(line)["error"] if as_json else line)
    assert result.stdout == ""


# ------------------------------------------------------------------ what others have set or answer


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"since noon", {"reason": "since noon"}),
        (b"1", {"reason": "1"}),
        (b"", {"reason": ""}),
        (b"\xff", {"reason": "\\xff"}),
        (b'{"reason": "\\ud800"}', {"reason": "\ud800"}),
    ],
)
def test_a_pause_set_by_hand_is_shown(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], value: bytes, shown: dict[str, str]
) -> None:
    with stack.redis.client() as redis:
        redis.set(PAUSED_KEY, value)
    try:
        assert ask("status")["paused"] == shown
        assert ctl("status").exit_code == 0
    finally:
        assert ask("resume") == {"paused": None, "was_paused": True}


@pytest.mark.parametrize("value", [b"not json", b"[1]", b"\xff"])
def test_a_replica_that_tells_no_json_is_shown(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], value: bytes
) -> None:
    key = f"{REPLICA_PREFIX}by-hand"
    with stack.redis.client() as redis:
        redis.set(key, value, ex=30)
        try:
            (found,) = [one for one in ask("status")["generators"] if one["id"] == "by-hand"]
            assert "unreadable" in found
            assert ctl("status").exit_code == 0
        finally:
            redis.delete(key)


@contextmanager
def a_proxy(status: int) -> Iterator[str]:
    """Something that answers every request with a page."""

    class Page(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            page = b"<html>please log in</html>"
            self.send_response(status)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_GET = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


ASKS_SUPABASE = [
    ["status"],
    ["session", str(uuid4())],
    ["flagged"],
    ["looked-at", str(uuid4()), "--note", "x"],
    ["reap", "--yes"],
    ["costs"],
    ["erase", "--user", str(uuid4()), "--yes"],
    ["erase", "--session", str(uuid4())],
]


@pytest.mark.parametrize(("status", "code"), [(200, 1), (502, 3)])
@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_the_page_of_a_proxy_is_a_sentence(ctl: Ctl, status: int, code: int, as_json: list[str]) -> None:
    with a_proxy(status) as url:
        for arguments in ASKS_SUPABASE:
            result = ctl(*as_json, *arguments, SUPABASE_URL=url)
            assert_a_sentence(result, as_json, "SUPABASE_URL", code)


def test_a_letter_is_not_requeued_on_the_word_of_a_proxy(
    ctl: Ctl, ask: Callable[..., Any], foreign: Callable[[bytes], None]
) -> None:
    foreign(a_letter(reason="invalid_task", session_id=str(uuid4())))
    letter_id = newest_id(ask)
    with a_proxy(200) as url:
        result = ctl("dead", "requeue", letter_id, "--yes", SUPABASE_URL=url)
    assert_a_sentence(result, [], "SUPABASE_URL")
    assert newest_id(ask) == letter_id


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_key_of_another_kind_is_a_sentence(stack: Stack, ctl: Ctl, as_json: list[str]) -> None:
    with stack.redis.client() as redis:
        redis.lpush(PAUSED_KEY, "x")
        try:
            assert_a_sentence(ctl(*as_json, "status"), as_json, "WRONGTYPE", 3)
        finally:
            redis.delete(PAUSED_KEY)


def test_the_key_for_browsers_is_told_to_be_the_wrong_one(stack: Stack, ctl: Ctl) -> None:
    result = ctl("webhooks", "list", SUPABASE_SERVICE_ROLE_KEY=stack.anon_key)
    assert_a_sentence(result, [], "check SUPABASE_SERVICE_ROLE_KEY", 3)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_number_that_somebody_broke_by_hand_is_named(stack: Stack, ctl: Ctl, as_json: list[str]) -> None:
    with stack.redis.client() as redis:
        redis.set(INVALID_IN_A_ROW, "x")
        try:
            assert_a_sentence(ctl(*as_json, "intake", "show"), as_json, INVALID_IN_A_ROW)
        finally:
            redis.delete(INVALID_IN_A_ROW)


@pytest.mark.parametrize("broken", ["not json", "[1]", '{"share": "x"}'])
def test_a_lane_whose_rule_somebody_broke_by_hand_is_shown(
    stack: Stack, ask: Callable[..., Any], broken: str
) -> None:
    lane = f"user:{uuid4()}"
    with stack.redis.client() as redis:
        redis.lpush(LANE_PREFIX + lane, str(uuid4()))
        redis.zadd(LANE_PARKED, {lane: time.time() * 1000 + 50_000})
        redis.hset(LANE_RULES, lane, broken)
        try:
            assert {"lane": lane, "waiting": 1} in ask("lanes")["lanes"]
        finally:
            redis.zrem(LANE_PARKED, lane)
            redis.delete(LANE_PREFIX + lane)
            redis.hdel(LANE_RULES, lane)


# ------------------------------------------------------------------ sessions


def test_a_session_tells_its_whole_story_without_links_that_work(
    ctl: Ctl, ask: Callable[..., Any], tryons: TryOns
) -> None:
    failed = tryons.order("shopper", prompt="[[standin:moderation_blocked]]")
    done = tryons.order()
    tryons.wait_settled(failed, done)
    story = ask("session", failed.id)
    assert (story["channel"], story["row"]["status"]) == ("b2b", "failed")
    assert story["ledger"]["error_code"] == "moderation_blocked"
    assert [entry["type"] for entry in story["money"]] == ["deduction", "refund"]
    assert (story["task_in_redis"], story["place"]) == (False, None)
    finished = ask("session", done.id)
    assert [answer["model"] for answer in finished["provider_answers"]] == ["gpt-image-2.6-sunburst"]
    assert finished["row"]["generated_image_url"].endswith(".jpg")
    assert "token=" not in ctl("session", done.id).stdout
    unknown = ctl("session", str(uuid4()))
    assert (unknown.exit_code, "no session" in unknown.stderr) == (1, True)


def test_a_waiting_session_tells_its_place_in_line(
    ctl: Ctl, ask: Callable[..., Any], services: list[Service], tryons: TryOns
) -> None:
    pauses = len(services[1].events(event="jobs_paused"))
    ask("pause")
    woken = tryons.order()  # without a job a generator looks for a pause every 30 s only
    try:
        wait_until(
            lambda: len(services[1].events(event="jobs_paused")) > pauses, timeout=20, what="it pauses"
        )
        first, second = tryons.order(), tryons.order()
        wait_until(lambda: ask("session", second.id)["place"], timeout=20, what="it waits")
        assert ask("session", first.id)["place"]["before"] in (0, 1, 2)
        assert ask("session", second.id)["place"]["seconds"] > 0
        assert "before: " in ctl("session", second.id).stdout
    finally:
        ask("resume")
    tryons.wait_settled(woken, first, second)


def test_flagged_sessions_are_listed_until_somebody_has_looked(
    ctl: Ctl, ask: Callable[..., Any], tryons: TryOns
) -> None:
    overage = tryons.order("overage", prompt="[[standin:moderation_blocked]]")
    tryons.wait_settled(overage)
    assert [f["reason"] for f in ask("flagged") if f["session_id"] == overage.id] == ["overage"]
    assert overage.id in ctl("flagged").stdout
    ask("looked-at", overage.id, "--note", "invoice corrected")
    assert overage.id not in ctl("flagged").stdout
    assert ask("session", overage.id)["row"]["status"] == "failed"
    assert ctl("looked-at", str(uuid4()), "--note", "x").exit_code == 1
    completed = tryons.order()
    tryons.wait_settled(completed)
    refused = ctl("looked-at", completed.id, "--note", "x")
    assert (refused.exit_code, "is not flagged" in refused.stderr) == (1, True)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_session_is_shown_without_what_opens_its_links(
    stack: Stack, ctl: Ctl, tryons: TryOns, as_json: list[str]
) -> None:
    tryon = tryons.make()
    link = "https://x.example/storage/v1/object/sign/images/hat.jpg"
    secret = f"{link}?token=SECRET"
    write_links(stack, tryon.job, accessories=Jsonb([secret, {"url": secret, "more": [{secret: 1}]}]))
    shown = ctl(*as_json, "session", tryon.id).stdout
    assert shown.count(link) == 3
    assert "SECRET" not in shown


def test_cancelling_gives_the_credit_back_until_the_provider_is_called(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], tryons: TryOns
) -> None:
    waiting, done = tryons.make(), tryons.order()
    assert ctl("--json", "cancel", waiting.id).exit_code == 1, "it was not asked for"
    told = {"session_id": waiting.id, "given_back": True}
    assert ask("cancel", waiting.id, "--yes") == told
    assert ask("cancel", waiting.id, "--yes") == told
    assert stack.app.balance(waiting.job.owner_id) == 10
    working = tryons.order(prompt="[[standin:slow=5]]")
    wait_until(lambda: tryons.calls(working), timeout=20, what="the provider is called")
    late = ctl("cancel", working.id, "--yes")
    assert (late.exit_code, "too late" in late.stderr) == (1, True)
    tryons.wait_settled(working, done)
    ended = ctl("cancel", done.id, "--yes")
    assert (ended.exit_code, "has ended: completed" in ended.stderr) == (1, True)
    unknown = ctl("cancel", str(uuid4()), "--yes")
    assert (unknown.exit_code, "no session" in unknown.stderr) == (1, True)


def test_reap_lists_first_and_then_refunds(stack: Stack, ask: Callable[..., Any], tryons: TryOns) -> None:
    lost = tryons.make()
    assert ask("reap")["stuck"] == []  # it is too young
    stack.app.rows(
        "update generation_sessions set created_at = now() - interval '301 s' where id = %s returning 1",
        lost.job.session_id,
    )
    listed = {"channel": "b2c", "session_id": lost.id}
    assert ask("reap") == {"stuck": [listed], "reaped": []}
    assert stack.app.statuses([lost.job]) == {lost.job.session_id: "queued"}
    (reaped,) = ask("reap", "--yes")["reaped"]
    assert (reaped["session_id"], reaped["verdict"]) == (lost.id, "failed")
    assert stack.app.balance(lost.job.owner_id) == 10
    assert ask("reap", "--yes") == {"stuck": [], "reaped": []}


def test_costs_are_told_by_day_channel_and_model(ctl: Ctl, ask: Callable[..., Any], tryons: TryOns) -> None:
    def answers(channel: str) -> int:
        return sum(row["answers"] for row in ask("costs", "--days", "1") if row["channel"] == channel)

    before = answers("b2c"), answers("b2b")
    tryons.wait_settled(tryons.order(), tryons.order(), tryons.order("store"))
    assert (answers("b2c"), answers("b2b")) == (before[0] + 2, before[1] + 1)
    (row, *_) = ask("costs")
    assert row["cost_usd"] > 0 and row["unpriced"] == 0
    assert "gpt-image-2.6-sunburst" in ctl("costs").stdout


# ------------------------------------------------------------------ erasing


def uploaded_job(stack: Stack, user: Any) -> Job:
    urls = stack.app.upload_inputs(user, [SAMPLE_PERSON, SAMPLE_GARMENT])
    return stack.app.b2c_job(user, image_urls=urls, prompt="by the sea")


def names(stack: Stack) -> set[str]:
    return {item["name"] for item in stack.gateway.objects()}


def test_erasing_a_session_deletes_its_pictures_and_links_after_a_dry_run(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], services: list[Service]
) -> None:
    user = stack.app.create_user(credits=10)
    kept, erased = uploaded_job(stack, user), uploaded_job(stack, user)
    stack.app.push(kept, erased)
    stack.app.wait_settled(kept, erased)
    before = names(stack)
    with stack.redis.client() as redis:  # as of one that was cancelled while it waited in a lane
        redis.hset(TASKS_KEPT, str(erased.session_id), "its prompt and links")
    plan = ask("erase", "--session", str(erased.session_id))
    assert plan["erased"] is None
    assert names(stack) == before
    assert erased.result_path in plan["objects"] and len(plan["objects"]) == 3
    done = ask("erase", "--session", str(erased.session_id), "--yes")
    assert done["erased"] == {"sessions": 1, "objects": 3, "dead_letters": 0}
    assert names(stack) == before - set(plan["objects"])
    with stack.redis.client() as redis:
        assert not redis.hexists(TASKS_KEPT, str(erased.session_id))
    row = stack.app.session(erased)
    assert row["status"] == "completed"
    assert [row[name] for name in ("generated_image_url", "outfit_image_url", "prompt_user")] == [None] * 3
    assert row["model_image_url"] == ""
    assert stack.app.session(kept)["generated_image_url"]
    assert "Add --yes" in ctl("erase", "--session", str(kept.session_id)).stdout


def test_erasing_a_user_takes_settled_sessions_only_and_nobody_elses_pictures(
    stack: Stack, ask: Callable[..., Any], services: list[Service]
) -> None:
    user, other = (stack.app.create_user(credits=10) for _ in range(2))
    mine, theirs = uploaded_job(stack, user), uploaded_job(stack, other)
    invalid = stack.app.b2c_job(user, image_urls=["https://example.com/a.jpg"], version=2)
    stack.app.push(mine, theirs, invalid)
    stack.app.wait_settled(mine, theirs, invalid)
    # A user may write to rows of their own: a link to somebody else's result must not be followed.
    stack.app.rows(
        "update generation_sessions set outfit_image_url = %s where id = %s returning 1",
        stack.app.sign(theirs.result_path),
        mine.session_id,
    )
    waiting = stack.app.b2c_job(user, image_urls=["https://example.com/a.jpg"])
    done = ask("erase", "--user", str(user), "--yes")
    assert theirs.result_path in names(stack)
    assert mine.result_path not in names(stack)
    assert done["unsettled_and_left_alone"] == [str(waiting.session_id)]
    assert {entry["session_id"] for entry in done["sessions"]} == {
        str(mine.session_id),
        str(invalid.session_id),
    }
    assert done["erased"]["dead_letters"] == 1
    assert not [letter for letter in ask("dead", "list") if letter["session_id"] == str(invalid.session_id)]
    assert stack.app.session(waiting)["model_image_url"]


def write_links(stack: Stack, job: Job, **columns: Any) -> None:
    """Write links into a session's row, as its owner may."""
    for column, value in columns.items():
        stack.app.rows(
            f"update generation_sessions set {column} = %s where id = %s returning 1", value, job.session_id
        )


@pytest.mark.parametrize("by", ["--session", "--user"])
def test_only_pictures_that_are_the_owners_own_by_their_path_are_erased(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], services: list[Service], by: str
) -> None:
    user, other = (stack.app.create_user(credits=10) for _ in range(2))
    mine, theirs = uploaded_job(stack, user), uploaded_job(stack, other)
    stack.app.push(mine, theirs)
    stack.app.wait_settled(mine, theirs)
    kept = [
        stack.app.upload(path, SAMPLE_GARMENT)
        for path in (
            f"garments/{uuid4()}.jpg",
            f"uploads/{other}/hat.jpg",
            f"uploads/{other}/{user}/bag.jpg",
            f"garments/{user}.jpg",
            f"stores/{user}/generated/x.jpg",
            f"generated/{other}/{user}/x.jpg",
        )
    ]
    own = [
        stack.app.upload(path, SAMPLE_GARMENT)
        for path in (f"uploads/{user}/hat.jpg", f"{user}/folder/bag.jpg", f"generated/{user}/old.jpg")
    ]
    elsewhere = "https://shop.example/dress.jpg"
    # A path that leads elsewhere when somebody resolves it, and links that are none.
    odd = [stack.app.sign(f"uploads/{user}/%2e%2e/{other}/hat.jpg"), "http://[", "no link"]
    write_links(
        stack,
        mine,
        outfit_image_url=stack.app.sign(kept[0]),
        stitched_image_url=stack.app.sign(theirs.result_path),
        accessories=Jsonb([*map(stack.app.sign, kept[1:] + own), f"{elsewhere}?token=secret", *odd]),
    )
    before = names(stack)
    subject = str(user if by == "--user" else mine.session_id)
    plan = ask("erase", by, subject)
    assert set(plan["objects"]) >= {mine.result_path, *own}
    assert plan["linked_and_kept"] == sorted(
        {*kept, theirs.result_path, elsewhere, f"uploads/{user}/../{other}/hat.jpg", "http://["}
    )
    assert not set(plan["objects"]) & set(plan["linked_and_kept"])
    text = ctl("erase", by, subject).stdout
    assert "linked_and_kept" in text and kept[0] in text and elsewhere in text and "secret" not in text
    done = ask("erase", by, subject, "--yes")
    assert done["linked_and_kept"] == plan["linked_and_kept"]
    assert before - names(stack) == set(plan["objects"])
    assert {*kept, theirs.result_path} <= names(stack)


@pytest.mark.parametrize("by", ["--session", "--user"])
def test_pictures_that_an_unsettled_session_needs_are_erased_once_it_has_ended(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], services: list[Service], by: str
) -> None:
    user = stack.app.create_user(credits=10)
    inputs = [stack.app.upload(f"uploads/{user}/{name}.jpg", SAMPLE_PERSON) for name in ("me", "hat")]
    first, second = (
        stack.app.b2c_job(user, image_urls=[stack.app.sign(path) for path in inputs]) for _ in range(2)
    )
    stack.app.push(first)
    stack.app.wait_settled(first)
    subject = str(user if by == "--user" else first.session_id)

    text = ctl("erase", by, subject).stdout
    assert "needed_by_unsettled_and_kept" in text and "Erase again" in text
    done = ask("erase", by, subject, "--yes")
    assert done["needed_by_unsettled_and_kept"] == sorted(inputs)
    assert done["objects"] == [first.result_path]
    assert set(inputs) <= names(stack)
    stack.app.push(second)
    stack.app.wait_settled(second)
    assert stack.app.session(second)["status"] == "completed"

    done = ask("erase", by, subject, "--yes")
    assert done["needed_by_unsettled_and_kept"] == []
    assert not names(stack) & {*inputs, first.result_path}
    assert stack.app.session(first)["model_image_url"] == ""


def test_what_a_user_nests_deep_is_shown_and_erased(
    stack: Stack, ctl: Ctl, ask: Callable[..., Any], services: list[Service]
) -> None:
    user = stack.app.create_user(credits=10)
    job = uploaded_job(stack, user)
    stack.app.push(job)
    stack.app.wait_settled(job)
    inputs = {name for name in names(stack) if str(user) in name}
    for levels in (50, 200, 700, 850, 900, 950, 1000, 1200, 5000):
        deep = "[" * levels + '"x"' + "]" * levels
        stack.app.rows(
            "update generation_sessions set accessories = %s::jsonb where id = %s returning 1",
            deep,
            job.session_id,
        )
        for as_json in ([], ["--json"]):
            shown = ctl(*as_json, "session", str(job.session_id))
            assert (shown.exit_code, shown.stderr) == (0, ""), levels
        listed = ctl("retention", INPUT_RETENTION_HOURS="1")
        assert (listed.exit_code, listed.stderr) == (0, ""), levels
    done = ask("erase", "--user", str(user), "--yes")
    assert inputs <= set(done["objects"])
    assert not names(stack) & inputs


def test_a_stores_other_pictures_stay_when_a_shoppers_are_erased(
    stack: Stack, ask: Callable[..., Any], services: list[Service]
) -> None:
    store = stack.app.create_store(credits=10)
    person, garment, result = (
        stack.app.upload(f"stores/{store}/{name}.jpg", SAMPLE_PERSON)
        for name in ("uploads/person", "garments/dress", f"generated/{uuid4()}")
    )
    first = stack.app.b2b_job(store, image_urls=[stack.app.sign(person), stack.app.sign(garment)])
    second = stack.app.b2b_job(store, image_urls=[stack.app.sign(result)])
    stack.app.push(first, second)
    stack.app.wait_settled(first, second)
    done = ask("erase", "--session", str(first.session_id), "--yes")
    assert done["objects"] == sorted([person, first.result_path])
    assert done["linked_and_kept"] == [garment]
    assert ask("erase", "--session", str(second.session_id))["linked_and_kept"] == [result]
    assert {garment, result} <= names(stack)


def test_results_whose_sessions_the_application_has_deleted_are_erased(
    stack: Stack, ask: Callable[..., Any], services: list[Service]
) -> None:
    """By user, or by session as long as the ledger knows whose it was."""
    user = stack.app.create_user(credits=10)
    by_session, by_user, kept = (uploaded_job(stack, user) for _ in range(3))
    stack.app.push(by_session, by_user, kept)
    stack.app.wait_settled(by_session, by_user, kept)
    stack.app.rows(
        "delete from generation_sessions where id = any(%s) returning 1",
        [by_session.session_id, by_user.session_id],
    )
    stack.app.rows(
        "update generation_sessions set status = 'processing' where id = %s returning 1", kept.session_id
    )
    stack.app.rows(
        "update generation_ledger set state = 'working', outcome = null, lease_expires_at = now() +"
        " interval '1 hour' where session_id = %s returning 1",
        kept.session_id,
    )

    done = ask("erase", "--session", str(by_session.session_id), "--yes")
    assert (done["objects"], done["erased"]["objects"]) == ([by_session.result_path], 1)
    assert [stack.app.stored(job) is None for job in (by_session, by_user)] == [True, False]

    done = ask("erase", "--user", str(user), "--yes")
    assert done["objects"] == [by_user.result_path]
    assert done["unsettled_and_left_alone"] == [str(kept.session_id)]
    assert [stack.app.stored(job) is None for job in (by_user, kept)] == [True, False]


@pytest.mark.parametrize("by", ["--session", "--user"])
def test_a_result_without_a_row_stays_while_an_unsettled_session_needs_it(
    stack: Stack, ask: Callable[..., Any], services: list[Service], by: str
) -> None:
    user = stack.app.create_user(credits=10)
    first = uploaded_job(stack, user)
    stack.app.push(first)
    stack.app.wait_settled(first)
    second = stack.app.b2c_job(user, image_urls=[stack.app.sign(first.result_path)])
    stack.app.rows("delete from generation_sessions where id = %s returning 1", first.session_id)
    subject = str(user if by == "--user" else first.session_id)

    done = ask("erase", by, subject, "--yes")
    assert (done["objects"], done["needed_by_unsettled_and_kept"]) == ([], [first.result_path])
    assert first.result_path in names(stack)

    stack.app.push(second)
    stack.app.wait_settled(second)
    assert first.result_path in ask("erase", by, subject, "--yes")["objects"]
    assert first.result_path not in names(stack)


@pytest.mark.parametrize("by", ["--session", "--user"])
def test_dead_letters_of_a_session_without_a_row_are_erased(
    stack: Stack, ask: Callable[..., Any], services: list[Service], by: str
) -> None:
    user, other = (stack.app.create_user(credits=10) for _ in range(2))
    urls = [stack.app.sign(f"uploads/{user}/a.jpg")]
    mine, theirs = (stack.app.b2c_job(owner, image_urls=urls, version=2) for owner in (user, other))
    stack.app.push(mine, theirs)
    stack.app.wait_settled(mine, theirs)
    stack.app.rows("delete from generation_sessions where id = %s returning 1", mine.session_id)

    done = ask("erase", by, str(user if by == "--user" else mine.session_id), "--yes")

    assert done["erased"]["dead_letters"] == 1
    left = {letter["session_id"] for letter in ask("dead", "list")}
    assert str(mine.session_id) not in left and str(theirs.session_id) in left


def test_a_status_that_a_user_writes_to_an_ended_session_keeps_nothing_from_being_erased(
    stack: Stack, ask: Callable[..., Any], services: list[Service]
) -> None:
    user = stack.app.create_user(credits=10)
    job = uploaded_job(stack, user)
    stack.app.push(job)
    stack.app.wait_settled(job)
    for status in ("queued", "processing"):
        stack.app.rows(
            "update generation_sessions set status = %s where id = %s returning 1", status, job.session_id
        )
        plan = ask("erase", "--session", str(job.session_id))
        assert len(plan["objects"]) == 3, status

    done = ask("erase", "--user", str(user), "--yes")
    assert (done["unsettled_and_left_alone"], done["needed_by_unsettled_and_kept"]) == ([], [])
    assert set(done["objects"]) == set(plan["objects"])
    assert not names(stack) & set(plan["objects"])


def test_a_user_with_more_sessions_than_one_answer_holds_is_erased_in_full(
    stack: Stack, ask: Callable[..., Any], services: list[Service]
) -> None:
    user = stack.app.create_user(credits=0)
    stack.app.rows(
        "insert into generation_sessions (user_id, status, model_image_url, prompt_system)"
        " select %s, 'failed', 'https://example.com/a.jpg', '' from generate_series(1, 1203) returning 1",
        user,
    )
    assert ask("erase", "--user", str(user), "--yes")["erased"]["sessions"] == 1203
    (left,) = stack.app.rows(
        "select count(*) from generation_sessions where user_id = %s and model_image_url <> ''", user
    )
    assert left["count"] == 0
