"""Many calls at the same moment, over real connections: one holder, one settlement, one refund."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from integration.database import LedgerDatabase, RpcRefused, Session, all_at_once

THREADS = 20


def verdicts(answers: list[Any]) -> Counter[str]:
    return Counter(answer["verdict"] for answer in answers)


@pytest.fixture(autouse=True)
def no_deadlocks(ledger: LedgerDatabase) -> Any:
    """The order in which rows are locked leaves no way to a deadlock, the cron's included."""
    count = "select deadlocks from pg_stat_database where datname = current_database()"
    ledger.run("select pg_stat_force_next_flush()")
    before = ledger.value(count)
    yield
    ledger.run("select pg_stat_force_next_flush()")
    assert ledger.value(count) == before


@pytest.fixture(params=["b2c", "absorb", "resell"])
def session(request: pytest.FixtureRequest, ledger: LedgerDatabase) -> Session:
    if request.param == "b2c":
        return ledger.b2c(age=1000)
    return ledger.b2b("absorb" if request.param == "absorb" else "resell", age=1000)


def test_one_of_many_deliveries_holds(ledger: LedgerDatabase, session: Session) -> None:
    answers = all_at_once([partial(ledger.hold, session, f"delivery {n}") for n in range(THREADS)])

    assert verdicts(answers) == {"held": 1, "held_elsewhere": THREADS - 1}


def test_one_of_many_claims_over_an_expired_lease_wins(ledger: LedgerDatabase, session: Session) -> None:
    ledger.begin(session, "killed")
    ledger.expire(session)

    answers = all_at_once([partial(ledger.claim, session, f"taker {n}") for n in range(THREADS)])

    assert verdicts(answers) == {"claimed": 1, "lost": THREADS - 1}
    assert ledger.entry(session)["attempt"] == 2


def test_complete_and_fail_at_once_settle_once(ledger: LedgerDatabase, session: Session) -> None:
    attempt = ledger.begin(session, "a")
    calls: list[Callable[[], Any]] = []
    for _ in range(THREADS // 2):
        calls.append(lambda: ledger.complete(session, "a", attempt))
        calls.append(lambda: ledger.fail(session, "a", attempt))

    answers = all_at_once(calls)

    outcome = ledger.entry(session)["outcome"]
    assert verdicts(answers) == {outcome: THREADS // 2, "settled": THREADS // 2}
    assert ledger.status(session) == outcome
    assert (ledger.balance(session), ledger.refunds(session)) == ((10, 1) if outcome == "failed" else (9, 0))


@pytest.mark.parametrize("attempt", range(5))
@pytest.mark.parametrize("through", ["claim", "begin_call"])
def test_cancelled_or_called_but_never_both(
    ledger: LedgerDatabase, session: Session, through: str, attempt: int
) -> None:
    ledger.hold(session, "a")
    if through == "begin_call":
        ledger.claim(session, "a", call_begins=False)
    calls: list[Callable[[], Any]] = [partial(ledger.cancel, session) for _ in range(THREADS // 2)]
    calls += [
        partial(ledger.claim, session, "a")
        if through == "claim"
        else partial(ledger.begin_call, session, "a", 1)
        for _ in range(THREADS // 2)
    ]
    random.Random(attempt).shuffle(calls)

    counted = verdicts(all_at_once(calls))

    if ledger.status(session) == "failed":
        assert counted == {"cancelled": 1, "already_cancelled": THREADS // 2 - 1, "settled": THREADS // 2}
        assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    else:
        may_call = "claimed" if through == "claim" else "begun"
        assert counted == {"too_late": THREADS // 2, may_call: THREADS // 2}
        assert (ledger.balance(session), ledger.refunds(session)) == (9, 0)


def test_cancelled_while_deliveries_and_reapers_come(ledger: LedgerDatabase, session: Session) -> None:
    calls: list[Callable[[], Any]] = [partial(ledger.cancel, session) for _ in range(THREADS // 2)]
    calls += [partial(ledger.hold, session, f"delivery {n}") for n in range(THREADS // 4)]
    calls += [lambda: ledger.reap(session)[0] for _ in range(THREADS // 4)]
    random.shuffle(calls)

    counted = verdicts(all_at_once(calls))

    assert ledger.status(session) == "failed"
    assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    if ledger.entry(session)["settled_by"] == "cancellation":
        assert (counted["cancelled"], counted["already_cancelled"]) == (1, THREADS // 2 - 1)
    else:
        assert counted["failed"] >= 1 + THREADS // 2, "reaped first: each cancellation is told so"


def test_cancelled_while_the_cron_recovers_it(ledger: LedgerDatabase) -> None:
    """The cron's refund, if it comes first, is the only one; what it pays afterwards is reported."""
    for _ in range(5):
        session = ledger.b2c(age=1000)
        answer, _cron = all_at_once([partial(ledger.cancel, session), lambda: ledger.cron() and None])
        ours = ledger.value(
            "select count(*) from credit_transactions where description = %s",
            f"Generation failed: session {session.id}",
        )
        assert answer["verdict"] in ("cancelled", "failed")
        assert ledger.status(session) == "failed"
        if ours and ledger.refunds(session) == 2:
            reported = {row["session_id"] for row in ledger.rpc("generation_flagged", p_limit=1000)}
            assert str(session.id) in reported
        else:
            assert ledger.refunds(session) == 1


def test_an_orphan_is_either_reaped_or_held(ledger: LedgerDatabase, session: Session) -> None:
    calls: list[Callable[[], Any]] = [lambda: ledger.reap(session)[0] for _ in range(THREADS // 2)]
    calls += [partial(ledger.hold, session, f"late {n}") for n in range(THREADS // 2)]
    random.shuffle(calls)

    counted = verdicts(all_at_once(calls))

    if ledger.status(session) == "failed":
        assert counted["failed"] == 1
        assert counted["held"] == 0
        assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    else:
        assert counted["failed"] == 0
        assert counted["held"] == 1
        assert (ledger.balance(session), ledger.refunds(session)) == (9, 0)


def test_sweepers_share_the_expired_leases_out(ledger: LedgerDatabase) -> None:
    sessions = [ledger.b2c() for _ in range(60)]
    for session in sessions:
        ledger.hold(session, str(session.id))
        ledger.expire(session)

    answers = all_at_once([lambda: ledger.recover(limit=10) for _ in range(THREADS)])

    found = [row["session_id"] for answer in answers for row in answer]
    found += [row["session_id"] for row in ledger.recover()]
    assert sorted(found) == sorted(str(session.id) for session in sessions)


def test_reapers_at_once_refund_every_orphan_once(ledger: LedgerDatabase) -> None:
    """Some share a user or a store, and each reaper has them in an order of its own."""
    user = ledger.user(balance=100)
    orphans = [ledger.b2c(user, age=400) for _ in range(20)]
    first = ledger.b2b("absorb", age=400)
    orphans.append(first)
    for n in range(5):
        ledger.run("select deduct_store_credits(%s, 1, %s, '')", first.owner, f"more {n}")
        orphans.append(ledger.b2b_row(first.owner, f"more {n}", email=None, age=400))
    orphans += [ledger.b2b("resell", age=400) for _ in range(10)]

    def reap_shuffled(seed: int) -> Any:
        mixed = list(orphans)
        random.Random(seed).shuffle(mixed)
        return ledger.reap(*mixed)

    answers = all_at_once([partial(reap_shuffled, n) for n in range(8)])
    answers.append(ledger.reap(*orphans))

    failed = [row["session_id"] for answer in answers for row in answer if row["verdict"] == "failed"]
    assert sorted(failed) == sorted(str(session.id) for session in orphans)
    assert ledger.value("select balance from user_credits where user_id = %s", user) == 100
    assert ledger.balance(first) == 10
    assert ledger.orphans() == []


@pytest.mark.parametrize("seed", range(3))
def test_sessions_settle_once_however_many_act_on_them_at_once(ledger: LedgerDatabase, seed: int) -> None:
    """Deliveries, sweepers, reapers, owners and the cron over the same sessions, answers lost at random."""
    chance = random.Random(seed)
    user = ledger.user(balance=100)
    sessions = [ledger.b2c(user, age=1000) for _ in range(12)]
    sessions += [ledger.b2b("absorb", age=1000) for _ in range(4)]
    sessions += [ledger.b2b("resell", age=1000) for _ in range(4)]

    def twice(call: Callable[[], Any]) -> Any:
        """The first answer is lost."""
        first = call()
        again = call()
        assert again["verdict"] in (first["verdict"], "settled", "lost"), (first, again)
        return again

    def deliver(session: Session, holder: str, end: str) -> None:
        if ledger.hold(session, holder)["verdict"] != "held":
            return
        claimed = ledger.claim(session, holder)
        if claimed["verdict"] not in ("claimed", "poison"):
            return
        if end == "killed":
            ledger.expire(session)
        elif end == "requeue":
            ledger.requeue(session, holder, claimed["attempt"], delay=0)
        else:
            twice(lambda: getattr(ledger, end)(session, holder, claimed["attempt"]))

    def work(thread: int) -> None:
        chance = random.Random(seed * 100 + thread)
        for step in range(12):
            session = chance.choice(sessions)
            what = chance.random()
            if what < 0.6:
                end = chance.choice(["complete", "fail", "requeue", "killed", "killed"])
                deliver(session, f"{thread}/{step}", end)
            elif what < 0.7:
                ledger.recover(grace=1)
            elif what < 0.8:
                ledger.reap(*chance.sample(sessions, 5))
            elif what < 0.85:
                ledger.reject(session)
            elif what < 0.9:
                ledger.cancel(session)
            elif session.channel == "b2c":
                written = chance.choice(["queued", "processing"])
                ledger.patch(
                    f"/generation_sessions?id=eq.{session.id}&status=in.(queued,processing)",
                    {"status": written},
                    token=ledger.user_token(user),
                )

    def run_cron() -> None:
        with ledger.connect() as cron:
            cron.execute("select app_recover_stuck_sessions()")

    calls: list[Callable[[], Any]] = [partial(work, n) for n in range(THREADS)]
    calls.insert(chance.randrange(THREADS), run_cron)

    refused = [answer for answer in all_at_once(calls) if isinstance(answer, RpcRefused)]
    assert refused == []

    # Whatever is left over now is worked off.
    for session in sessions:
        ledger.expire(session)
        ledger.make_due(session)
        deliver(session, f"last/{session.id}", "fail")

    cron_paid = {
        row["id"]: row["times"]
        for row in ledger.rows(
            "select substring(description from '[0-9a-f-]{36}')::uuid as id, count(*) as times"
            " from credit_transactions where description like 'Stuck job recovery%%' group by 1"
        )
    }
    reported = {row["session_id"] for row in ledger.rpc("generation_flagged", p_limit=1000)}
    given_back = Counter(
        row["id"]
        for row in ledger.rows(
            "select substring(description from 'Generation failed: session (.*)')::uuid as id"
            " from credit_transactions where type = 'refund'"
            " union all select substring(description from 'Generation failed: session (.*)')::uuid"
            " from store_credit_transactions where type = 'refund'"
        )
    )
    for session in sessions:
        if not ledger.knows(session):
            # Settled by the cron before any delivery came.
            assert (ledger.status(session), cron_paid[session.id], given_back[session.id]) == ("failed", 1, 0)
            continue
        entry = ledger.entry(session)
        ours = given_back[session.id]
        assert entry["state"] == "settled"
        assert ours == (1 if entry["refund_state"] == "refunded" else 0)
        if entry["outcome"] == "completed":
            assert ours == 0
            assert entry["settled_by"] == "worker"
        elif not cron_paid.get(session.id):
            assert ours == 1
        # What the cron pays after a settlement cannot be prevented, but does not go unseen.
        if ours + cron_paid.get(session.id, 0) > (0 if entry["outcome"] == "completed" else 1):
            assert str(session.id) in reported
        if session.channel == "b2b":
            assert ledger.balance(session) == (9 if entry["outcome"] == "completed" else 10)
            assert ledger.status(session) == entry["outcome"]
    b2c = [session for session in sessions if session.channel == "b2c"]
    paid_back = sum(given_back[session.id] for session in b2c) + sum(cron_paid.values())
    assert ledger.value("select balance from user_credits where user_id = %s", user) == 88 + paid_back
