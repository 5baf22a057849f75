"""Locks of the application beside those of the ledger: no deadlock, and no session that holds up another."""

from __future__ import annotations

from typing import Any

import pytest
from integration.database import LedgerDatabase, Session

ENDS = ("fail", "complete", "reject")


@pytest.fixture(autouse=True)
def no_deadlocks(ledger: LedgerDatabase) -> Any:
    """PostgreSQL never has to end a transaction, whoever's it is."""
    count = "select deadlocks from pg_stat_database where datname = current_database()"
    ledger.run("select pg_stat_force_next_flush()")
    before = ledger.value(count)
    yield
    ledger.run("select pg_stat_force_next_flush()")
    assert ledger.value(count) == before


def ending(ledger: LedgerDatabase, session: Session, end: str) -> Any:
    """The call that settles the session, in the background."""
    if end == "reject":
        return ledger.in_background(lambda: ledger.reject(session))
    attempt = ledger.begin(session, "a")
    return ledger.in_background(lambda: getattr(ledger, end)(session, "a", attempt))


@pytest.mark.parametrize("end", ENDS)
def test_deleting_a_user_does_not_deadlock_with_settling(ledger: LedgerDatabase, end: str) -> None:
    """The application deletes the sessions first and the credit row after them."""
    session = ledger.b2c()
    with ledger.connect() as application:
        application.execute("delete from generation_sessions where user_id = %s", [session.owner])
        settling = ending(ledger, session, end) if end == "reject" else None
        if settling is None:
            # Held and claimed before, which needs the row: seen by others until the deletion is committed.
            ledger.run(
                "insert into generation_ledger"
                " (channel, session_id, owner_id, state, attempt, holder, lease_expires_at)"
                " values ('b2c', %s, %s, 'working', 1, 'a', now() + interval '30 seconds')",
                session.id,
                session.owner,
            )
            settling = ledger.in_background(lambda: getattr(ledger, end)(session, "a", 1))
        ledger.wait_for_a_blocked_call()
        application.execute("delete from user_credits where user_id = %s", [session.owner])

    assert settling.result()["verdict"] == "settled"
    assert ledger.entry(session)["settled_by"] == "gone"


@pytest.mark.parametrize("first", ["store_generation_sessions", "store_credits", "stores"])
def test_deleting_a_store_does_not_deadlock_with_fail(ledger: LedgerDatabase, first: str) -> None:
    """Whatever the application deletes first, and however far it has come."""
    session = ledger.b2b()
    attempt = ledger.begin(session, "a")
    column = "id" if first == "stores" else "store_id"
    with ledger.connect() as application:
        application.execute(f"delete from {first} where {column} = %s".encode(), [session.owner])
        failing = ledger.in_background(lambda: ledger.fail(session, "a", attempt))
        ledger.wait_for_a_blocked_call()
        application.execute("delete from store_generation_sessions where store_id = %s", [session.owner])
        application.execute("delete from stores where id = %s", [session.owner])

    assert failing.result()["verdict"] == "settled"
    assert ledger.entry(session)["settled_by"] == "gone"


def test_fail_gives_way_to_whoever_locks_what_a_refund_needs(ledger: LedgerDatabase) -> None:
    """The application may have a foreign key to its users, whose target a deletion locks first."""
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    ledger.run("create table people (id uuid primary key)")
    ledger.run("insert into people values (%s)", session.owner)
    ledger.run(
        "alter table credit_transactions add constraint of_a_person foreign key (user_id)"
        " references people (id) not valid"
    )
    try:
        with ledger.connect() as application:
            application.execute("select from people where id = %s for update", [session.owner])
            failing = ledger.in_background(lambda: ledger.fail(session, "a", attempt))
            ledger.wait_for_a_blocked_call()
            # While fail holds session and credit row, the application waits for them.
            application.execute("select from generation_sessions where id = %s for update", [session.id])
            application.execute("select from user_credits where user_id = %s for update", [session.owner])
            with pytest.raises(Exception, match="55P03"):
                failing.result()
        # The caller repeats it.
        assert ledger.fail(session, "a", attempt)["verdict"] == "failed"
        assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    finally:
        ledger.run("alter table credit_transactions drop constraint of_a_person")
        ledger.run("drop table people")


# ------------------------------------------------------------------------------- one that cannot be settled


@pytest.fixture
def unwritable(ledger: LedgerDatabase) -> Any:
    """A session whose row the application lets nobody fail, and the means to mend it."""
    session = ledger.b2c(age=5000)
    ledger.run(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'not this one' using errcode = 'P0001'; end $$"
    )
    ledger.run(
        "create trigger refuse before update on generation_sessions for each row"
        f" when (old.id = '{session.id}' and new.status = 'failed') execute function refuse()"
    )
    yield session
    ledger.run("drop function refuse() cascade")


def flagged(ledger: LedgerDatabase) -> dict[str, str]:
    return {row["session_id"]: row["reason"] for row in ledger.rpc("generation_flagged", p_limit=100)}


def test_an_orphan_that_cannot_be_failed_is_set_aside_and_the_others_are_refunded(
    ledger: LedgerDatabase, unwritable: Session
) -> None:
    others = [ledger.b2c(age=400) for _ in range(5)]

    results = {row["session_id"]: row for row in ledger.reap(unwritable, *others)}

    assert [results[str(s.id)]["verdict"] for s in others] == ["failed"] * 5
    assert [ledger.balance(session) for session in others] == [10] * 5
    assert (results[str(unwritable.id)]["verdict"], results[str(unwritable.id)]["error"]) == (
        "set_aside",
        "P0001",
    )
    assert flagged(ledger) == {str(unwritable.id): "cannot_be_settled"}
    assert (ledger.status(unwritable), ledger.balance(unwritable)) == ("queued", 9)
    # No sweep stumbles over it again, and its age is none of the backlog's.
    assert ledger.orphans() == []
    assert ledger.recover() == []
    backlog = ledger.rpc("generation_backlog")
    assert (backlog["waiting"], backlog["oldest_held_seconds"], backlog["flagged"]) == (0, 0, 1)


def test_what_was_set_aside_is_tried_again_once_a_person_has_looked(
    ledger: LedgerDatabase, unwritable: Session
) -> None:
    ledger.reap(unwritable)
    ledger.run("drop trigger refuse on generation_sessions")

    noted = ledger.rpc("generation_looked_at", p_session_id=str(unwritable.id), p_note="mended")

    assert noted["verdict"] == "tried_again"
    assert flagged(ledger) == {}
    assert [row["verdict"] for row in ledger.reap(unwritable)] == ["failed"]
    assert ledger.balance(unwritable) == 10


def test_a_session_that_takes_too_long_to_fail_is_set_aside_by_name(ledger: LedgerDatabase) -> None:
    orphan, held = ledger.b2c(age=400), ledger.b2c(age=400)
    ledger.hold(held, "a")

    def set_aside(session: Session) -> str:
        answer = ledger.rpc(
            "generation_set_aside", **session.named, p_stuck_after_seconds=300, p_error="57014"
        )
        return str(answer["verdict"])

    assert (set_aside(orphan), set_aside(held)) == ("set_aside", "busy")
    assert flagged(ledger) == {str(orphan.id): "cannot_be_settled"}
    # Should its task turn up after all, it runs.
    assert ledger.begin(orphan, "late") == 1
    assert ledger.complete(orphan, "late", 1)["verdict"] == "completed"
    assert flagged(ledger) == {}


def test_recover_sets_aside_what_it_cannot_decide_about(ledger: LedgerDatabase) -> None:
    odd, fine = ledger.b2b(), ledger.b2b()
    for session in (odd, fine):
        ledger.hold(session, str(session.id))
        ledger.expire(session)
    ledger.run("update store_generation_sessions set status = 'failed' where id = %s", odd.id)
    # Two refunds of one request cannot be told apart; without the unique key they can exist.
    ledger.run("alter table store_credit_transactions alter amount type text using amount::text")
    ledger.run(
        "insert into store_credit_transactions (store_id, amount, type, request_id)"
        " values (%s, 'none', 'refund', %s)",
        odd.owner,
        odd.request_id,
    )
    try:
        assert [row["session_id"] for row in ledger.recover()] == [str(fine.id)]
    finally:
        ledger.run("truncate store_credit_transactions")
        ledger.run("alter table store_credit_transactions alter amount type integer using amount::integer")

    assert flagged(ledger) == {str(odd.id): "cannot_be_settled"}


# -------------------------------------------------------------------------------- objects nobody may see


@pytest.mark.parametrize("make", ["b2c", "b2b"])
def test_check_answers_gone_when_the_session_was_deleted(ledger: LedgerDatabase, make: str) -> None:
    session: Session = getattr(ledger, make)()
    attempt = ledger.begin(session, "a")
    assert ledger.check(session, "a", attempt)["verdict"] == "current"
    ledger.run("delete from generation_sessions")
    ledger.run("delete from store_generation_sessions")

    assert ledger.check(session, "a", attempt)["verdict"] == "gone"
    assert ledger.check(session, "a", attempt)["verdict"] == "gone"
    assert flagged(ledger) == {str(session.id): "session_gone"}


def test_check_answers_settled_when_others_have_settled_the_row(ledger: LedgerDatabase) -> None:
    session = ledger.b2c(age=700)
    attempt = ledger.begin(session, "a")
    ledger.cron()

    assert ledger.check(session, "a", attempt)["verdict"] == "settled"


def unwanted(ledger: LedgerDatabase) -> list[Any]:
    found: list[Any] = ledger.rpc("generation_unwanted_objects", p_limit=100)
    return found


@pytest.mark.parametrize("end", ["check", "complete", "fail", "requeue", "recover", "hold"])
def test_the_object_of_a_deleted_session_is_unwanted_whoever_finds_it_gone(
    ledger: LedgerDatabase, end: str
) -> None:
    session, never_begun = ledger.b2c(), ledger.b2c()
    ledger.hold(never_begun, "b")
    attempt = ledger.begin(session, "a")
    ledger.run("delete from generation_sessions")
    if end == "recover":
        ledger.expire(session)
        ledger.recover()
    elif end == "hold":
        ledger.hold(session, "a")
    else:
        getattr(ledger, end)(session, "a", attempt)
    ledger.hold(never_begun, "b")

    (found,) = unwanted(ledger)

    assert (found["channel"], found["session_id"], found["owner_id"]) == (
        "b2c",
        str(session.id),
        str(session.owner),
    )


def test_an_object_stored_after_the_deletion_is_unwanted_once_more(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    ledger.run("delete from generation_sessions")
    ledger.check(session, "a", attempt)
    (before,) = unwanted(ledger)

    ledger.complete(session, "a", attempt)
    ledger.rpc("generation_objects_deleted", p_objects=[before])
    (after,) = unwanted(ledger)
    ledger.rpc("generation_objects_deleted", p_objects=[after])

    assert after["since"] > before["since"]
    assert unwanted(ledger) == []


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_the_object_of_a_session_that_its_worker_settled_is_left(ledger: LedgerDatabase, end: str) -> None:
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    getattr(ledger, end)(session, "a", attempt)

    assert ledger.complete(session, "stranger", attempt)["verdict"] == "settled"
    assert [row["session_id"] for row in unwanted(ledger)] == ([] if end == "complete" else [str(session.id)])
