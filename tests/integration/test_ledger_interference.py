"""Others write to the same rows: the application's cron, a store's uninstall, and the row's own owner."""

from __future__ import annotations

import uuid

import psycopg
import pytest
from integration.database import LedgerDatabase, Row, Session

from wearon_contracts.errors import ErrorCode, sentence


def cron_pays(ledger: LedgerDatabase, session: Session) -> None:
    """The first half of what the cron does for a session: the refund, before it writes the row."""
    ledger.run(
        "select refund_credits(%s, 1, %s)",
        session.owner,
        f"Stuck job recovery: session {session.id} timed out after 10 minutes",
    )


def flagged(ledger: LedgerDatabase) -> dict[str, str]:
    found: list[Row] = ledger.rpc("generation_flagged", p_limit=100)
    return {row["session_id"]: row["reason"] for row in found}


# ------------------------------------------------------------------------------------------------- cron


def test_fail_does_not_pay_what_the_cron_has_just_paid(ledger: LedgerDatabase) -> None:
    session = ledger.b2c(age=700)
    attempt = ledger.begin(session, "a")
    cron_pays(ledger, session)

    answer = ledger.fail(session, "a", attempt)

    assert answer["verdict"] == "failed"
    assert answer["refund"] == {"state": "already_refunded", "amount": 1, "payer": "user"}
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)


@pytest.mark.parametrize("end", ["fail", "complete"])
def test_a_refund_that_the_cron_is_just_making_is_waited_for(ledger: LedgerDatabase, end: str) -> None:
    session = ledger.b2c(age=700)
    attempt = ledger.begin(session, "a")
    with ledger.connect() as cron:
        cron.execute(
            "select refund_credits(%s, 1, %s)",
            [session.owner, f"Stuck job recovery: session {session.id} timed out after 10 minutes"],
        )
        ending = ledger.in_background(lambda: getattr(ledger, end)(session, "a", attempt))
        ledger.wait_for_a_blocked_call()

    assert ending.result()["outcome"] == "failed"
    assert ending.result()["refund"]["state"] == "already_refunded"
    assert ledger.status(session) == "failed"
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)


def test_another_sessions_cron_refund_is_no_refund_of_this_one(ledger: LedgerDatabase) -> None:
    other = ledger.b2c(age=700)
    session = ledger.b2c(other.owner, age=700)
    cron_pays(ledger, other)
    # Somebody else's transaction that names this session is none of its owner's.
    ledger.run(
        "select refund_credits(%s, 1, %s)",
        ledger.user(),
        f"Stuck job recovery: session {session.id} timed out after 10 minutes",
    )

    attempt = ledger.begin(session, "a")

    assert ledger.fail(session, "a", attempt)["refund"]["state"] == "refunded"
    assert ledger.balance(session) == 10


@pytest.mark.parametrize("end", ["complete", "fail", "requeue", "recover", "hold", "claim"])
def test_what_the_cron_has_settled_is_closed_and_not_touched(ledger: LedgerDatabase, end: str) -> None:
    session = ledger.b2c(age=700)
    attempt = ledger.begin(session, "a")
    assert ledger.cron() == 1
    row = ledger.session_row(session)

    if end == "recover":
        ledger.expire(session)
        assert ledger.recover() == []
    elif end == "hold":
        assert ledger.hold(session, "b")["verdict"] == "settled"
    elif end == "claim":
        assert ledger.claim(session, "a")["verdict"] == "settled"
    else:
        assert getattr(ledger, end)(session, "a", attempt)["verdict"] == "settled"

    assert ledger.session_row(session) == row
    entry = ledger.entry(session)
    assert (entry["outcome"], entry["settled_by"]) == ("failed", "elsewhere")
    assert (entry["refund_state"], entry["refund_payer"]) == ("already_refunded", "user")
    assert entry["flagged_reason"] is None
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    assert ledger.recover() == []


@pytest.mark.parametrize("end", ["complete", "claim", "hold"])
def test_a_session_the_cron_has_paid_for_but_not_yet_written_is_not_delivered(
    ledger: LedgerDatabase, end: str
) -> None:
    session = ledger.b2c(age=700)
    ledger.hold(session, "a")
    if end == "complete":
        ledger.claim(session, "a")
    cron_pays(ledger, session)

    answer = {
        "complete": lambda: ledger.complete(session, "a", 1),
        "claim": lambda: ledger.claim(session, "a"),
        "hold": lambda: ledger.hold(session, "a"),
    }[end]()

    assert (answer["verdict"], answer["outcome"]) == ("settled", "failed")
    assert answer["refund"]["state"] == "already_refunded"
    row = ledger.session_row(session)
    assert (row["status"], row["error_message"]) == ("failed", sentence(ErrorCode.STUCK))
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)


def test_the_cron_after_an_orphan_was_reaped_finds_nothing(ledger: LedgerDatabase) -> None:
    session = ledger.b2c(age=700)
    ledger.reap(session)

    assert ledger.cron() == 0
    assert ledger.balance(session) == 10


def test_reap_does_not_pay_what_the_cron_has_paid(ledger: LedgerDatabase) -> None:
    session = ledger.b2c(age=700)
    cron_pays(ledger, session)

    (result,) = ledger.reap(session)

    assert (result["verdict"], result["refund"]["state"]) == ("failed", "already_refunded")
    assert ledger.balance(session) == 10


def test_what_the_cron_pays_on_top_is_reported(ledger: LedgerDatabase) -> None:
    refunded, completed, clean = ledger.b2c(), ledger.b2c(), ledger.b2c()
    for session in (refunded, completed, clean):
        ledger.begin(session, "worker")
        ledger.run(
            "update generation_ledger set holder = %s where session_id = %s", str(session.id), session.id
        )
    ledger.fail(refunded, str(refunded.id), 1)
    ledger.complete(completed, str(completed.id), 1)
    ledger.fail(clean, str(clean.id), 1)
    # The cron chose them before they were settled, and writes without looking again.
    for session in (refunded, completed):
        ledger.run("select app_recover_stuck_session(%s, %s)", session.id, session.owner)

    assert flagged(ledger) == {
        str(refunded.id): "refunded_by_cron_too",
        str(completed.id): "completed_and_refunded_by_cron",
    }
    assert ledger.rpc("generation_backlog")["paid_by_cron_too"] == 2


def test_only_what_was_flagged_once_can_be_noted(ledger: LedgerDatabase) -> None:
    flagged_once, by_cron, clean = ledger.b2b("overage"), ledger.b2c(), ledger.b2c()
    for session in (flagged_once, by_cron, clean):
        ledger.fail(session, "worker", ledger.begin(session, "worker"), "moderation_blocked")
    ledger.run("select app_recover_stuck_session(%s, %s)", by_cron.id, by_cron.owner)

    def note(session: Session, text: str) -> str:
        return str(ledger.rpc("generation_looked_at", p_session_id=str(session.id), p_note=text)["verdict"])

    assert [note(session, "seen") for session in (flagged_once, by_cron, clean)] == [
        "noted",
        "noted",
        "not_flagged",
    ]
    assert flagged(ledger) == {}
    assert note(by_cron, "and said more later") == "noted"
    assert (
        ledger.value("select looked_at_note from generation_ledger where session_id = %s", clean.id) is None
    )


@pytest.mark.parametrize(("written", "verdict"), [("processing", "busy"), ("failed", "settled")])
def test_reject_looks_again_once_it_has_the_locks(ledger: LedgerDatabase, written: str, verdict: str) -> None:
    session = ledger.b2c()
    with ledger.connect() as other:
        other.execute("select 1 from user_credits where user_id = %s for update", [session.owner])
        rejecting = ledger.in_background(lambda: ledger.reject(session))
        ledger.wait_for_a_blocked_call()
        ledger.run("update generation_sessions set status = %s where id = %s", written, session.id)

    assert rejecting.result()["verdict"] == verdict
    assert (ledger.status(session), ledger.balance(session)) == (written, 9)
    assert ledger.knows(session) == (verdict == "settled")


def test_reap_looks_again_once_it_has_the_locks(ledger: LedgerDatabase) -> None:
    """The first of two orphans is settled by others while the reaper waits for the second."""
    first, second = ledger.b2b(age=400), ledger.b2c(age=400)
    with ledger.connect() as other:
        other.execute(
            "insert into generation_ledger (channel, session_id, owner_id, lease_expires_at)"
            " values ('b2c', %s, %s, now())",
            [second.id, second.owner],
        )
        reaping = ledger.in_background(lambda: ledger.reap(first, second))
        ledger.wait_for_a_blocked_call()
        ledger.run("update store_generation_sessions set status = 'completed' where id = %s", first.id)

    assert [row["verdict"] for row in reaping.result()] == ["busy", "busy"]
    assert (ledger.status(first), ledger.balance(first)) == ("completed", 9)
    assert not ledger.knows(first)


# -------------------------------------------------------------------------------------------- uninstall


def test_an_uninstalled_store_is_left_as_it_is(ledger: LedgerDatabase) -> None:
    unknown, waiting, retrying = ledger.b2b(), ledger.b2b(), ledger.b2b()
    ledger.hold(waiting, "a")
    ledger.begin(retrying, "b")
    ledger.requeue(retrying, "b", 1)
    sessions = (unknown, waiting, retrying)
    for session in sessions:
        assert ledger.value("select app_uninstall_store(%s)", session.owner) == 1
    rows = [ledger.session_row(session) for session in sessions]
    ledger.expire(waiting)
    ledger.expire(retrying)

    assert ledger.hold(unknown, "c")["verdict"] == "settled"
    assert ledger.reject(unknown)["verdict"] == "settled"
    assert ledger.recover() == []

    assert [ledger.session_row(session) for session in sessions] == rows
    assert [ledger.balance(session) for session in sessions] == [9, 9, 9]
    for session in (waiting, retrying):
        entry = ledger.entry(session)
        assert (entry["outcome"], entry["settled_by"], entry["refund_state"]) == (
            "failed",
            "elsewhere",
            "none",
        )
    assert flagged(ledger) == {}


def test_a_store_session_failed_under_way_by_others_is_flagged(ledger: LedgerDatabase) -> None:
    session = ledger.b2b()
    attempt = ledger.begin(session, "a")
    ledger.run("update store_generation_sessions set status = 'failed' where id = %s", session.id)

    assert ledger.fail(session, "a", attempt)["verdict"] == "settled"
    assert flagged(ledger) == {str(session.id): "settled_elsewhere"}
    assert ledger.balance(session) == 9


# ---------------------------------------------------------------------------------------- the row's owner


def write_own_row(ledger: LedgerDatabase, session: Session, **values: object) -> None:
    """As the signed-in owner, through PostgREST and the application's own RLS."""
    answer = ledger.patch(
        f"/generation_sessions?id=eq.{session.id}", values, token=ledger.user_token(session.owner)
    )
    assert len(answer.json()) == 1


@pytest.mark.parametrize("outcome", ["complete", "fail"])
@pytest.mark.parametrize("written", ["queued", "processing", "failed", "completed"])
def test_an_owner_who_rewrites_a_settled_row_gains_nothing(
    ledger: LedgerDatabase, outcome: str, written: str
) -> None:
    session = ledger.b2c(age=5000)
    attempt = ledger.begin(session, "a")
    getattr(ledger, outcome)(session, "a", attempt)
    balance = ledger.balance(session)
    write_own_row(ledger, session, status=written)

    assert ledger.orphans() == []
    assert ledger.hold(session, "b")["verdict"] == "settled"
    assert ledger.claim(session, "b")["verdict"] == "settled"
    assert ledger.reject(session)["verdict"] == "settled"
    assert [row["verdict"] for row in ledger.reap(session)] == ["settled"]
    assert ledger.fail(session, "a", attempt)["verdict"] == ("failed" if outcome == "fail" else "settled")
    assert ledger.status(session) == written
    assert (ledger.balance(session), balance) == (balance, 10 if outcome == "fail" else 9)


@pytest.mark.parametrize("end", ["complete", "fail"])
@pytest.mark.parametrize("written", ["completed", "failed"])
def test_an_owner_who_settles_a_running_session_loses_the_credit_and_is_flagged(
    ledger: LedgerDatabase, written: str, end: str
) -> None:
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    write_own_row(ledger, session, status=written)

    answer = getattr(ledger, end)(session, "a", attempt)

    assert (answer["verdict"], answer["outcome"], answer["flagged"]) == ("settled", written, True)
    assert answer["refund"]["state"] == "none"
    assert ledger.status(session) == written
    assert (ledger.balance(session), ledger.refunds(session)) == (9, 0)
    # Writing it back does not reopen it.
    write_own_row(ledger, session, status="queued", created_at="2020-01-01T00:00:00Z")
    assert ledger.orphans() == []
    assert ledger.fail(session, "a", attempt)["verdict"] == "settled"
    assert ledger.balance(session) == 9
    assert flagged(ledger) == {str(session.id): "settled_elsewhere"}


def test_an_owner_who_writes_an_unsettled_status_does_not_disturb_the_work(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    write_own_row(ledger, session, status="queued", credits_used=99, user_id=str(session.owner))

    assert ledger.complete(session, "a", attempt)["verdict"] == "completed"
    assert (ledger.status(session), ledger.balance(session)) == ("completed", 9)


def test_an_owner_cannot_reopen_what_was_settled_before_there_was_a_ledger(ledger: LedgerDatabase) -> None:
    session = ledger.b2c(status="completed", age=5000)
    ledger.migrate_again()
    write_own_row(ledger, session, status="queued", completed_at=None, generated_image_url=None)

    assert ledger.orphans() == []
    assert [row["verdict"] for row in ledger.reap(session)] == ["settled"]
    assert ledger.hold(session, "a")["verdict"] == "settled"
    assert ledger.balance(session) == 9


def test_an_owner_cannot_give_a_settled_row_an_id_that_the_ledger_does_not_know(
    ledger: LedgerDatabase,
) -> None:
    session = ledger.b2c()
    ledger.complete(session, "a", ledger.begin(session, "a"))
    unknown = {"id": str(uuid.uuid4()), "status": "queued", "created_at": "2020-01-01T00:00:00Z"}

    answer = ledger.patch(
        f"/generation_sessions?id=eq.{session.id}", unknown, token=ledger.user_token(session.owner)
    )

    assert ledger.orphans() == []
    assert (answer.status_code, answer.json()["code"]) == (400, "23001")
    assert ledger.status(session) == "completed"
    assert ledger.balance(session) == 9


@pytest.mark.parametrize("make", ["b2c", "b2b"])
def test_nobody_changes_the_id_of_a_session_and_all_else_may_be_written(
    ledger: LedgerDatabase, make: str
) -> None:
    session: Session = getattr(ledger, make)()
    table = "generation_sessions" if make == "b2c" else "store_generation_sessions"

    with pytest.raises(psycopg.errors.RestrictViolation):
        ledger.run(f"update {table} set id = gen_random_uuid() where id = %s", session.id)
    # As an upsert writes it.
    ledger.run(f"update {table} set id = id, prompt_user = 'x' where id = %s", session.id)

    assert ledger.session_row(session)["prompt_user"] == "x"


def test_a_session_that_is_gone_is_closed(ledger: LedgerDatabase) -> None:
    held, working, expired = ledger.b2c(), ledger.b2b(), ledger.b2c()
    ledger.hold(held, "a")
    ledger.begin(working, "b")
    ledger.hold(expired, "c")
    ledger.expire(expired)
    ledger.run("delete from generation_sessions")
    ledger.run("delete from store_generation_sessions")

    assert ledger.hold(held, "a")["verdict"] == "session_not_found"
    assert ledger.hold(held, "a")["verdict"] == "session_not_found"
    assert ledger.complete(working, "b", 1)["verdict"] == "settled"
    assert ledger.recover() == []
    assert set(flagged(ledger).values()) == {"session_gone"}
    assert len(flagged(ledger)) == 3
