"""Cancelling in the database: at which moments it is done, who may do it, and what is given back."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from integration.database import LedgerDatabase, Paying, RpcRefused, Session

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.outcomes import CancelAnswer, GenerationOutcome

Moment = Callable[[LedgerDatabase, Session], None]


def waits(ledger: LedgerDatabase, session: Session) -> None:
    """In the list, in a lane or in Celery's queue: the ledger does not know it."""


def held(ledger: LedgerDatabase, session: Session) -> None:
    assert ledger.hold(session, "a")["verdict"] == "held"


def given_back(ledger: LedgerDatabase, session: Session) -> None:
    held(ledger, session)
    assert ledger.release(session, "a")["verdict"] == "released"


def claimed_before_its_pictures(ledger: LedgerDatabase, session: Session) -> None:
    held(ledger, session)
    assert ledger.claim(session, "a", call_begins=False)["verdict"] == "claimed"


def left_by_a_killed_worker(ledger: LedgerDatabase, session: Session) -> None:
    claimed_before_its_pictures(ledger, session)
    ledger.expire(session)


def recovered(ledger: LedgerDatabase, session: Session) -> None:
    left_by_a_killed_worker(ledger, session)
    assert len(ledger.recover()) == 1


def postponed(ledger: LedgerDatabase, session: Session) -> None:
    claimed_before_its_pictures(ledger, session)
    assert ledger.postpone(session, "a", 1)["verdict"] == "postponed"


def call_begun_by_the_claim(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "a")


def call_begun_after_the_claim(ledger: LedgerDatabase, session: Session) -> None:
    claimed_before_its_pictures(ledger, session)
    assert ledger.begin_call(session, "a", 1)["verdict"] == "begun"


def call_begun_by_a_killed_worker(ledger: LedgerDatabase, session: Session) -> None:
    """Its answer, which may cost money, was seen by nobody."""
    ledger.begin(session, "a")
    ledger.expire(session)


def taken_over_after_a_call(ledger: LedgerDatabase, session: Session) -> None:
    call_begun_by_a_killed_worker(ledger, session)
    assert ledger.hold(session, "b")["verdict"] == "held"
    assert ledger.claim(session, "b", call_begins=False)["attempt"] == 2


def rate_limited(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "a")
    assert ledger.requeue(session, "a", 1)["verdict"] == "requeued"


def worked_on_without_a_ledger(ledger: LedgerDatabase, session: Session) -> None:
    table = "generation_sessions" if session.channel == "b2c" else "store_generation_sessions"
    ledger.run(f"update {table} set status = 'processing' where id = %s", session.id)


IN_TIME = [
    waits,
    held,
    given_back,
    claimed_before_its_pictures,
    left_by_a_killed_worker,
    recovered,
    postponed,
]
TOO_LATE = [
    call_begun_by_the_claim,
    call_begun_after_the_claim,
    call_begun_by_a_killed_worker,
    taken_over_after_a_call,
    rate_limited,
    worked_on_without_a_ledger,
]


@pytest.fixture(params=["b2c", "absorb", "resell"])
def session(request: pytest.FixtureRequest, ledger: LedgerDatabase) -> Session:
    paying: Paying = "resell" if request.param == "resell" else "absorb"
    return ledger.b2c() if request.param == "b2c" else ledger.b2b(paying, amount=2)


@pytest.mark.parametrize("moment", IN_TIME)
def test_session_is_failed_and_refunded_before_the_first_call(
    ledger: LedgerDatabase, session: Session, moment: Moment
) -> None:
    moment(ledger, session)

    answer = CancelAnswer.model_validate(ledger.cancel(session))

    assert (answer.verdict, answer.given_back) == ("cancelled", True)
    row, entry = ledger.session_row(session), ledger.entry(session)
    assert (row["status"], row["error_message"]) == ("failed", sentence(ErrorCode.CANCELLED))
    assert (entry["state"], entry["settled_by"]) == ("settled", "cancellation")
    assert (entry["error_code"], entry["refund_state"]) == (ErrorCode.CANCELLED, "refunded")
    assert entry["flagged_reason"] is None
    assert entry["task"] is None, "prompt and signed addresses are kept for longer than needed"
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    outcome = GenerationOutcome.model_validate(ledger.outcome(session))
    assert (outcome.error_code, outcome.given_back) == (ErrorCode.CANCELLED, True)


@pytest.mark.parametrize("moment", IN_TIME)
def test_nobody_gets_a_cancelled_session(ledger: LedgerDatabase, moment: Moment) -> None:
    session = ledger.b2c(age=1000)
    moment(ledger, session)
    ledger.cancel(session)

    turned_away = [
        ledger.hold(session, "a"),
        ledger.hold(session, "b"),
        ledger.claim(session, "a"),
        ledger.begin_call(session, "a", 1),
        ledger.complete(session, "a", 1),
        ledger.fail(session, "a", 1),
        ledger.reject(session),
        *ledger.reap(session),
    ]

    assert {answer["verdict"] for answer in turned_away} == {"settled"}
    assert {answer["settled_by"] for answer in turned_away} == {"cancellation"}
    assert ledger.renew("a", "b") == []
    assert (ledger.recover(), ledger.orphans()) == ([], [])
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)


@pytest.mark.parametrize("moment", TOO_LATE)
def test_cancelling_is_too_late_once_a_call_has_begun(
    ledger: LedgerDatabase, session: Session, moment: Moment
) -> None:
    moment(ledger, session)
    status = ledger.status(session)

    answer = CancelAnswer.model_validate(ledger.cancel(session))

    assert (answer.verdict, answer.given_back, answer.refund) == ("too_late", False, None)
    assert ledger.status(session) == status
    assert ledger.refunds(session) == 0
    assert ledger.knows(session) == (moment is not worked_on_without_a_ledger)


def test_second_cancellation_gives_nothing_back_again(ledger: LedgerDatabase, session: Session) -> None:
    ledger.cancel(session)

    answer = CancelAnswer.model_validate(ledger.cancel(session))

    assert (answer.verdict, answer.given_back) == ("already_cancelled", True)
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("status", ["completed", "failed"])
def test_session_that_has_ended_says_how(ledger: LedgerDatabase, status: str, known: bool) -> None:
    session = ledger.b2c()
    if known:
        attempt = ledger.begin(session, "a")
        end = ledger.complete if status == "completed" else ledger.fail
        end(session, "a", attempt)
    else:
        ledger.run("update generation_sessions set status = %s where id = %s", status, session.id)
    refunds = ledger.refunds(session)

    assert ledger.cancel(session)["verdict"] == status
    assert ledger.refunds(session) == refunds


def test_session_that_the_cron_has_just_refunded_is_not_refunded_again(ledger: LedgerDatabase) -> None:
    session = ledger.b2c(age=1000)
    ledger.run(
        "select refund_credits(%s, 1, format('Stuck job recovery: session %%s timed out after 10 minutes',"
        " %s::text))",
        session.owner,
        session.id,
    )

    answer = ledger.cancel(session)

    assert (answer["verdict"], answer["refund"]["state"]) == ("cancelled", "already_refunded")
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)


def test_cancelled_session_of_which_nothing_is_known_to_be_taken_is_flagged(ledger: LedgerDatabase) -> None:
    session = ledger.b2b("overage")

    answer = CancelAnswer.model_validate(ledger.cancel(session))

    assert (answer.verdict, answer.given_back) == ("cancelled", False)
    assert ledger.entry(session)["flagged_reason"] == "overage"


def test_user_cancels_a_session_of_their_own(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()

    answer = ledger.cancel(session, token=ledger.user_token(session.owner))

    assert answer["verdict"] == "cancelled"
    assert (ledger.status(session), ledger.balance(session)) == ("failed", 10)


def test_user_finds_no_session_of_anybody_else(ledger: LedgerDatabase) -> None:
    stranger = ledger.user_token(ledger.user())
    for session in (ledger.b2c(), ledger.b2b("absorb"), Session("b2c", uuid.uuid4(), uuid.uuid4(), None)):
        answer = ledger.cancel(session, token=stranger)
        assert answer == {
            "verdict": "session_not_found",
            "session_id": str(session.id),
            "given_back": False,
            "refund": None,
        }
        assert not ledger.knows(session)
        with pytest.raises(RpcRefused) as refused:
            ledger.cancel(session, token=ledger.anon_token())
        assert refused.value.code == "42501"


def test_a_store_is_no_user_even_if_it_has_the_same_id(ledger: LedgerDatabase) -> None:
    session = ledger.b2b("absorb")

    assert ledger.cancel(session, token=ledger.user_token(session.owner))["verdict"] == "session_not_found"
    assert ledger.status(session) == "queued"


def test_worker_from_before_there_was_a_mark_cannot_be_overtaken(ledger: LedgerDatabase) -> None:
    """It claims without saying that it calls next, and what it had claimed before counts as called."""
    session = ledger.b2c()
    ledger.hold(session, "old")
    ledger.rpc(
        "generation_claim",
        **session.named,
        p_holder="old",
        p_lease_seconds=30,
        p_deadline_seconds=300,
        p_max_attempts=5,
    )
    claimed_before = ledger.b2c()
    ledger.begin(claimed_before, "older")
    ledger.run("update generation_ledger set call_begun_at = null where session_id = %s", claimed_before.id)
    ledger.migrate_again()

    assert ledger.cancel(session)["verdict"] == "too_late"
    assert ledger.cancel(claimed_before)["verdict"] == "too_late"


def test_ledger_from_before_sessions_could_be_cancelled_is_widened(ledger: LedgerDatabase) -> None:
    name = "generation_ledger_settled_by_check"
    ledger.run(f"alter table generation_ledger drop constraint {name}")
    ledger.run(
        f"alter table generation_ledger add constraint {name} check (settled_by in ('worker', 'gone'))"
    )
    ledger.migrate_again()
    session = ledger.b2c()

    assert ledger.cancel(session)["verdict"] == "cancelled"
