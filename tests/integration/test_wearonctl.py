"""The operator's command line against a running stack: what it shows, what it does, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from tests.integration.tryons import TryOns

from wearon_contracts.queues import DEAD_LETTER_LIST, TASK_LIST, inflight_list
from wearon_generator.ctl import main
from wearon_local.next_app import SAMPLE_GARMENT, SAMPLE_PERSON, Job
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

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
    ["dead", "list"],
    ["dead", "show"],
    ["dead", "requeue"],
    ["dead", "drop"],
    ["session"],
    ["flagged"],
    ["looked-at"],
    ["reap"],
    ["costs"],
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


def test_it_is_a_program(stack: Stack, services: list[Service], tmp_path: Path) -> None:
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
        assert {"id", "since", "concurrency", "waiting", "working", "quota_paused"} <= set(generator)
        assert {"waiting", "working", "retrying", "flagged", "owed"} <= set(status["ledger"])
    finally:
        ask("resume")


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
        lambda: "paused by the operator" in json.dumps(generator.readiness()), timeout=10, what="paused"
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
    assert story["task_in_redis"] is False
    finished = ask("session", done.id)
    assert [answer["model"] for answer in finished["provider_answers"]] == ["gpt-image-1.5"]
    assert finished["row"]["generated_image_url"].endswith(".jpg")
    assert "token=" not in ctl("session", done.id).stdout
    unknown = ctl("session", str(uuid4()))
    assert (unknown.exit_code, "no session" in unknown.stderr) == (1, True)


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
    assert "gpt-image-1.5" in ctl("costs").stdout


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
    plan = ask("erase", "--session", str(erased.session_id))
    assert plan["erased"] is None
    assert names(stack) == before
    assert erased.result_path in plan["objects"] and len(plan["objects"]) == 3
    done = ask("erase", "--session", str(erased.session_id), "--yes")
    assert done["erased"] == {"sessions": 1, "objects": 3, "dead_letters": 0}
    assert names(stack) == before - set(plan["objects"])
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
