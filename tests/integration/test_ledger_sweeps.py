"""Recovery of what a killed process left behind, and the end of what nothing will ever run."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from integration.database import LedgerDatabase, Row, RpcRefused, Session
from postgrest import AsyncPostgrestClient

from wearon_contracts.errors import ErrorCode, sentence
from wearon_generator.ledger import Ledger, SupabaseDatabase
from wearon_generator.timing import Timing


def ids(found: list[Row]) -> list[str]:
    return [row["session_id"] for row in found]


def seconds_until_looked_for(ledger: LedgerDatabase, session: Session) -> int:
    return round(
        ledger.value(
            "select extract(epoch from lease_expires_at - now())"
            " from generation_ledger where session_id = %s",
            session.id,
        )
    )


def test_the_caller_says_when_the_sweep_looks_for_what_was_given_back(ledger: LedgerDatabase) -> None:
    """A generator that does not say gets what it relied on: 60, 60 and 30 s."""
    said, unsaid = [], []
    for found, periods in ((said, {"p_return_seconds": 500}), (unsaid, {})):
        released, postponed = ledger.b2c(), ledger.b2c()
        ledger.hold(released, "a")
        ledger.release(released, "a", **periods)
        ledger.begin(postponed, "b")
        ledger.postpone(postponed, "b", 1, **periods)
        found += [seconds_until_looked_for(ledger, session) for session in (released, postponed)]
    for found, periods in ((said, {"p_grace_seconds": 400}), (unsaid, {})):
        retrying = ledger.b2c()
        ledger.begin(retrying, "c")
        ledger.requeue(retrying, "c", 1, delay=1000, **periods)
        found.append(seconds_until_looked_for(ledger, retrying))
    assert said == pytest.approx([500, 500, 1400], abs=10)
    assert unsaid == pytest.approx([60, 60, 1030], abs=10)


def test_the_caller_says_how_long_an_older_workers_session_may_take(ledger: LedgerDatabase) -> None:
    session = ledger.b2c(age=500, status="processing")
    assert ledger.orphans() == []
    assert ids(ledger.orphans(p_older_worker_seconds=100)) == [str(session.id)]
    assert [row["verdict"] for row in ledger.reap(session)] == ["too_young"]
    assert [row["verdict"] for row in ledger.reap(session, p_older_worker_seconds=100)] == ["failed"]


# ---------------------------------------------------------------------------------------------- recovery


def test_recover_finds_expired_leases_only_whatever_the_holder_was_doing(ledger: LedgerDatabase) -> None:
    waiting, working, retrying, released, live = (ledger.b2c() for _ in range(5))
    ledger.hold(waiting, "a")
    ledger.begin(working, "b")
    ledger.begin(retrying, "c")
    ledger.requeue(retrying, "c", 1)
    ledger.hold(released, "d")
    ledger.release(released, "d")
    ledger.begin(live, "e")
    expired = [waiting, working, retrying, released]
    for session in expired:
        ledger.expire(session)
    statuses = [ledger.status(session) for session in expired]

    found = ledger.recover()

    assert sorted(ids(found)) == sorted(str(session.id) for session in expired)
    by_id = {row["session_id"]: row for row in found}
    assert by_id[str(working.id)]["attempt"] == 1
    assert by_id[str(working.id)]["channel"] == "b2c"
    assert by_id[str(waiting.id)]["task"]["session_id"] == str(waiting.id)
    assert [ledger.status(session) for session in expired] == statuses
    assert ledger.check(live, "e", 1)["verdict"] == "current"


def test_recover_offers_a_session_once_per_grace(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    ledger.hold(session, "a")
    ledger.expire(session)

    assert ids(ledger.recover(grace=60)) == [str(session.id)]
    assert ledger.recover(grace=60) == []
    ledger.expire(session)
    assert ids(ledger.recover(grace=60)) == [str(session.id)]


def test_lease_that_ran_out_a_moment_ago_may_still_be_renewed(ledger: LedgerDatabase) -> None:
    late, dead = ledger.b2c(), ledger.b2c()
    for session, seconds in ((late, 1), (dead, 3)):
        ledger.hold(session, str(session.id))
        ledger.run(
            "update generation_ledger set lease_expires_at = clock_timestamp() - make_interval(secs => %s)"
            " where session_id = %s",
            seconds,
            session.id,
        )
    assert ids(ledger.recover()) == [str(dead.id)]
    assert ledger.renew(str(late.id)) == [str(late.id)]


def test_recover_is_bounded_and_takes_the_oldest_first(ledger: LedgerDatabase) -> None:
    sessions = [ledger.b2c() for _ in range(5)]
    for age, session in enumerate(sessions):
        ledger.hold(session, str(session.id))
        ledger.run(
            "update generation_ledger set lease_expires_at = now() - make_interval(secs => %s)"
            " where session_id = %s",
            60 - age,
            session.id,
        )

    assert ids(ledger.recover(limit=2)) == [str(session.id) for session in sessions[:2]]
    assert ids(ledger.recover(limit=0)) == []
    assert ids(ledger.recover(limit=10)) == [str(session.id) for session in sessions[2:]]


def test_a_recovering_session_goes_to_the_new_delivery(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    ledger.begin(session, "killed")
    ledger.expire(session)
    ledger.recover()

    assert ledger.begin(session, "new") == 2
    assert ledger.renew("killed", "new") == ["new"]
    assert ledger.hold(session, "third")["verdict"] == "held_elsewhere"


def test_a_recovering_session_stays_with_its_holder_if_that_still_lives(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    ledger.begin(session, "slow")
    ledger.expire(session)
    ledger.recover()

    assert ledger.renew("slow") == ["slow"]
    assert ledger.hold(session, "new")["verdict"] == "held_elsewhere"
    assert ledger.complete(session, "slow", 1)["verdict"] == "completed"


@pytest.mark.parametrize("end", ["complete", "fail", "requeue"])
def test_a_recovering_session_may_be_ended_by_its_holder(ledger: LedgerDatabase, end: str) -> None:
    session = ledger.b2c()
    ledger.begin(session, "slow")
    ledger.expire(session)
    ledger.recover()

    verdict = getattr(ledger, end)(session, "slow", 1)["verdict"]

    assert verdict in ("completed", "failed", "requeued")
    assert not ledger.entry(session)["recovering"]


def test_recover_skips_what_is_being_decided(ledger: LedgerDatabase) -> None:
    busy, free = ledger.b2c(), ledger.b2c()
    for session in (busy, free):
        ledger.hold(session, str(session.id))
        ledger.expire(session)
    with ledger.connect() as other:
        other.execute("select 1 from generation_ledger where session_id = %s for update", [busy.id])

        assert ids(ledger.recover()) == [str(free.id)]

    assert ids(ledger.recover()) == [str(busy.id)]


# ----------------------------------------------------------------------------------------------- orphans


def test_orphans_are_old_unknown_and_unsettled(ledger: LedgerDatabase) -> None:
    stuck = [
        ledger.b2c(age=1000, status="processing"),
        ledger.b2b(age=901, status="processing"),
        ledger.b2c(age=400),
        ledger.b2b(age=350),
        ledger.b2c(age=301, status="pending"),
    ]
    ledger.b2c(age=290)
    ledger.b2c(age=890, status="processing")
    ledger.b2c(age=1000, status="completed")
    ledger.b2b(age=1000, status="failed")
    ledger.hold(ledger.b2c(age=1000), "a")

    found = ledger.orphans()

    assert ids(found) == [str(session.id) for session in stuck]
    assert [row["channel"] for row in found] == [session.channel for session in stuck]
    assert found[0]["status"] == "processing"
    assert ids(ledger.orphans(limit=2)) == ids(found)[:2]
    assert ids(ledger.orphans(stuck_after=380)) == [str(stuck[0].id), str(stuck[2].id)]


def test_a_session_as_young_as_a_task_in_a_queue_is_no_orphan(ledger: LedgerDatabase) -> None:
    older, younger = ledger.b2c(age=5000), ledger.b2b(age=4000)
    between = ledger.value("select (now() - interval '4500 seconds')::text")

    assert ids(ledger.orphans(created_before=between)) == [str(older.id)]
    assert ids(ledger.orphans()) == [str(older.id), str(younger.id)]


def test_orphans_cost_the_same_with_a_long_backlog_and_a_long_history(ledger: LedgerDatabase) -> None:
    """20,000 sessions wait with their tasks in the queue, 20,000 are settled: neither is looked at."""
    for status, age in (("queued", 3000), ("completed", 90_000)):
        ledger.run(
            "insert into generation_sessions (user_id, status, model_image_url, prompt_system, created_at)"
            " select gen_random_uuid(), %s, '', '', now() - make_interval(secs => %s - n * 0.01)"
            " from generate_series(1, 20000) n",
            status,
            age,
        )
    ledger.run(
        "insert into generation_ledger (channel, session_id, owner_id, state, outcome)"
        " select 'b2c', id, user_id, 'settled', status from generation_sessions where status = 'completed'"
    )
    oldest_task = ledger.value(
        "select min(created_at)::text from generation_sessions where status = 'queued'"
    )
    orphan = ledger.b2c(age=4000)
    ledger.run("analyze generation_sessions")
    assert ids(ledger.orphans(created_before=oldest_task)) == [str(orphan.id)]

    with ledger.connect() as connection:
        counted = (
            "select seq_scan, coalesce(idx_tup_fetch, 0) + seq_tup_read as rows from pg_stat_xact_user_tables"
        )
        counted += " where relname = 'generation_sessions'"
        connection.execute("select generation_orphans(%s, 300, 100)", [oldest_task])
        cost = connection.execute(counted.encode()).fetchone()

    assert cost is not None
    assert cost["seq_scan"] == 0
    assert cost["rows"] < 50


def test_what_is_settled_among_taken_messages_is_found_by_the_primary_key(ledger: LedgerDatabase) -> None:
    ledger.run(
        "insert into generation_ledger (channel, session_id, owner_id, state, outcome)"
        " select 'b2c', gen_random_uuid(), gen_random_uuid(), 'settled', 'failed'"
        " from generate_series(1, 100000)"  # in a fifth of it PostgreSQL 15 rather reads all
    )
    held, settled, unknown = ledger.b2c(), ledger.b2b(), ledger.b2c()
    ledger.hold(held, "a")
    ledger.complete(settled, "b", ledger.begin(settled, "b"))
    ledger.run("analyze generation_ledger")
    asked: list[str] = []

    async def note(request: httpx.Request) -> None:
        asked.append(request.url.raw_path.decode())

    async def look() -> dict[str, bool]:
        async with httpx.AsyncClient(event_hooks={"request": [note]}) as http:
            client: Any = AsyncPostgrestClient(
                ledger.rest_url, headers=ledger.service_headers, http_client=http
            )
            others = [str(uuid.uuid4()) for _ in range(150)]
            return await Ledger(SupabaseDatabase(client), Timing()).settled_among(
                [*others, *map(str, (held.id, settled.id, unknown.id))]
            )

    assert asyncio.run(look()) == {str(held.id): False, str(settled.id): True}
    assert len(asked) == 2
    # By session alone PostgreSQL before 18 reads the whole index, or the whole table.
    for path in asked:
        plan = ledger.plan(path)
        assert "Index Scan using generation_ledger_pkey" in plan
        assert "Index Cond: ((channel = ANY" in plan


# ------------------------------------------------------------------------------------------------ reaper


def test_reap_fails_and_refunds_orphans_once(ledger: LedgerDatabase) -> None:
    orphans = [
        ledger.b2c(age=400),
        ledger.b2b("absorb", age=400),
        ledger.b2b("resell", age=400),
        ledger.b2c(age=1000, status="processing"),
    ]

    results = ledger.reap(*orphans)

    assert [row["verdict"] for row in results] == ["failed"] * 4
    assert {row["refund"]["state"] for row in results} == {"refunded"}
    assert sorted(ids(results)) == sorted(str(session.id) for session in orphans)
    for session in orphans:
        row = ledger.session_row(session)
        assert (row["status"], row["error_message"]) == ("failed", sentence(ErrorCode.STUCK))
        assert (ledger.balance(session), ledger.refunds(session)) == (10, 1)
    again = ledger.reap(*orphans)
    assert [(row["verdict"], row["outcome"]) for row in again] == [("settled", "failed")] * 4
    assert [ledger.balance(session) for session in orphans] == [10] * 4
    assert ledger.orphans() == []
    assert ledger.hold(orphans[0], "late")["verdict"] == "settled"


def test_reap_looks_at_each_session_once_more(ledger: LedgerDatabase) -> None:
    young, held, done, working = (
        ledger.b2c(age=290),
        ledger.b2c(age=400),
        ledger.b2b(age=400, status="completed"),
        ledger.b2c(age=890, status="processing"),
    )
    ledger.hold(held, "a")
    stranger = Session("b2b", uuid.uuid4(), uuid.uuid4(), None)

    verdicts = {
        row["session_id"]: row["verdict"] for row in ledger.reap(young, held, done, working, stranger)
    }

    assert verdicts == {
        str(young.id): "too_young",
        str(held.id): "busy",
        str(done.id): "settled",
        str(working.id): "too_young",
        str(stranger.id): "session_not_found",
    }
    assert [ledger.status(s) for s in (young, held, done, working)] == [
        "queued",
        "queued",
        "completed",
        "processing",
    ]
    assert not ledger.knows(young)


def test_reap_takes_the_same_session_twice_in_one_call_for_one(ledger: LedgerDatabase) -> None:
    orphan = ledger.b2c(age=400)

    assert [row["verdict"] for row in ledger.reap(orphan, orphan)] == ["failed"]
    assert ledger.balance(orphan) == 10


def test_reap_leaves_what_is_locked_to_the_next_sweep(ledger: LedgerDatabase) -> None:
    row_locked, payer_locked, shopper_locked, free = (
        ledger.b2c(age=400),
        ledger.b2c(age=400),
        ledger.b2b("resell", age=400),
        ledger.b2c(age=400),
    )
    sessions = (row_locked, payer_locked, shopper_locked, free)
    with ledger.connect() as other:
        other.execute("select 1 from generation_sessions where id = %s for update", [row_locked.id])
        other.execute("select 1 from user_credits where user_id = %s for update", [payer_locked.owner])
        other.execute(
            "select 1 from store_shopper_credits where store_id = %s for update", [shopper_locked.owner]
        )

        verdicts = {row["session_id"]: row["verdict"] for row in ledger.reap(*sessions)}

    assert verdicts == {
        str(row_locked.id): "busy",
        str(payer_locked.id): "busy",
        str(shopper_locked.id): "busy",
        str(free.id): "failed",
    }
    assert not ledger.knows(row_locked)
    assert {row["verdict"] for row in ledger.reap(*sessions)} == {"failed", "settled"}
    assert [ledger.balance(session) for session in sessions] == [10] * 4


def test_reap_takes_at_most_a_hundred(ledger: LedgerDatabase) -> None:
    orphans = [ledger.b2c(age=400) for _ in range(101)]

    with pytest.raises(RpcRefused) as refused:
        ledger.reap(*orphans)
    assert refused.value.code == "22023"
    assert len(ledger.reap(*orphans[:100])) == 100
    assert ids(ledger.orphans()) == [str(orphans[100].id)]
