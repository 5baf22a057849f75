"""A failed session gives back exactly what was taken, to whoever paid, once: payer by payer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from integration.database import LedgerDatabase, Row, RpcRefused, Session

from wearon_local.app.tables import BillingMode


def failed(ledger: LedgerDatabase, session: Session) -> Row:
    """Fail the session as a worker does, twice, as after a lost answer; returns the answer."""
    attempt = ledger.begin(session, "a")
    answer = ledger.fail(session, "a", attempt)
    assert answer["verdict"] == "failed"
    assert ledger.fail(session, "a", attempt) == answer
    assert ledger.fail(session, "b", attempt)["verdict"] == "settled"
    row = ledger.session_row(session)
    assert row["status"] == "failed"
    assert row["error_message"] == "Something went wrong on our side. Please try again."
    assert row["completed_at"] is None
    assert ledger.entry(session)["error_code"] == "internal_error"
    return answer


def refund(state: str, amount: int, payer: str | None) -> Row:
    return {"state": state, "amount": amount, "payer": payer}


def test_b2c_gives_one_credit_back_to_the_user(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    assert ledger.balance(session) == 9

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund("refunded", 1, "user"), False)
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    assert ledger.entry(session)["refunded_at"] is not None


def test_b2c_never_believes_credits_used(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    ledger.run("update generation_sessions set credits_used = 1000 where id = %s", session.id)

    failed(ledger, session)

    assert ledger.balance(session) == 10


@pytest.mark.parametrize("amount", [1, 3])
def test_absorbing_store_gets_the_deducted_amount(ledger: LedgerDatabase, amount: int) -> None:
    session = ledger.b2b("absorb", amount=amount)
    assert ledger.balance(session) == 10 - amount

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund("refunded", amount, "store"), False)
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)


def test_a_deduction_written_as_a_negative_amount_is_given_back_all_the_same(ledger: LedgerDatabase) -> None:
    session = ledger.b2b("absorb", amount=2)
    ledger.run("update store_credit_transactions set amount = -2 where request_id = %s", session.request_id)

    assert failed(ledger, session)["refund"] == refund("refunded", 2, "store")
    assert ledger.balance(session) == 10


def test_reselling_store_gives_back_to_the_shopper(ledger: LedgerDatabase) -> None:
    session = ledger.b2b("resell", amount=2)

    answer = failed(ledger, session)

    assert answer["refund"] == refund("refunded", 2, "shopper")
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    assert ledger.value("select balance from store_credits where store_id = %s", session.owner) == 10


def test_overage_mints_nothing_and_is_flagged(ledger: LedgerDatabase) -> None:
    session = ledger.b2b("overage")

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund("overage", 0, None), True)
    assert (ledger.balance(session), ledger.refunds(session)) == (0, 0)
    assert ledger.entry(session)["refunded_at"] is None


@pytest.mark.parametrize("other_type", ["purchase", "subscription", None])
def test_without_a_deduction_nothing_is_minted_and_a_person_is_told(
    ledger: LedgerDatabase, other_type: str | None
) -> None:
    store = ledger.store(balance=5)
    session = ledger.b2b_row(store, "req-1", email=None)
    # Another store's deduction with the same request_id is none of this one's business.
    ledger.run("select deduct_store_credits(%s, 1, 'req-1', '')", ledger.store())
    if other_type:
        ledger.run(
            "insert into store_credit_transactions (store_id, amount, type, request_id)"
            " values (%s, 7, %s, 'req-1')",
            store,
            other_type,
        )

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund("nothing_deducted", 0, None), True)
    assert (ledger.balance(session), ledger.refunds(session)) == (5, 0)


@pytest.mark.parametrize("mode", ["absorb_mode", "resell_mode"])
def test_without_a_request_id_nothing_is_minted(ledger: LedgerDatabase, mode: BillingMode) -> None:
    store = ledger.store(mode)
    email = ledger.shopper(store)
    ledger.run("select deduct_store_credits(%s, 1, null, '')", store)
    session = ledger.b2b_row(store, None, email=email)
    payers = [session, replace(session, shopper=email)]
    before = [ledger.balance(payer) for payer in payers]

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund("nothing_deducted", 0, None), True)
    assert ([ledger.balance(payer) for payer in payers], ledger.refunds(session)) == (before, 0)


@pytest.mark.parametrize("email", [None, "stranger@example.com"])
def test_a_shopper_who_cannot_be_paid_is_owed(ledger: LedgerDatabase, email: str | None) -> None:
    session = ledger.b2b("resell")
    ledger.run("update store_generation_sessions set shopper_email = %s where id = %s", email, session.id)

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund("owed", 1, "shopper"), True)
    assert (ledger.balance(session), ledger.refunds(session)) == (9, 0)
    assert ledger.entry(session)["refund_error"] == "P0001"


def test_a_user_without_a_balance_is_owed_and_no_refund_is_booked(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    ledger.run("delete from user_credits where user_id = %s", session.owner)

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund("owed", 1, "user"), True)
    assert ledger.refunds(session) == 0


def test_what_was_given_back_before_is_not_given_back_again(ledger: LedgerDatabase) -> None:
    session = ledger.b2b("absorb")
    ledger.run("select refund_store_credits(%s, 1, %s, '')", session.owner, session.request_id)

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund("already_refunded", 1, "store"), False)
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)


def test_sessions_that_share_a_request_id_are_given_back_one_deduction(ledger: LedgerDatabase) -> None:
    first = ledger.b2b("absorb")
    second = ledger.b2b_row(first.owner, first.request_id, email=None)

    assert failed(ledger, first)["refund"]["state"] == "refunded"
    assert failed(ledger, second)["refund"]["state"] == "already_refunded"
    assert (ledger.balance(first), ledger.refunds(first)) == (10, 1)


def test_the_row_decides_about_request_id_and_shopper_not_the_payload(ledger: LedgerDatabase) -> None:
    session = ledger.b2b("absorb")
    other = ledger.b2b("absorb")
    ledger.hold(session, "a", request_id=other.request_id, credits_used=50)
    ledger.claim(session, "a")

    assert ledger.fail(session, "a", 1)["refund"]["state"] == "refunded"
    assert (ledger.balance(session), ledger.balance(other)) == (10, 9)


# -------------------------------------------------------------- the application's refund function fails


@pytest.fixture
def broken_refund(ledger: LedgerDatabase) -> Iterator[Callable[[str], None]]:
    """Lets refund_credits pay and then raise the given SQLSTATE."""
    original = ledger.value("select pg_get_functiondef('refund_credits'::regproc)")

    def break_it(sqlstate: str) -> None:
        ledger.run(
            original.replace(
                "end\n$function$", f"raise exception using errcode = '{sqlstate}';\nend\n$function$"
            )
        )

    yield break_it
    ledger.run(original)


@pytest.mark.parametrize(
    ("sqlstate", "state", "flagged"),
    [("23505", "already_refunded", False), ("P0001", "owed", True), ("42883", "owed", True)],
)
def test_a_refund_that_raises_leaves_the_session_failed_and_no_half_refund(
    ledger: LedgerDatabase,
    broken_refund: Callable[[str], None],
    sqlstate: str,
    state: str,
    flagged: bool,
) -> None:
    session = ledger.b2c()
    broken_refund(sqlstate)

    answer = failed(ledger, session)

    assert (answer["refund"], answer["flagged"]) == (refund(state, 1, "user"), flagged)
    assert (ledger.balance(session), ledger.refunds(session)) == (9, 0)


# Not 40001: PostgREST itself repeats a transaction that could not be serialised.
@pytest.mark.parametrize("sqlstate", ["40P01", "55P03", "53200"])
def test_a_refund_that_fails_for_a_passing_reason_is_all_to_be_done_again(
    ledger: LedgerDatabase, broken_refund: Callable[[str], None], sqlstate: str
) -> None:
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    broken_refund(sqlstate)

    with pytest.raises(RpcRefused) as refused:
        ledger.fail(session, "a", attempt)

    assert refused.value.code == sqlstate
    assert ledger.status(session) == "processing"
    assert ledger.check(session, "a", attempt)["verdict"] == "current"
    assert (ledger.balance(session), ledger.refunds(session)) == (9, 0)


# --------------------------------------------------------------------------------------------- rejection


@pytest.mark.parametrize("paying", ["b2c", "absorb", "resell"])
def test_reject_fails_and_refunds_a_session_nobody_knows(ledger: LedgerDatabase, paying: str) -> None:
    session = ledger.b2c() if paying == "b2c" else ledger.b2b("resell" if paying == "resell" else "absorb")

    answer = ledger.reject(session)

    assert (answer["verdict"], answer["refund"]["state"]) == ("failed", "refunded")
    assert ledger.reject(session) == answer
    assert ledger.session_row(session)["error_message"] == "It could not be read."
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    assert ledger.hold(session, "a")["verdict"] == "settled"


def test_reject_leaves_alone_what_is_held_worked_on_settled_or_unknown(ledger: LedgerDatabase) -> None:
    held, recovering, foreign, done = ledger.b2c(), ledger.b2c(), ledger.b2b(), ledger.b2c()
    ledger.hold(held, "a")
    ledger.hold(recovering, "b")
    ledger.expire(recovering)
    ledger.recover()
    ledger.run("update store_generation_sessions set status = 'processing' where id = %s", foreign.id)
    ledger.run("update generation_sessions set status = 'completed' where id = %s", done.id)
    stranger = Session("b2c", uuid.uuid4(), uuid.uuid4(), None)

    assert ledger.reject(held)["verdict"] == "busy"
    assert ledger.reject(recovering)["verdict"] == "busy"
    assert ledger.reject(foreign)["verdict"] == "busy"
    assert (ledger.reject(done)["verdict"], ledger.reject(done)["outcome"]) == ("settled", "completed")
    assert ledger.reject(stranger)["verdict"] == "session_not_found"
    assert ledger.status(held) == "queued"
    assert not ledger.knows(foreign)
    assert not ledger.knows(done)


def test_an_unknown_channel_is_an_error(ledger: LedgerDatabase) -> None:
    with pytest.raises(RpcRefused) as refused:
        ledger.reject(Session("b2d", uuid.uuid4(), uuid.uuid4(), None))

    assert refused.value.code == "22023"
