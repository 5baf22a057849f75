"""From the hold to the end of an attempt: every verdict, repeated calls, leases and the fencing token."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

import pytest
from integration.database import LedgerDatabase, Session


def seconds_until(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


@pytest.fixture(params=["b2c", "b2b"])
def session(request: pytest.FixtureRequest, ledger: LedgerDatabase) -> Session:
    return ledger.b2c() if request.param == "b2c" else ledger.b2b()


# ------------------------------------------------------------------------------------------------- hold


def test_hold_notes_task_and_holder_and_leaves_the_session_alone(
    ledger: LedgerDatabase, session: Session
) -> None:
    answer = ledger.hold(session, "a", prompt="a red coat")

    assert (answer["verdict"], answer["attempt"], answer["status"]) == ("held", 0, "queued")
    entry = ledger.entry(session)
    assert entry["task"] == session.task(prompt="a red coat", task_id=entry["task"]["task_id"])
    assert (entry["holder"], entry["state"], entry["owner_id"]) == ("a", "waiting", session.owner)
    assert ledger.status(session) == "queued"


def test_hold_repeated_by_the_holder_says_the_same_and_a_duplicate_is_turned_away(
    ledger: LedgerDatabase, session: Session
) -> None:
    first = ledger.hold(session, "a")
    again = ledger.hold(session, "a")
    other = ledger.hold(session, "b")

    assert again["verdict"] == "held"
    assert again["lease_expires_at"] >= first["lease_expires_at"]
    assert other["verdict"] == "held_elsewhere"
    assert other["lease_expires_at"] == again["lease_expires_at"]
    assert ledger.entry(session)["holder"] == "a"


def test_hold_of_an_unknown_session_leaves_nothing_behind(ledger: LedgerDatabase) -> None:
    stranger = Session("b2c", uuid.uuid4(), uuid.uuid4(), None)

    assert ledger.hold(stranger, "a")["verdict"] == "session_not_found"
    assert not ledger.knows(stranger)


def test_hold_refuses_a_payload_that_names_another_owner(ledger: LedgerDatabase, session: Session) -> None:
    forged = Session(session.channel, session.id, uuid.uuid4(), session.request_id)

    assert ledger.hold(forged, "a")["verdict"] == "owner_mismatch"
    assert not ledger.knows(session)


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_hold_refuses_a_session_settled_without_the_ledger(ledger: LedgerDatabase, status: str) -> None:
    session = ledger.b2c(status=status)

    answer = ledger.hold(session, "a")

    assert (answer["verdict"], answer["outcome"]) == ("settled", status)
    assert ledger.status(session) == status


def test_hold_takes_a_pending_session(ledger: LedgerDatabase) -> None:
    session = ledger.b2c(status="pending")

    assert ledger.begin(session, "a") == 1
    assert ledger.status(session) == "processing"


# ------------------------------------------------------------------------------------------------ claim


def test_claim_starts_attempt_deadline_and_processing(ledger: LedgerDatabase, session: Session) -> None:
    ledger.hold(session, "a")

    answer = ledger.claim(session, "a")

    assert (answer["verdict"], answer["attempt"]) == ("claimed", 1)
    assert seconds_until(answer["deadline_at"], answer["lease_expires_at"]) == pytest.approx(270)
    assert ledger.status(session) == "processing"


def test_claim_repeated_after_a_lost_answer_is_the_same_attempt(
    ledger: LedgerDatabase, session: Session
) -> None:
    ledger.hold(session, "a")
    first = ledger.claim(session, "a")
    again = ledger.claim(session, "a")

    assert (again["verdict"], again["attempt"]) == ("claimed", 1)
    assert again["deadline_at"] == first["deadline_at"]


def test_claim_without_a_hold_or_against_a_live_lease_is_lost(
    ledger: LedgerDatabase, session: Session
) -> None:
    assert ledger.claim(session, "a")["verdict"] == "lost"
    ledger.hold(session, "a")
    assert ledger.claim(session, "b")["verdict"] == "lost"
    assert ledger.status(session) == "queued"


def test_claim_wins_over_an_expired_lease(ledger: LedgerDatabase, session: Session) -> None:
    ledger.hold(session, "a")
    ledger.expire(session)

    assert ledger.claim(session, "b")["verdict"] == "claimed"
    assert ledger.claim(session, "a")["verdict"] == "lost"


def test_sixth_claim_is_poison_and_may_still_be_settled(ledger: LedgerDatabase, session: Session) -> None:
    for attempt in range(1, 6):
        assert ledger.begin(session, f"holder {attempt}") == attempt
        ledger.expire(session)

    assert ledger.hold(session, "last")["verdict"] == "held"
    answer = ledger.claim(session, "last")
    again = ledger.claim(session, "last")

    assert (answer["verdict"], answer["attempt"]) == ("poison", 6)
    assert (again["verdict"], again["attempt"]) == ("poison", 6)
    assert ledger.fail(session, "last", 6, "attempts_exhausted")["refund"]["state"] == "refunded"
    assert ledger.balance(session) == 10


def test_a_claim_that_ended_in_a_rate_limit_does_not_count_towards_poison(
    ledger: LedgerDatabase, session: Session
) -> None:
    ledger.begin(session, "a")
    ledger.requeue(session, "a", 1, delay=0)
    ledger.hold(session, "b")

    assert ledger.claim(session, "b", most=1)["verdict"] == "claimed"
    ledger.expire(session)
    ledger.hold(session, "c")
    assert ledger.claim(session, "c", most=1)["verdict"] == "poison"


# ----------------------------------------------------------------------------------- renew and release


def test_renew_extends_waiting_and_working_leases_and_names_who_still_holds(ledger: LedgerDatabase) -> None:
    waiting, working, taken = ledger.b2c(), ledger.b2b(), ledger.b2c()
    ledger.hold(waiting, "waiting", lease=5)
    ledger.hold(working, "working", lease=5)
    ledger.claim(working, "working", lease=5)
    ledger.hold(taken, "paused")
    ledger.expire(taken)
    ledger.hold(taken, "taker")
    before = ledger.entry(waiting)["lease_expires_at"], ledger.entry(taken)["lease_expires_at"]

    assert ledger.renew("waiting", "working", "paused", "stranger", lease=60) == ["waiting", "working"]

    assert ledger.entry(waiting)["lease_expires_at"] > before[0] + timedelta(seconds=50)
    assert ledger.entry(working)["lease_expires_at"] > before[0] + timedelta(seconds=50)
    assert ledger.entry(taken)["lease_expires_at"] == before[1]


def test_renew_brings_an_expired_lease_back_if_nobody_took_it(
    ledger: LedgerDatabase, session: Session
) -> None:
    ledger.begin(session, "a")
    ledger.expire(session)

    assert ledger.renew("a") == ["a"]
    assert ledger.hold(session, "b")["verdict"] == "held_elsewhere"


def test_renew_does_not_wait_for_a_session_that_is_being_decided(ledger: LedgerDatabase) -> None:
    busy, free = ledger.b2c(), ledger.b2c()
    ledger.hold(busy, "busy", lease=5)
    ledger.hold(free, "free", lease=5)
    with ledger.connect() as other:
        other.execute("select 1 from generation_ledger where session_id = %s for update", [busy.id])

        assert ledger.renew("busy", "free", lease=60) == ["busy", "free"]

    assert ledger.entry(free)["lease_expires_at"] > ledger.entry(busy)["lease_expires_at"]


def test_nobody_holds_what_is_settled(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "a")
    ledger.complete(session, "a", 1)

    assert ledger.renew("a") == []


def test_release_lets_the_next_delivery_hold_at_once(ledger: LedgerDatabase, session: Session) -> None:
    ledger.hold(session, "a", lease=600)

    assert ledger.release(session, "a")["verdict"] == "released"
    assert ledger.release(session, "a")["verdict"] == "released"
    assert ledger.renew("a") == []
    assert ledger.hold(session, "b")["verdict"] == "held"
    assert ledger.release(session, "a")["verdict"] == "lost"


def test_release_is_refused_once_claimed_and_once_settled(ledger: LedgerDatabase, session: Session) -> None:
    assert ledger.release(session, "a")["verdict"] == "lost"
    ledger.begin(session, "a")
    assert ledger.release(session, "a")["verdict"] == "lost"
    ledger.complete(session, "a", 1)
    assert ledger.release(session, "a")["verdict"] == "settled"


def test_a_released_session_that_nobody_takes_is_recovered_after_a_minute(
    ledger: LedgerDatabase, session: Session
) -> None:
    ledger.hold(session, "a")
    released = ledger.release(session, "a")

    assert ledger.value(
        "select %s::timestamptz - now() between interval '50 s' and interval '60 s'",
        released["lease_expires_at"],
    )
    assert ledger.recover() == []
    ledger.expire(session)
    assert [found["session_id"] for found in ledger.recover()] == [str(session.id)]


# ---------------------------------------------------------------------------------------------- requeue


def test_requeue_waits_until_due(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "a")

    answer = ledger.requeue(session, "a", 1, delay=10)

    assert (answer["verdict"], answer["rate_limit_retries"]) == ("requeued", 1)
    assert ledger.status(session) == "queued"
    held = ledger.hold(session, "b")
    assert (held["verdict"], held["due_at"]) == ("held", answer["due_at"])
    early = ledger.claim(session, "b")
    assert (early["verdict"], early["due_at"]) == ("not_due", answer["due_at"])
    assert ledger.status(session) == "queued"
    ledger.make_due(session)
    assert ledger.claim(session, "b")["attempt"] == 2


def test_requeue_repeated_after_a_lost_answer_keeps_due_time_and_count(
    ledger: LedgerDatabase, session: Session
) -> None:
    ledger.begin(session, "a")
    first = ledger.requeue(session, "a", 1)
    again = ledger.requeue(session, "a", 1, delay=99)

    assert 9 < again.pop("due_in_seconds") <= first.pop("due_in_seconds") < 10.1
    assert again == first


def test_second_rate_limit_is_exhausted_and_changes_nothing(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "a")
    ledger.requeue(session, "a", 1, delay=0)
    ledger.begin(session, "b")

    assert ledger.requeue(session, "b", 2)["verdict"] == "exhausted"
    assert ledger.status(session) == "processing"
    assert ledger.check(session, "b", 2)["verdict"] == "current"
    failed = ledger.fail(session, "b", 2, "rate_limited")
    assert (failed["verdict"], failed["refund"]["state"]) == ("failed", "refunded")
    assert ledger.balance(session) == 10


def test_a_retry_that_never_arrives_is_recovered(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "a")
    due_at = ledger.requeue(session, "a", 1)["due_at"]
    assert ledger.entry(session)["lease_expires_at"] > datetime.fromisoformat(due_at)
    assert ledger.recover() == []
    ledger.expire(session)

    (found,) = ledger.recover()

    assert found["session_id"] == str(session.id)
    assert ledger.hold(session, "b")["due_at"] == due_at


# --------------------------------------------------------------------------------------------- complete


def test_complete_fills_the_row(ledger: LedgerDatabase, session: Session) -> None:
    attempt = ledger.begin(session, "a")

    answer = ledger.complete(session, "a", attempt)

    assert (answer["verdict"], answer["outcome"], answer["refund"]) == ("completed", "completed", None)
    row = ledger.session_row(session)
    assert row["status"] == "completed"
    assert row["completed_at"] is not None
    assert row["generated_image_url"] == "https://example.com/result.jpg"
    assert (row["processing_time_ms"], row["input_tokens"], row["output_tokens"]) == (12345, 1500, 2500)
    assert str(row["estimated_cost_usd"]) == "0.081234"
    assert row["error_message"] is None
    entry = ledger.entry(session)
    assert entry["object_path"].endswith(f"{session.id}.jpg")
    assert (entry["task"], entry["holder"], entry["lease_expires_at"]) == (None, None, None)
    assert ledger.balance(session) == 9


def test_complete_repeated_by_the_same_attempt_says_completed_and_changes_nothing(
    ledger: LedgerDatabase, session: Session
) -> None:
    attempt = ledger.begin(session, "a")
    ledger.complete(session, "a", attempt)
    row = ledger.session_row(session)

    again = ledger.complete(session, "a", attempt, p_result_url="https://example.com/other.jpg")

    assert again["verdict"] == "completed"
    assert ledger.session_row(session) == row
    assert ledger.complete(session, "b", attempt)["verdict"] == "settled"
    assert ledger.complete(session, "a", attempt + 1)["verdict"] == "settled"
    assert ledger.fail(session, "a", attempt)["verdict"] == "settled"
    assert ledger.balance(session) == 9


def test_complete_needs_a_claim(ledger: LedgerDatabase, session: Session) -> None:
    assert ledger.complete(session, "a", 0)["verdict"] == "lost"
    ledger.hold(session, "a")
    assert ledger.complete(session, "a", 0)["verdict"] == "lost"
    assert ledger.fail(session, "a", 0)["verdict"] == "lost"
    assert ledger.requeue(session, "a", 0)["verdict"] == "lost"
    assert ledger.status(session) == "queued"


def test_complete_of_a_picture_stored_by_an_earlier_attempt_takes_its_figures(
    ledger: LedgerDatabase, session: Session
) -> None:
    ledger.begin(session, "a")
    ledger.record_usage(session, uuid.uuid4(), tokens_in=700)
    ledger.expire(session)
    attempt = ledger.begin(session, "b")

    ledger.complete(session, "b", attempt, p_input_tokens=None, p_output_tokens=None, p_cost_usd=None)

    row = ledger.session_row(session)
    assert (row["input_tokens"], row["output_tokens"]) == (700, 2000)
    assert str(row["estimated_cost_usd"]) == "0.064321"


def test_usage_is_recorded_once_per_call(ledger: LedgerDatabase, session: Session) -> None:
    call_id = uuid.uuid4()

    assert ledger.record_usage(session, call_id) == {"verdict": "recorded"}
    assert ledger.record_usage(session, call_id, tokens_in=999) == {"verdict": "recorded"}
    ledger.record_usage(session, uuid.uuid4())

    kept = ledger.rows("select * from generation_usage where session_id = %s", session.id)
    assert [row["input_tokens"] for row in kept] == [100, 100]
    assert {str(row["cost_usd"]) for row in kept} == {"0.064321"}


# ----------------------------------------------------------------------------------------- fencing token


def test_a_holder_that_was_overtaken_is_refused_everything(ledger: LedgerDatabase, session: Session) -> None:
    stale = ledger.begin(session, "paused")
    assert ledger.check(session, "paused", stale)["verdict"] == "current"
    ledger.expire(session)
    assert ledger.check(session, "paused", stale)["verdict"] == "current"

    current = ledger.begin(session, "taker")

    assert (stale, current) == (1, 2)
    for attempt in (stale, current):
        assert ledger.check(session, "paused", attempt)["verdict"] == "lost"
        assert ledger.complete(session, "paused", attempt)["verdict"] == "lost"
        assert ledger.fail(session, "paused", attempt)["verdict"] == "lost"
        assert ledger.requeue(session, "paused", attempt)["verdict"] == "lost"
    assert ledger.complete(session, "taker", stale)["verdict"] == "lost"
    assert ledger.claim(session, "paused")["verdict"] == "lost"
    assert ledger.release(session, "paused")["verdict"] == "lost"
    assert ledger.status(session) == "processing"
    assert ledger.complete(session, "taker", current)["verdict"] == "completed"
    assert ledger.check(session, "paused", stale)["verdict"] == "settled"
    assert ledger.balance(session) == 9


def test_a_hold_alone_fences_the_earlier_attempt_off(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "paused")
    ledger.expire(session)

    answer = ledger.hold(session, "taker")

    assert (answer["verdict"], answer["attempt"], answer["status"]) == ("held", 1, "processing")
    assert ledger.complete(session, "paused", 1)["verdict"] == "lost"
    assert ledger.status(session) == "processing"


def test_an_expired_attempt_that_nobody_took_still_counts(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "slow")
    ledger.expire(session)

    assert ledger.complete(session, "slow", 1)["verdict"] == "completed"


def test_a_settled_session_is_never_begun_again(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "a")
    ledger.complete(session, "a", 1)

    for answer in (
        ledger.hold(session, "b"),
        ledger.claim(session, "b"),
        ledger.requeue(session, "b", 1),
        ledger.check(session, "b", 1),
        ledger.fail(session, "b", 1),
        ledger.reject(session),
    ):
        assert (answer["verdict"], answer["outcome"]) == ("settled", "completed")
    assert ledger.status(session) == "completed"


# -------------------------------------------------------------------------------------------- postpone


def test_postpone_keeps_the_status_and_lets_the_next_holder_in(
    ledger: LedgerDatabase, session: Session
) -> None:
    attempt = ledger.begin(session, "a")

    assert ledger.postpone(session, "a", attempt)["verdict"] == "postponed"
    assert ledger.postpone(session, "a", attempt)["verdict"] == "postponed"
    assert ledger.status(session) == "processing"
    entry = ledger.entry(session)
    assert (entry["state"], entry["holder"], entry["postponed"]) == ("waiting", None, 1)
    assert ledger.begin(session, "b") == attempt + 1
    assert ledger.postpone(session, "a", attempt)["verdict"] == "lost"


def test_postponed_attempts_never_make_a_task_poison(ledger: LedgerDatabase, session: Session) -> None:
    for number in range(1, 8):
        attempt = ledger.begin(session, f"holder {number}")
        assert attempt == number
        assert ledger.postpone(session, f"holder {number}", attempt)["verdict"] == "postponed"


def test_postpone_of_a_session_that_was_settled_meanwhile_says_so(
    ledger: LedgerDatabase, session: Session
) -> None:
    attempt = ledger.begin(session, "a")
    ledger.fail(session, "a", attempt)

    assert ledger.postpone(session, "a", attempt)["verdict"] == "settled"


def test_hold_tells_how_many_holders_vanished(ledger: LedgerDatabase) -> None:
    """One that gave the session up, or came back, did not vanish."""
    session = ledger.b2c()
    assert ledger.hold(session, "a")["holders_lost"] == 0
    ledger.release(session, "a")
    assert ledger.hold(session, "b")["holders_lost"] == 0
    ledger.expire(session)
    assert ledger.hold(session, "b")["holders_lost"] == 0
    ledger.expire(session)
    ledger.recover()
    assert ledger.hold(session, "c")["holders_lost"] == 1
    ledger.claim(session, "c")
    ledger.requeue(session, "c", 1)
    ledger.make_due(session)
    found = ledger.hold(session, "d")
    assert (found["holders_lost"], found["rate_limit_retries"], found["postponed"]) == (1, 1, 0)
    ledger.expire(session)
    assert ledger.hold(session, "e")["holders_lost"] == 2
