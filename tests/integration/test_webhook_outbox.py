"""The outbox of webhooks: which event is written when and for whom, how a delivery is claimed and noted."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
from integration.database import LedgerDatabase, Row, RpcRefused, Session, all_at_once

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
DAY = 24 * 3600


def endpoint(ledger: LedgerDatabase, store: UUID | None = None) -> UUID:
    """An endpoint that is enabled, global unless it is a store's."""
    made = ledger.value(
        "insert into generation_webhook_endpoints (store_id, url, secret)"
        " values (%s, 'https://shop.example/hook', %s) returning id",
        store,
        SECRET,
    )
    assert isinstance(made, UUID)
    return made


def events(ledger: LedgerDatabase, session: Session | None = None) -> list[Row]:
    """What is in the outbox, oldest first."""
    where = "" if session is None else f"where session_id = '{session.id}'"
    return ledger.rows(f"select * from generation_webhook_outbox {where} order by created_at, type desc")


def types(ledger: LedgerDatabase, session: Session | None = None) -> list[str]:
    return [event["type"].removeprefix("generation.") for event in events(ledger, session)]


def claim(
    ledger: LedgerDatabase, *, limit: int = 64, per_endpoint: int = 8, failing: int = 32, busy: Any = ()
) -> list[Row]:
    answer = ledger.rpc(
        "generation_webhooks_claim",
        p_limit=limit,
        p_per_endpoint=per_endpoint,
        p_failing_limit=failing,
        p_lease_seconds=60,
        p_busy=[str(each) for each in busy],
    )
    deliveries: list[Row] = answer["deliveries"]
    return deliveries


def report(ledger: LedgerDatabase, *results: Row, disable: int = 3 * DAY) -> Row:
    answer: Row = ledger.rpc(
        "generation_webhooks_report",
        p_results=list(results),
        p_give_up_seconds=DAY,
        p_disable_seconds=disable,
    )
    return answer


def result(
    delivery: Row,
    *,
    asked: bool = True,
    delivered: bool = False,
    status: int | None = None,
    retry: float = 5,
) -> Row:
    return {
        "id": delivery["id"],
        "endpoint_id": delivery["endpoint_id"],
        "attempts": delivery["attempts"],
        "asked": asked,
        "delivered": delivered,
        "gone": status == 410,
        "status": 200 if delivered else status,
        "error": None if delivered else "status",
        "retry_in_seconds": retry,
    }


def make_due(ledger: LedgerDatabase) -> None:
    ledger.run("update generation_webhook_outbox set due_at = now() where due_at is not null")


# ----------------------------------------------------------------------------- which events are written


def test_without_an_endpoint_nothing_is_written(ledger: LedgerDatabase) -> None:
    session = ledger.b2c()
    ledger.complete(session, "a", ledger.begin(session, "a"))

    assert events(ledger) == []


def test_a_completed_session_tells_when_it_began_and_when_it_ended(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    ledger.complete(session, "a", attempt)
    ledger.complete(session, "a", attempt)

    began, ended = events(ledger, session)

    assert (began["type"], began["object_path"]) == ("generation.processing", None)
    assert ended["type"] == "generation.completed"
    assert ended["object_path"] == f"generated/{session.owner}/{session.id}.jpg"
    assert ended["occurred_at"] == ledger.entry(session)["settled_at"]
    assert ended["data"] == {
        "session_id": str(session.id),
        "channel": "b2c",
        "user_id": str(session.owner),
        "store_id": None,
        "request_id": "",
        "code": None,
        "attempts": 1,
        "given_back": False,
    }


def test_the_outbox_holds_no_link(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    ledger.complete(session, "a", ledger.begin(session, "a"), p_result_url="https://x.example/?token=secret")

    assert "token" not in str(events(ledger))


def test_a_failed_session_tells_its_code_and_that_the_credit_came_back(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2b()
    ledger.fail(session, "a", ledger.begin(session, "a"), "moderation_blocked")

    ended = events(ledger, session)[-1]

    assert (ended["type"], ended["object_path"]) == ("generation.failed", None)
    assert (ended["data"]["code"], ended["data"]["given_back"]) == ("moderation_blocked", True)
    assert (ended["data"]["store_id"], ended["data"]["user_id"]) == (str(session.owner), None)
    assert ended["data"]["request_id"] == session.request_id


def test_a_cancelled_session_tells_so(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    ledger.cancel(session)
    ledger.cancel(session)

    (event,) = events(ledger, session)

    assert event["type"] == "generation.cancelled"
    assert (event["data"]["code"], event["data"]["given_back"]) == ("cancelled", True)


def test_every_way_to_end_writes_one_event_of_the_end(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    rejected, reaped = ledger.b2c(), ledger.b2c(age=4000)
    by_cron, by_cron_in_work, uninstalled = ledger.b2c(age=4000), ledger.b2c(age=4000), ledger.b2b()
    ledger.reject(rejected)
    ledger.reap(reaped)
    attempt = ledger.begin(by_cron_in_work, "a")
    ledger.cron()
    ledger.complete(by_cron_in_work, "a", attempt)
    ledger.run("select app_uninstall_store(%s)", uninstalled.owner)

    for session in (rejected, reaped, by_cron, by_cron_in_work, uninstalled):
        assert types(ledger, session)[-1:] == ["failed"], session
        assert types(ledger, session).count("failed") == 1
    codes = {s.id: events(ledger, s)[-1]["data"]["code"] for s in (rejected, reaped, by_cron, uninstalled)}
    assert codes == {rejected.id: "invalid_task", reaped.id: "stuck", by_cron.id: None, uninstalled.id: None}
    given_back = [
        events(ledger, s)[-1]["data"]["given_back"] for s in (by_cron, by_cron_in_work, uninstalled)
    ]
    assert given_back == [True, True, False]


def test_a_session_refunded_by_the_cron_while_it_was_in_work_tells_that_it_failed(
    ledger: LedgerDatabase,
) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    ledger.run(
        "select refund_credits(%s, 1, %s)",
        session.owner,
        f"Stuck job recovery: session {session.id} timed out",
    )
    ledger.complete(session, "a", attempt)

    assert types(ledger, session) == ["processing", "failed"]
    assert events(ledger, session)[-1]["data"]["code"] == "stuck"


def test_a_retry_after_a_rate_limit_tells_the_beginning_once(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    ledger.requeue(session, "a", ledger.begin(session, "a"), delay=0)
    ledger.make_due(session)
    ledger.complete(session, "b", ledger.begin(session, "b"))

    assert types(ledger, session) == ["processing", "completed"]
    assert events(ledger, session)[-1]["data"]["attempts"] == 2


def owner_writes(ledger: LedgerDatabase, session: Session, *statuses: str) -> None:
    """The owner of the row changes its status to one after the other, through the API."""
    token = ledger.user_token(session.owner)
    for status in statuses:
        values = {"status": status, "generated_image_url": "https://evil.example/"}
        changed = ledger.patch(f"/generation_sessions?id=eq.{session.id}", values, token=token)
        assert changed.status_code == 200


def test_what_the_owner_writes_into_a_row_unknown_to_the_ledger_is_told_without_a_picture(
    ledger: LedgerDatabase,
) -> None:
    """An attempt that was none is not told, nor is their link; that they ended it is told once."""
    endpoint(ledger)
    session = ledger.b2c()
    owner_writes(ledger, session, "processing", "queued", "processing", "completed", "queued", "failed")

    (only,) = events(ledger, session)

    assert (only["type"], only["object_path"]) == ("generation.completed", None)
    assert "evil" not in str(only)


@pytest.mark.parametrize("faked", ["completed", "failed"])
def test_a_completion_is_told_with_its_picture_whatever_the_owner_wrote_before(
    ledger: LedgerDatabase, faked: str
) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    owner_writes(ledger, session, faked, "processing")
    assert types(ledger, session) == ["processing"]

    ledger.complete(session, "a", attempt)

    assert types(ledger, session) == ["processing", "completed"]
    assert events(ledger, session)[-1]["object_path"] == f"generated/{session.owner}/{session.id}.jpg"


def test_a_failure_is_told_with_its_refund_though_the_owner_wrote_completed_before(
    ledger: LedgerDatabase,
) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    attempt = ledger.begin(session, "a")
    owner_writes(ledger, session, "completed", "processing")
    ledger.fail(session, "a", attempt, "moderation_blocked")

    assert types(ledger, session) == ["processing", "failed"]
    ended = events(ledger, session)[-1]
    assert (ended["data"]["code"], ended["data"]["given_back"]) == ("moderation_blocked", True)


def test_the_beginning_is_told_though_the_owner_wrote_processing_before(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    ledger.hold(session, "a")
    owner_writes(ledger, session, "processing")
    ledger.claim(session, "a")

    assert types(ledger, session) == ["processing"]


def test_the_true_end_replaces_the_one_that_the_owner_wrote_before_the_ledger_knew_the_session(
    ledger: LedgerDatabase,
) -> None:
    """Also one that was delivered: the true one has an id of its own and is still to be sent."""
    endpoint(ledger)
    session = ledger.b2c()
    owner_writes(ledger, session, "completed", "queued")
    (untrue,) = claim(ledger)
    report(ledger, result(untrue, delivered=True))
    ledger.complete(session, "a", ledger.begin(session, "a"))

    assert types(ledger, session) == ["processing", "completed"]
    ended = events(ledger, session)[-1]
    assert str(ended["id"]) != untrue["id"]
    assert ended["object_path"] == f"generated/{session.owner}/{session.id}.jpg"
    assert {delivery["id"] for delivery in claim(ledger)} == {
        str(event["id"]) for event in events(ledger, session)
    }


def test_a_delivery_in_flight_of_an_end_that_was_replaced_changes_nothing(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    owner_writes(ledger, session, "failed", "queued")
    (untrue,) = claim(ledger)
    ledger.cancel(session)
    report(ledger, result(untrue, delivered=True))

    (event,) = events(ledger, session)
    assert (event["type"], event["delivered_at"]) == ("generation.cancelled", None)


def test_what_the_owner_writes_into_a_settled_session_is_not_told(ledger: LedgerDatabase) -> None:
    """Not even once its events are forgotten."""
    endpoint(ledger)
    session = ledger.b2c()
    ledger.complete(session, "a", ledger.begin(session, "a"))
    ledger.run("truncate generation_webhook_outbox")
    owner_writes(ledger, session, "queued", "completed", "processing", "failed")

    assert events(ledger, session) == []


def test_an_end_by_the_application_that_the_ledger_only_takes_note_of_is_told_once(
    ledger: LedgerDatabase,
) -> None:
    """The task comes while the application's cron has given the credit back and is writing the row."""
    endpoint(ledger)
    session = ledger.b2c(age=4000)
    with ledger.connect() as cron:
        cron.execute("select app_recover_stuck_session(%s, %s)", [session.id, session.owner])
        holding = ledger.in_background(lambda: ledger.hold(session, "a"))
        ledger.wait_for_a_blocked_call()
        cron.commit()
    assert holding.result(timeout=10)["settled_by"] == "elsewhere"

    (event,) = events(ledger, session)
    assert (event["type"], event["data"]["given_back"]) == ("generation.failed", True)
    # The application's, which knows no request_id; it was not made anew.
    assert event["data"]["request_id"] is None


def test_a_session_that_was_set_aside_and_ended_by_the_application_is_told(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c(age=4000)
    ledger.rpc("generation_set_aside", **session.named, p_stuck_after_seconds=300, p_error="57014")
    ledger.cron()

    assert types(ledger, session) == ["failed"]


def test_settling_waits_half_a_second_at_most_for_an_event_that_it_replaces(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    owner_writes(ledger, session, "completed", "queued")
    attempt = ledger.begin(session, "a")
    with ledger.connect() as other:
        other.execute(
            "select from generation_webhook_outbox where type <> 'generation.processing' for update"
        )
        with pytest.raises(RpcRefused) as refused:
            ledger.complete(session, "a", attempt)
    assert refused.value.code == "55P03"
    assert ledger.status(session) == "processing"

    assert ledger.complete(session, "a", attempt)["verdict"] == "completed"
    assert types(ledger, session) == ["processing", "completed"]


def test_a_trigger_from_before_the_ledger_told_the_beginning_is_replaced(ledger: LedgerDatabase) -> None:
    ledger.run(
        "drop trigger generation_webhook_event on generation_sessions;"
        " create constraint trigger generation_webhook_event after update of status on generation_sessions"
        " deferrable initially deferred for each row when (new.status in ('processing', 'failed'))"
        " execute function generation_private.note_webhook_event('b2c')"
    )
    ledger.migrate_again()
    endpoint(ledger)
    session = ledger.b2c()
    owner_writes(ledger, session, "processing", "queued", "failed")

    assert types(ledger, session) == ["failed"]


def test_an_event_goes_to_the_global_endpoint_and_to_the_stores_own(ledger: LedgerDatabase) -> None:
    mine, others = ledger.b2b(), ledger.b2b()
    everything, of_store = endpoint(ledger), endpoint(ledger, mine.owner)
    user = ledger.b2c()
    for session in (mine, others, user):
        ledger.reject(session)

    told = {(event["session_id"], event["endpoint_id"]) for event in events(ledger)}

    assert told == {
        (mine.id, everything),
        (mine.id, of_store),
        (others.id, everything),
        (user.id, everything),
    }


def test_a_disabled_endpoint_is_told_nothing_new(ledger: LedgerDatabase) -> None:
    hook = endpoint(ledger)
    ledger.run(
        "update generation_webhook_endpoints set disabled_at = now(), disabled_reason = 'operator'"
        " where id = %s",
        hook,
    )
    ledger.reject(ledger.b2c())

    assert events(ledger) == []


def test_an_event_is_not_kept_of_a_transaction_that_was_taken_back(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    session = ledger.b2c()
    with ledger.connect() as connection:
        connection.execute("update generation_sessions set status = 'failed' where id = %s", [session.id])
        connection.rollback()

    assert (events(ledger), ledger.status(session)) == ([], "queued")


# --------------------------------------------------------------------------------- claims and reports


def some_events(ledger: LedgerDatabase, count: int) -> None:
    for _ in range(count):
        ledger.reject(ledger.b2c())


def test_a_delivery_is_claimed_once_and_due_again_after_its_lease(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    some_events(ledger, 1)

    (first,) = claim(ledger)
    assert claim(ledger) == []
    make_due(ledger)
    (second,) = claim(ledger)

    assert (first["id"], first["attempts"]) == (second["id"], 1)
    assert second["attempts"] == 2
    assert first["secrets"] == [SECRET]


def test_two_that_claim_at_once_never_have_the_same_delivery(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    some_events(ledger, 12)

    claimed = all_at_once([lambda: claim(ledger, per_endpoint=3)] * 4)

    ids = [
        delivery["id"] for deliveries in [*claimed, claim(ledger, per_endpoint=12)] for delivery in deliveries
    ]
    assert len(ids) == len(set(ids)) == 12


def test_a_busy_endpoint_and_one_that_fails_leave_the_places_to_others(ledger: LedgerDatabase) -> None:
    works, fails, busy = endpoint(ledger), endpoint(ledger), endpoint(ledger)
    ledger.run("update generation_webhook_endpoints set failing_since = now() where id = %s", fails)
    some_events(ledger, 5)

    claimed = [delivery["endpoint_id"] for delivery in claim(ledger, per_endpoint=4, busy=[busy])]

    assert (claimed.count(str(works)), claimed.count(str(fails)), claimed.count(str(busy))) == (4, 1, 0)


def crowd(ledger: LedgerDatabase, count: int, *, failing: bool = False) -> list[str]:
    """So many endpoints, each with ten events that are due."""
    made = ledger.rows(
        "insert into generation_webhook_endpoints (url, secret, failing_since, last_tried_at)"
        " select 'https://crowd.example/' || n, %s, case when %s then now() end, now() - interval '1 minute'"
        " from generate_series(1, %s) n returning id",
        SECRET,
        failing,
        count,
    )
    ledger.run(
        "insert into generation_webhook_outbox (endpoint_id, channel, session_id, type, data, occurred_at)"
        " select id, 'b2c', gen_random_uuid(), 'generation.failed', '{}', now()"
        " from generation_webhook_endpoints, generate_series(1, 10)"
    )
    return [str(row["id"]) for row in made]


def test_endpoints_that_fail_leave_places_to_one_that_works(ledger: LedgerDatabase) -> None:
    """A hundred that never answer, all with a backlog, and an event for another while they are asked."""
    dead = crowd(ledger, 100, failing=True)
    in_flight = claim(ledger)
    assert {delivery["endpoint_id"] for delivery in in_flight} < set(dead)
    assert len(in_flight) == 32
    works = endpoint(ledger)
    some_events(ledger, 1)

    (claimed,) = claim(
        ledger, limit=64 - len(in_flight), busy=[delivery["endpoint_id"] for delivery in in_flight]
    )

    assert claimed["endpoint_id"] == str(works)


def test_every_endpoint_has_its_first_place_before_any_has_its_second(ledger: LedgerDatabase) -> None:
    slow = crowd(ledger, 16)

    shares = Counter(delivery["endpoint_id"] for delivery in claim(ledger))

    assert shares == dict.fromkeys(slow, 4)


def test_the_endpoint_that_was_tried_longest_ago_comes_first(ledger: LedgerDatabase) -> None:
    """Few places, all others slow: nobody waits longer than one turn of each."""
    slow = crowd(ledger, 6)
    turns = []
    for _ in range(6):
        delivered = claim(ledger, limit=2)
        report(ledger, *[result(delivery, delivered=True) for delivery in delivered])
        turns += [delivery["endpoint_id"] for delivery in delivered]

    assert sorted(turns[:6]) == sorted(turns[6:]) == sorted(slow)


def test_both_secrets_sign_while_one_replaces_the_other(ledger: LedgerDatabase) -> None:
    hook = endpoint(ledger)
    ledger.run(
        "update generation_webhook_endpoints set secret = 'whsec_bmV3', previous_secret = %s,"
        " previous_secret_until = now() + interval '1 hour' where id = %s",
        SECRET,
        hook,
    )
    some_events(ledger, 1)
    assert claim(ledger)[0]["secrets"] == ["whsec_bmV3", SECRET]

    ledger.run("update generation_webhook_endpoints set previous_secret_until = now()")
    make_due(ledger)
    assert claim(ledger)[0]["secrets"] == ["whsec_bmV3"]


def test_a_delivered_event_is_claimed_no_more(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    some_events(ledger, 1)
    report(ledger, result(claim(ledger)[0], delivered=True))
    make_due(ledger)

    (event,) = events(ledger)

    assert claim(ledger) == []
    assert (event["due_at"], event["last_status"]) == (None, 200)
    assert event["delivered_at"] is not None


def test_a_failure_is_tried_again_later_and_given_up_after_a_day(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    some_events(ledger, 1)
    report(ledger, result(claim(ledger)[0], status=500, retry=40))
    (event,) = events(ledger)
    assert event["due_at"] > event["last_attempt_at"]
    assert (event["last_status"], event["given_up_at"]) == (500, None)

    ledger.run("update generation_webhook_outbox set tried_since = now() - interval '1 day', due_at = now()")
    answer = report(ledger, result(claim(ledger)[0], status=500))

    (event,) = events(ledger)
    assert answer["given_up"] == 1
    assert event["due_at"] is None
    assert event["given_up_at"] is not None


def test_a_late_failure_does_not_undo_what_another_replica_did(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    some_events(ledger, 1)
    late = claim(ledger)[0]
    make_due(ledger)
    report(ledger, result(claim(ledger)[0], delivered=True))
    report(ledger, result(late, status=500))

    assert events(ledger)[0]["delivered_at"] is not None


def test_410_disables_an_endpoint_at_once_and_days_of_failure_do(ledger: LedgerDatabase) -> None:
    gone, failing, young = endpoint(ledger), endpoint(ledger), endpoint(ledger)
    some_events(ledger, 1)
    ledger.run(
        "update generation_webhook_endpoints set failing_since = now() - interval '4 days',"
        " last_tried_at = now() - interval '1 hour' where id = %s",
        failing,
    )
    by_endpoint = {delivery["endpoint_id"]: delivery for delivery in claim(ledger)}

    answer = report(
        ledger,
        result(by_endpoint[str(gone)], status=410),
        result(by_endpoint[str(failing)], status=500),
        result(by_endpoint[str(young)], status=500),
    )

    disabled = {entry["endpoint_id"]: entry["reason"] for entry in answer["disabled"]}
    assert disabled == {str(gone): "gone", str(failing): "failing"}
    figures = ledger.rpc("generation_webhooks_tidy", p_keep_seconds=7 * DAY, p_limit=10)
    assert (figures["enabled"], figures["failing"], figures["disabled"]) == (1, 1, 2)


def pass_time(ledger: LedgerDatabase, days: float) -> None:
    """As if everything noted so far had been noted so many days earlier; what was due then is due."""
    ledger.run(
        "update generation_webhook_endpoints set failing_since = failing_since - make_interval(secs => %s),"
        " last_tried_at = last_tried_at - make_interval(secs => %s)",
        *[days * DAY] * 2,
    )
    ledger.run(
        "update generation_webhook_outbox set tried_since = tried_since - make_interval(secs => %s),"
        " due_at = due_at - make_interval(secs => %s)",
        *[days * DAY] * 2,
    )


def disabled_reason(ledger: LedgerDatabase, hook: UUID) -> Any:
    return ledger.value("select disabled_reason from generation_webhook_endpoints where id = %s", hook)


def test_time_in_which_nothing_was_tried_disables_no_endpoint(ledger: LedgerDatabase) -> None:
    """Its only event was given up; the next one, long after, fails once."""
    hook = endpoint(ledger)
    some_events(ledger, 1)
    report(ledger, result(claim(ledger)[0], status=500))
    pass_time(ledger, days=1)
    assert report(ledger, result(claim(ledger)[0], status=500))["given_up"] == 1
    pass_time(ledger, days=500)
    some_events(ledger, 1)

    answer = report(ledger, result(claim(ledger)[0], status=500))

    assert (answer["disabled"], disabled_reason(ledger, hook)) == ([], None)


def test_an_endpoint_that_fails_at_every_try_is_disabled_on_the_third_day(ledger: LedgerDatabase) -> None:
    hook = endpoint(ledger)
    reasons = []
    for _ in range(7):
        some_events(ledger, 1)
        report(ledger, result(claim(ledger)[0], status=500))
        reasons.append(disabled_reason(ledger, hook))
        pass_time(ledger, days=0.5)

    assert reasons == [None] * 6 + ["failing"]


def test_one_success_ends_the_failing_of_an_endpoint(ledger: LedgerDatabase) -> None:
    hook = endpoint(ledger)
    some_events(ledger, 2)
    first, second = claim(ledger)
    report(ledger, result(first, status=500))
    failing = "select failing_since from generation_webhook_endpoints where id = %s"
    assert ledger.value(failing, hook) is not None

    report(ledger, result(second, delivered=True))
    assert ledger.value(failing, hook) is None


def test_a_try_in_which_the_endpoint_was_not_asked_says_nothing_about_it(ledger: LedgerDatabase) -> None:
    hook = endpoint(ledger)
    some_events(ledger, 1)
    row = "select failing_since, last_tried_at from generation_webhook_endpoints where id = %s"
    before = ledger.rows(row, hook)

    report(ledger, result(claim(ledger)[0], asked=False), disable=0)

    assert ledger.rows(row, hook) == before
    assert disabled_reason(ledger, hook) is None
    make_due(ledger)
    assert claim(ledger)[0]["attempts"] == 2


def test_resend_begins_anew_with_one_or_with_all_that_were_given_up(ledger: LedgerDatabase) -> None:
    hook = endpoint(ledger)
    some_events(ledger, 3)
    first, second, third = claim(ledger)
    report(ledger, result(first, delivered=True))
    ledger.run("update generation_webhook_outbox set tried_since = now() - interval '2 days'")
    report(ledger, result(second, status=500), result(third, status=500))
    assert claim(ledger) == []

    assert ledger.rpc("generation_webhooks_resend", p_id=first["id"], p_endpoint_id=None) == 1
    assert [delivery["id"] for delivery in claim(ledger)] == [first["id"]]
    assert ledger.rpc("generation_webhooks_resend", p_id=None, p_endpoint_id=str(hook)) == 2
    # One at a time, for the endpoint fails.
    assert {claim(ledger)[0]["id"], claim(ledger)[0]["id"]} == {second["id"], third["id"]}


def test_old_events_are_forgotten_a_bounded_number_at_a_time(ledger: LedgerDatabase) -> None:
    endpoint(ledger)
    some_events(ledger, 5)
    for delivery in claim(ledger)[:4]:
        report(ledger, result(delivery, delivered=True))
    ledger.run("update generation_webhook_outbox set created_at = now() - interval '8 days'")

    left = []
    for _ in range(3):
        ledger.rpc("generation_webhooks_tidy", p_keep_seconds=7 * DAY, p_limit=3)
        left.append(len(events(ledger)))

    assert left == [2, 1, 1], "the one that is still to be sent stays"


@pytest.mark.parametrize("who", ["anon", "user"])
def test_a_stranger_sees_neither_endpoints_nor_events(ledger: LedgerDatabase, who: str) -> None:
    endpoint(ledger)
    some_events(ledger, 1)
    token = ledger.anon_token() if who == "anon" else ledger.user_token(uuid4())
    for table in ("generation_webhook_endpoints", "generation_webhook_outbox"):
        assert ledger.get(f"/{table}", token=token).json()["code"] == "42501"
