"""Who may see and call what, what the owner of a session is told, and that the migrations repeat."""

from __future__ import annotations

import uuid

import pytest
from integration.database import (
    APPLICATION_FILES,
    MIGRATION_FILES,
    LedgerDatabase,
    Row,
    RpcRefused,
    Session,
    prepared_database,
)

CALLED_BY_THE_SERVICE = {
    "generation_backlog",
    "generation_begin_call",
    "generation_cancel",
    "generation_check",
    "generation_claim",
    "generation_complete",
    "generation_fail",
    "generation_flagged",
    "generation_hold",
    "generation_lanes",
    "generation_looked_at",
    "generation_objects_deleted",
    "generation_orphans",
    "generation_outcome",
    "generation_reap",
    "generation_record_usage",
    "generation_postpone",
    "generation_recover",
    "generation_reject",
    "generation_release",
    "generation_renew",
    "generation_requeue",
    "generation_set_aside",
    "generation_schema_version",
    "generation_unwanted_objects",
    "generation_inputs_deleted",
    "generation_inputs_due",
    "generation_linked_pictures",
    "generation_results_deleted",
    "generation_results_due",
    "generation_retention",
    "generation_session_links",
    "generation_webhooks_claim",
    "generation_webhooks_report",
    "generation_webhooks_resend",
    "generation_webhooks_tidy",
}

TABLES = (
    "generation_lane_rules",
    "generation_ledger",
    "generation_usage",
    "generation_webhook_endpoints",
    "generation_webhook_outbox",
)

ADDED_FUNCTIONS = """
    select p.oid, p.proname as name, p.prosecdef as definer, p.proconfig as settings,
           has_function_privilege('anon', p.oid, 'execute') as anon,
           has_function_privilege('authenticated', p.oid, 'execute') as authenticated,
           has_function_privilege('service_role', p.oid, 'execute') as service
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'generation_private' or (n.nspname = 'public' and p.proname like 'generation%')
"""


# ----------------------------------------------------------------------------------------------- grants


def test_only_the_service_role_may_call_anything_but_outcome_and_cancel(ledger: LedgerDatabase) -> None:
    functions = ledger.rows(ADDED_FUNCTIONS)

    assert {f["name"] for f in functions} >= CALLED_BY_THE_SERVICE
    assert all(f["service"] for f in functions)
    assert [f["name"] for f in functions if f["anon"]] == []
    for_owners = ["generation_cancel", "generation_outcome"]
    assert sorted(f["name"] for f in functions if f["authenticated"]) == for_owners
    # The triggers write to the outbox also when the session's owner settles or cancels it.
    triggers = ["note_ledger_event", "note_webhook_event"]
    assert sorted(f["name"] for f in functions if f["definer"]) == [*for_owners, *triggers]
    assert [f["name"] for f in functions if 'search_path=""' not in f["settings"]] == []


@pytest.mark.parametrize("who", ["anon", "user"])
def test_the_api_refuses_strangers(ledger: LedgerDatabase, who: str) -> None:
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    token = ledger.anon_token() if who == "anon" else ledger.user_token(session.owner)

    calls: dict[str, Row] = {
        "generation_renew": {"p_holders": ["a"], "p_lease_seconds": 1},
        "generation_check": {**session.named, "p_holder": "a", "p_attempt": attempt},
        "generation_recover": {"p_limit": 1, "p_grace_seconds": 1},
        "generation_flagged": {"p_limit": 1},
        "generation_looked_at": {"p_session_id": str(session.id), "p_note": "x"},
        "generation_backlog": {},
        "generation_webhooks_resend": {"p_id": str(session.id), "p_endpoint_id": None},
        "generation_schema_version": {},
        "generation_fail": {
            **session.named,
            "p_holder": "a",
            "p_attempt": attempt,
            "p_error_code": "x",
            "p_message": "x",
        },
    }
    for function, parameters in calls.items():
        with pytest.raises(RpcRefused) as refused:
            ledger.rpc(function, token=token, **parameters)
        assert refused.value.code == "42501"
    for table in TABLES:
        assert ledger.get(f"/{table}", token=token).json()["code"] == "42501"
    assert ledger.status(session) == "processing"


def test_the_service_role_reads_the_tables_for_operators(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    ledger.begin(session, "a")
    ledger.record_usage(session, uuid.uuid4())

    assert ledger.get("/generation_ledger?select=attempt").json() == [{"attempt": 1}]
    assert ledger.get("/generation_usage?select=cost_usd").json() == [{"cost_usd": 0.064321}]


def test_the_tables_have_rls_and_stay_out_of_realtime(ledger: LedgerDatabase) -> None:
    added = ledger.rows(
        "select relname, relrowsecurity from pg_class where relname = any (%s) and relkind = 'r'",
        list(TABLES),
    )
    published = ledger.rows("select tablename from pg_publication_tables where pubname = 'supabase_realtime'")

    assert [row["relrowsecurity"] for row in added] == [True] * len(TABLES)
    assert {row["tablename"] for row in published} == {"generation_sessions", "store_generation_sessions"}
    assert not ledger.value("select has_schema_privilege('anon', 'generation_private', 'usage')")
    assert not ledger.value("select has_schema_privilege('authenticated', 'generation_private', 'usage')")


def test_the_browser_sees_no_status_go_back_or_flicker(ledger: LedgerDatabase) -> None:
    """Every update of the row is an event there: only changes of status may be updates."""
    session = ledger.b2c()
    ledger.run("create table seen (n serial, status text)")
    ledger.run(
        "create function see() returns trigger language plpgsql security definer as"
        " $$ begin insert into public.seen (status) values (new.status); return new; end $$"
    )
    ledger.run("create trigger see after update on generation_sessions for each row execute function see()")
    try:
        ledger.begin(session, "a")
        ledger.claim(session, "a")
        ledger.renew("a")
        ledger.requeue(session, "a", 1, delay=0)
        ledger.requeue(session, "a", 1, delay=0)
        ledger.hold(session, "b")
        ledger.release(session, "b")
        ledger.begin(session, "c")
        ledger.expire(session)
        ledger.recover()
        ledger.hold(session, "d")
        ledger.claim(session, "d")
        ledger.complete(session, "d", 3)
        ledger.complete(session, "d", 3)
        seen = [row["status"] for row in ledger.rows("select status from seen order by n")]
    finally:
        ledger.run("drop table seen")
        ledger.run("drop function see() cascade")

    assert seen == ["processing", "queued", "processing", "completed"]


# ---------------------------------------------------------------------------------------------- outcome


def test_the_owner_is_told_how_a_failed_session_ended(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    ledger.begin(session, "a")
    ledger.requeue(session, "a", 1, delay=0)
    ledger.begin(session, "b")
    ledger.fail(session, "b", 2, "rate_limited")

    told = ledger.outcome(session, token=ledger.user_token(session.owner))

    assert told is not None
    assert (told["status"], told["outcome"], told["error_code"]) == ("failed", "failed", "rate_limited")
    assert (told["attempts"], told["rate_limit_retries"]) == (2, 1)
    assert told["given_back"] is True
    assert told["given_back_at"] is not None
    assert told["settled_at"] is not None
    assert told["refund"] == {"state": "refunded", "amount": 1, "payer": "user"}
    assert ledger.outcome(session) == told


def test_the_owner_is_told_how_an_unsettled_session_stands(ledger: LedgerDatabase) -> None:
    unknown, waiting, retrying = ledger.b2c(), ledger.b2c(), ledger.b2c()
    ledger.hold(waiting, "a")
    ledger.begin(retrying, "b")
    due_at = ledger.requeue(retrying, "b", 1)["due_at"]

    def told(session: Session) -> tuple[object, ...]:
        answer = ledger.outcome(session, token=ledger.user_token(session.owner))
        assert answer is not None
        return (
            answer["status"],
            answer["outcome"],
            answer["attempts"],
            answer["given_back"],
            answer["retry_at"],
        )

    assert told(unknown) == ("queued", None, 0, False, None)
    assert told(waiting) == ("queued", None, 0, False, None)
    assert told(retrying) == ("queued", None, 1, False, due_at)


def test_nobody_else_is_told_anything(ledger: LedgerDatabase) -> None:
    session, store_session = ledger.b2c(), ledger.b2b()
    ledger.begin(store_session, "a")
    ledger.fail(store_session, "a", 1)

    assert ledger.outcome(session, token=ledger.user_token(ledger.user())) is None
    assert ledger.outcome(store_session, token=ledger.user_token(store_session.owner)) is None
    assert ledger.outcome(Session("b2c", uuid.uuid4(), session.owner, None)) is None
    with pytest.raises(RpcRefused) as refused:
        ledger.outcome(session, token=ledger.anon_token())
    assert refused.value.code == "42501"
    told = ledger.outcome(store_session)
    assert told is not None
    assert (told["channel"], told["refund"]["payer"]) == ("b2b", "store")


# --------------------------------------------------------------------------------------------- operator


def test_flagged_sessions_name_their_reason_last_first(ledger: LedgerDatabase) -> None:
    overage, owed, fine = ledger.b2b("overage"), ledger.b2b("resell"), ledger.b2c()
    ledger.run("delete from store_shopper_credits where store_id = %s", owed.owner)
    for session in (overage, owed, fine):
        ledger.begin(session, str(session.id))
        ledger.fail(session, str(session.id), 1, "moderation_blocked")

    found = ledger.rpc("generation_flagged", p_limit=10)

    assert [(row["session_id"], row["reason"]) for row in found] == [
        (str(owed.id), "refund_owed"),
        (str(overage.id), "overage"),
    ]
    assert found[0]["refund"] == {"state": "owed", "amount": 1, "payer": "shopper", "error": "P0001"}
    assert (found[0]["owner_id"], found[0]["error_code"]) == (str(owed.owner), "moderation_blocked")
    assert (found[0]["channel"], found[0]["attempts"], found[0]["outcome"]) == ("b2b", 1, "failed")
    assert len(ledger.rpc("generation_flagged", p_limit=1)) == 1


def test_a_flagged_session_that_a_person_has_seen_to_is_listed_and_counted_no_more(
    ledger: LedgerDatabase,
) -> None:
    session, unsettled = ledger.b2b("overage"), ledger.b2c()
    ledger.begin(session, "a")
    ledger.fail(session, "a", 1, "moderation_blocked")
    ledger.begin(unsettled, "b")
    note = "credited by hand"

    noted = ledger.rpc("generation_looked_at", p_session_id=str(session.id), p_note=note)
    refused = ledger.rpc("generation_looked_at", p_session_id=str(unsettled.id), p_note=note)

    assert (noted["verdict"], refused["verdict"]) == ("noted", "session_not_found")
    assert ledger.rpc("generation_flagged", p_limit=10) == []
    assert ledger.rpc("generation_backlog")["flagged"] == 0
    kept = ledger.get(f"/generation_ledger?session_id=eq.{session.id}&select=looked_at_note,flagged_reason")
    assert kept.json() == [{"looked_at_note": note, "flagged_reason": "overage"}]


def test_backlog_counts_what_is_unsettled(ledger: LedgerDatabase) -> None:
    empty = ledger.rpc("generation_backlog")
    waiting, working, retrying, overage = ledger.b2c(), ledger.b2c(), ledger.b2c(), ledger.b2b("overage")
    ledger.hold(waiting, "a")
    ledger.begin(working, "b")
    ledger.begin(retrying, "c")
    ledger.requeue(retrying, "c", 1)
    ledger.begin(overage, "d")
    ledger.fail(overage, "d", 1)
    ledger.expire(working)
    ledger.run(
        "update generation_ledger set held_at = now() - interval '90 seconds' where session_id = %s",
        waiting.id,
    )

    counted = ledger.rpc("generation_backlog")

    assert empty == {
        "waiting": 0,
        "working": 0,
        "retrying": 0,
        "expired": 0,
        "oldest_held_seconds": 0,
        "flagged": 0,
        "owed": 0,
        "paid_by_cron_too": 0,
    }
    assert (counted["waiting"], counted["working"], counted["retrying"]) == (1, 1, 1)
    assert (counted["expired"], counted["flagged"], counted["owed"]) == (1, 1, 0)
    assert counted["oldest_held_seconds"] == pytest.approx(90, abs=5)


def test_the_backlog_does_not_read_everything_the_cron_ever_paid(ledger: LedgerDatabase) -> None:
    """20,000 double payments are months old; those of these days are counted, all stay listed."""
    ledger.run(
        "insert into generation_ledger"
        " (channel, session_id, owner_id, state, outcome, settled_by, settled_at, refund_state)"
        " select 'b2c', gen_random_uuid(), gen_random_uuid(), 'settled', 'failed', 'worker', now(),"
        " 'refunded' from generate_series(1, 20000)"
    )
    ledger.run(
        "insert into credit_transactions (user_id, amount, type, description, created_at)"
        " select owner_id, 1, 'refund', format('Stuck job recovery: session %s timed out', session_id),"
        " now() - interval '100 days' from generation_ledger"
    )
    ledger.run("analyze generation_ledger, credit_transactions")
    session = ledger.b2c()
    ledger.begin(session, "a")
    ledger.fail(session, "a", 1)
    ledger.run("select app_recover_stuck_session(%s, %s)", session.id, session.owner)

    with ledger.connect() as connection:
        counted = connection.execute("select generation_backlog() ->> 'paid_by_cron_too' as n").fetchone()
        cost = connection.execute(
            "select sum(seq_scan) as scans, sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) as rows"
            " from pg_stat_xact_user_tables where relname in ('generation_ledger', 'credit_transactions')"
        ).fetchone()

    assert counted == {"n": "1"}
    assert cost is not None
    assert cost["scans"] == 0
    assert cost["rows"] < 50
    assert len(ledger.rpc("generation_flagged", p_limit=30_000)) == 20_001


# ------------------------------------------------------------------------------------------- migrations


def test_every_file_applies_twice_and_the_application_keeps_its_shape(ledger: LedgerDatabase) -> None:
    """What was settled before the first time is history afterwards; work under way is left as it is."""
    columns = (
        "select table_name, column_name, data_type from information_schema.columns"
        f" where table_schema = 'public' and table_name not in {TABLES} order by 1, 2"
    )
    with prepared_database(ledger.server, "applied_twice", APPLICATION_FILES) as fresh:
        before = fresh.execute(columns.encode()).fetchall()
        fresh.execute(
            "insert into generation_sessions (user_id, status, model_image_url, prompt_system)"
            " select gen_random_uuid(), status, '', ''"
            " from unnest(array['queued', 'processing', 'completed', 'failed']) status"
        )
        for file in MIGRATION_FILES:
            fresh.execute(file.read_bytes())
        fresh.execute(
            "insert into generation_ledger (channel, session_id, owner_id, state, holder, lease_expires_at)"
            " select 'b2c', id, user_id, 'working', 'a', now() from generation_sessions"
            " where status = 'processing'"
        )
        for file in [*APPLICATION_FILES, *MIGRATION_FILES]:
            fresh.execute(file.read_bytes())

        kept = fresh.execute(
            "select s.status, l.state, l.outcome, l.settled_by, l.flagged_reason"
            " from generation_ledger l join generation_sessions s on s.id = l.session_id order by s.status"
        ).fetchall()
        assert [tuple(row.values()) for row in kept] == [
            ("completed", "settled", "completed", "elsewhere", None),
            ("failed", "settled", "failed", "elsewhere", None),
            ("processing", "working", None, None, None),
        ]
        assert fresh.execute(columns.encode()).fetchall() == before
        triggers = fresh.execute(
            "select tgrelid::regclass::text as on_table, tgname as name from pg_trigger"
            " where not tgisinternal and tgname not like 'wearon\\_local%' order by 1, 2"
        ).fetchall()
        assert [tuple(row.values()) for row in triggers] == [
            ("generation_ledger", "generation_webhook_event"),
            ("generation_sessions", "generation_session_keeps_id"),
            ("generation_sessions", "generation_webhook_event"),
            ("store_generation_sessions", "generation_session_keeps_id"),
            ("store_generation_sessions", "generation_webhook_event"),
        ]
        functions = fresh.execute(ADDED_FUNCTIONS.encode()).fetchall()
        assert [f["name"] for f in functions if f["anon"]] == []


def test_applied_again_only_what_the_ledger_lacks_is_entered(ledger: LedgerDatabase) -> None:
    """A conflict costs an attempt to insert for every session ever settled."""
    settle = (
        "insert into generation_sessions (user_id, status, model_image_url, prompt_system)"
        " select gen_random_uuid(), 'completed', '', '' from generate_series(1, 3)"
    )
    store = ledger.store()
    settle_for_store = (
        "insert into store_generation_sessions (store_id, status, model_image_url, prompt_system)"
        " select id, 'failed', '', '' from stores, generate_series(1, 3)"
    )
    with prepared_database(ledger.server, "filled_twice", APPLICATION_FILES) as fresh:
        fresh.execute("insert into stores (id) values (%s)", [store])
        for statement in (settle, settle_for_store):
            fresh.execute(statement.encode())
        for file in MIGRATION_FILES:
            fresh.execute(file.read_bytes())
        # Fires before a conflict is seen.
        fresh.execute(
            "create table tried (channel text);"
            " create function note() returns trigger language plpgsql as"
            " $$ begin insert into public.tried values (new.channel); return new; end $$;"
            " create trigger note before insert on generation_ledger for each row execute function note()"
        )
        for statement in (settle, settle_for_store):
            fresh.execute(statement.encode())
        for file in MIGRATION_FILES:
            fresh.execute(file.read_bytes())

        tried = fresh.execute("select channel, count(*) as n from tried group by 1 order by 1").fetchall()
        entered = fresh.execute("select count(*) as n from generation_ledger").fetchone()

    assert [tuple(row.values()) for row in tried] == [("b2b", 3), ("b2c", 3)]
    assert entered == {"n": 12}


def test_an_application_whose_transactions_bear_no_date_still_has_its_double_payments_counted(
    ledger: LedgerDatabase,
) -> None:
    with prepared_database(ledger.server, "without_dates", APPLICATION_FILES) as fresh:
        fresh.execute("alter table credit_transactions drop column created_at")
        for file in [*MIGRATION_FILES, *MIGRATION_FILES]:
            fresh.execute(file.read_bytes())
        fresh.execute(
            "with paid as (insert into credit_transactions (user_id, amount, type, description)"
            " values (gen_random_uuid(), 1, 'refund', format('Stuck job recovery: session %s timed out',"
            " gen_random_uuid())) returning user_id, substring(description from 29 for 36)::uuid as id)"
            " insert into generation_ledger (channel, session_id, owner_id, state, outcome, settled_by)"
            " select 'b2c', id, user_id, 'settled', 'completed', 'worker' from paid"
        )

        counted = fresh.execute("select generation_backlog() ->> 'paid_by_cron_too' as n").fetchone()

    assert counted == {"n": "1"}


def test_the_sample_owners_apply_twice_and_keep_their_balances(ledger: LedgerDatabase) -> None:
    seed = APPLICATION_FILES[0].with_name("900_seed.sql")
    with prepared_database(ledger.server, "seeded_twice", [*APPLICATION_FILES, seed]) as fresh:
        fresh.execute("update user_credits set balance = 3")
        fresh.execute(seed.read_bytes())

        assert {row["balance"] for row in fresh.execute("select balance from user_credits")} == {3}


def test_the_version_is_there_only_when_everything_is(ledger: LedgerDatabase) -> None:
    assert ledger.rpc("generation_schema_version") == 6
    assert "generation_schema_version" in MIGRATION_FILES[-1].read_text()
