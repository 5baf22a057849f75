"""One session's whole story, and the sessions a person should look at."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from wearon_contracts.outcomes import CANCEL_FUNCTION
from wearon_contracts.place import PLACE_SCRIPT, read_place
from wearon_contracts.queues import lane_of
from wearon_contracts.sessions import SESSION_TABLES, SETTLED
from wearon_contracts.tasks import Channel
from wearon_generator.operations.connections import Connections, Refused
from wearon_generator.operations.values import Row, row, rows
from wearon_generator.pictures import OWNER_COLUMN, TOO_DEEP, without_token


class Story(TypedDict):
    """Everything known of one session."""

    session_id: str
    channel: str
    row: Row
    """Links in it without what lets anybody open them."""
    ledger: Row | None
    """Without the task, which holds links."""
    provider_answers: list[Row]
    money: list[Row]
    """What the application's tables tell of its credits."""
    task_in_redis: bool
    place: Place | None
    """None if it does not wait."""


class Place(TypedDict):
    """How many jobs start before it, and in about how many seconds it starts; None if none start just now."""

    before: int
    seconds: float | None


class Refund(TypedDict):
    """What was given back for a session, and to whom."""

    state: str | None
    amount: int | None
    payer: str | None
    error: str | None


class Flagged(TypedDict):
    """A session a person should look at."""

    channel: str
    session_id: str
    owner_id: str
    reason: str
    outcome: str | None
    error_code: str | None
    attempts: int
    settled_by: str | None
    settled_at: str | None
    refund: Refund


class Cancelled(TypedDict):
    """A session that is cancelled; `given_back`: whether its credit is back."""

    session_id: str
    given_back: bool


class LookedAt(TypedDict):
    """A session that is no longer flagged; `tried_again` if the sweep has it again."""

    session_id: str
    note: str
    tried_again: bool


class Settled(TypedDict):
    """How a session ended; `refund` is its state."""

    status: str
    refund: str | None


_WITHOUT_ACCESSORIES: Final = (
    "id, user_id, status, model_image_url, outfit_image_url, stitched_image_url, prompt_system, prompt_user,"
    "generated_image_url, credits_used, error_message, processing_time_ms, created_at, completed_at,"
    "input_tokens, output_tokens, estimated_cost_usd"
)
"""A b2c row but for the one column in which its owner can nest things too deep to be read."""
_FLAGGED: Final = TypeAdapter(list[Flagged])


async def story(at: Connections, session_id: UUID) -> Story:
    """Row, ledger, answers paid for, money moved, where its task is; raises `Refused` if there is no row."""
    found = await _whole_row(at, session_id)
    if found is None:
        raise no_session(session_id)
    channel, session = found
    ledger = await _of_session(at, "generation_ledger", channel, session_id)
    for entry in ledger:
        entry.pop("task", None)
    return {
        "session_id": str(session_id),
        "channel": channel.value,
        "row": {key: without_token(value) for key, value in session.items()},
        "ledger": ledger[0] if ledger else None,
        "provider_answers": await _of_session(at, "generation_usage", channel, session_id),
        "money": await _money(at, channel, session, session_id),
        "task_in_redis": bool(await at.queues.sessions_among({str(session_id)})),
        "place": await _place(at, channel, session, session_id),
    }


async def _place(at: Connections, channel: Channel, session: Row, session_id: UUID) -> Place | None:
    owner = session[OWNER_COLUMN[channel]]
    place = read_place(await at.redis.eval(PLACE_SCRIPT, 0, str(session_id), lane_of(channel, owner)))
    return None if place is None else {"before": place.before, "seconds": place.seconds}


def no_session(session_id: UUID) -> Refused:
    """The refusal where nothing knows the id."""
    return Refused(f"no session has the id {session_id}")


async def session_row(at: Connections, session_id: UUID, columns: str = "*") -> tuple[Channel, Row] | None:
    """The application's row of a session, and which table it is in."""
    for channel, table in SESSION_TABLES.items():
        answer = await at.supabase.table(table).select(columns).eq("id", str(session_id)).execute()
        for session in rows(answer.data):
            return channel, session
    return None


async def _whole_row(at: Connections, session_id: UUID) -> tuple[Channel, Row] | None:
    try:
        return await session_row(at, session_id)
    except RecursionError:
        found = await session_row(at, session_id, _WITHOUT_ACCESSORIES)
        if found is not None:
            found[1]["accessories"] = TOO_DEEP
        return found


async def ledger_entry(at: Connections, session_id: UUID) -> tuple[Channel, Row] | None:
    """What the ledger keeps of a session; it keeps it longer than the application keeps the row."""
    for channel in Channel:
        for entry in await _of_session(at, "generation_ledger", channel, session_id):
            return channel, entry
    return None


async def _of_session(at: Connections, table: str, channel: Channel, session_id: UUID) -> list[Row]:
    # The indexes begin with the channel.
    query = at.supabase.table(table).select("*").eq("channel", channel.value)
    return rows((await query.eq("session_id", str(session_id)).execute()).data)


async def _money(at: Connections, channel: Channel, session: Row, session_id: UUID) -> list[Row]:
    if channel is Channel.B2C:
        query = (
            at.supabase.table("credit_transactions")
            .select("*")
            .eq("user_id", session["user_id"])
            .like("description", f"%{session_id}%")
        )
    elif session["request_id"] is None:
        return []
    else:
        query = (
            at.supabase.table("store_credit_transactions")
            .select("*")
            .eq("store_id", session["store_id"])
            .eq("request_id", session["request_id"])
        )
    return rows((await query.execute()).data)


async def settled(at: Connections, session_id: UUID) -> Settled | None:
    """How the session ended; None if it has not, or there is none."""
    params = {"p_session_id": str(session_id)}
    answer = (await at.supabase.rpc("generation_outcome", params).execute()).data
    if answer is None:
        return None
    outcome = row(answer)
    if not outcome.get("outcome") and outcome.get("status") not in SETTLED:
        return None
    refund = outcome.get("refund")
    state = refund.get("state") if isinstance(refund, dict) else None
    return {"status": str(outcome["status"]), "refund": None if state is None else str(state)}


async def cancel(at: Connections, session_id: UUID) -> Cancelled:
    """Fail a session and give its credit back; raises `Refused` if it is being made, has ended, or is none.

    A session that is cancelled already is answered like one that was cancelled now.
    """
    params = {"p_session_id": str(session_id)}
    answer = row((await at.supabase.rpc(CANCEL_FUNCTION, params).execute()).data)
    match answer["verdict"]:
        case "cancelled" | "already_cancelled":
            return {"session_id": str(session_id), "given_back": bool(answer["given_back"])}
        case "session_not_found":
            raise no_session(session_id)
        case "too_late":
            raise Refused("it is too late: the image provider has been called for this session")
        case ended:
            raise Refused(f"this session has ended: {ended}")


async def flagged(at: Connections, limit: int) -> list[Flagged]:
    """At most `limit`, those that were settled last first."""
    answer = await at.supabase.rpc("generation_flagged", {"p_limit": limit}).execute()
    return _FLAGGED.validate_python(answer.data)


async def looked_at(at: Connections, session_id: UUID, note: str) -> LookedAt:
    """Take a session off the list of flagged ones; raises `Refused` if it is not flagged, or not known.

    One that was set aside because it could not be settled goes back to the sweep.
    """
    params = {"p_session_id": str(session_id), "p_note": note}
    answer = row((await at.supabase.rpc("generation_looked_at", params).execute()).data)
    if answer["verdict"] == "session_not_found":
        raise Refused(f"no session that is settled or set aside has the id {session_id}")
    if answer["verdict"] == "not_flagged":
        raise Refused(f"session {session_id} is not flagged: nobody is asked to look at it")
    return {
        "session_id": str(session_id),
        "note": note,
        "tried_again": answer["verdict"] == "tried_again",
    }
