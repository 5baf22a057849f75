"""Webhook endpoints, what was sent to them, and what is to be sent again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, TypedDict
from uuid import UUID, uuid4

from pydantic import TypeAdapter
from typing_extensions import TypedDict as ReadTypedDict

from wearon_contracts.tasks import Channel
from wearon_generator.operations.connections import Connections, Refused
from wearon_generator.operations.values import Row, rows
from wearon_generator.timing import Timing, utc_now
from wearon_generator.webhooks.client import WebhookClient
from wearon_generator.webhooks.outbox import Delivery
from wearon_generator.webhooks.sender import post
from wearon_generator.webhooks.signing import new_secret

_ENDPOINTS: Final = "generation_webhook_endpoints"
_OUTBOX: Final = "generation_webhook_outbox"
_SECRETS: Final = "secret,previous_secret,previous_secret_until"
_SHOWN: Final = "id,store_id,url,created_at,failing_since,disabled_at,disabled_reason"


class Endpoint(ReadTypedDict):
    """An endpoint without its secret; `store_id` None: it is told of all sessions."""

    id: str
    store_id: str | None
    url: str
    created_at: str
    failing_since: str | None
    disabled_at: str | None
    disabled_reason: str | None


class Secret(TypedDict):
    """An endpoint's new secret, shown this once; `old_until`: until when the one before signs too."""

    id: str
    secret: str
    old_until: str | None


class Tried(TypedDict):
    """What an endpoint did with a test."""

    delivered: bool
    status: int | None
    error: str | None


class Sent(ReadTypedDict):
    """One event for one endpoint; `due_at` None: it was delivered or given up."""

    id: str
    endpoint_id: str
    session_id: str
    type: str
    created_at: str
    attempts: int
    due_at: str | None
    delivered_at: str | None
    given_up_at: str | None
    last_attempt_at: str | None
    last_status: int | None
    last_error: str | None


class Resent(TypedDict):
    """How many events are sent again."""

    resent: int


_ENDPOINT_ROWS: Final = TypeAdapter(list[Endpoint])
_SENT_ROWS: Final = TypeAdapter(list[Sent])


async def add(at: Connections, url: str, store_id: UUID | None) -> Secret:
    """Tell `url` of a store's sessions, or of all.

    Raises `Refused` where nothing could ever be sent to, and where `url` is told of them already.
    """
    objection = _client(at).objection(url)
    if objection is not None:
        raise Refused(f"nothing can be sent there: {objection}")
    store = None if store_id is None else str(store_id)
    await _refuse_a_second(at, url, store)
    secret = new_secret()
    made: Row = {"url": url, "store_id": store, "secret": secret}
    (row,) = rows((await at.supabase.table(_ENDPOINTS).insert(made).execute()).data)
    return {"id": str(row["id"]), "secret": secret, "old_until": None}


async def _refuse_a_second(at: Connections, url: str, store: str | None) -> None:
    query = at.supabase.table(_ENDPOINTS).select("id").eq("url", url).is_("disabled_at", None)
    query = query.is_("store_id", None) if store is None else query.eq("store_id", store)
    for row in rows((await query.execute()).data):
        raise Refused(
            f"endpoint {row['id']} has this address and is told of the same sessions already; "
            f"for a new secret: wearonctl webhooks rotate {row['id']}"
        )


async def endpoints(at: Connections) -> list[Endpoint]:
    """All of them, the oldest first."""
    query = at.supabase.table(_ENDPOINTS).select(_SHOWN).order("created_at")
    return _ENDPOINT_ROWS.validate_python((await query.execute()).data)


async def rotate(at: Connections, endpoint_id: UUID, hours: int) -> Secret:
    """Give an endpoint a new secret; for `hours` the old one signs as well.

    Where the one before still signs, that is the old one: the receiver may not have taken the one between.
    """
    row = await _row(at, endpoint_id, _SECRETS)
    secret, until = new_secret(), (utc_now() + timedelta(hours=hours)).isoformat(timespec="seconds")
    await _change(
        at,
        endpoint_id,
        {"secret": secret, "previous_secret": _secrets(row)[-1], "previous_secret_until": until},
    )
    return {"id": str(endpoint_id), "secret": secret, "old_until": until}


async def disable(at: Connections, endpoint_id: UUID) -> Endpoint:
    """Tell an endpoint nothing any more; what waits for it is kept for a week."""
    return await _change(at, endpoint_id, {"disabled_at": "now", "disabled_reason": "operator"})


async def enable(at: Connections, endpoint_id: UUID) -> Endpoint:
    """Tell an endpoint of sessions again; what waits for it is sent."""
    return await _change(
        at, endpoint_id, {"disabled_at": None, "disabled_reason": None, "failing_since": None}
    )


async def test(at: Connections, endpoint_id: UUID) -> Tried:
    """Send an endpoint a `webhook.test` now, disabled or not; one that takes it counts as failing no more."""
    row = await _row(at, endpoint_id, f"url,store_id,{_SECRETS}")
    store_id = row["store_id"]
    delivery = Delivery(
        id=str(uuid4()),
        endpoint_id=str(endpoint_id),
        type="webhook.test",
        data={
            "session_id": str(uuid4()),
            "channel": (Channel.B2C if store_id is None else Channel.B2B).value,
            "user_id": None,
            "store_id": store_id,
            "request_id": None,
            "code": None,
            "attempts": 0,
            "given_back": False,
        },
        occurred_at=utc_now().isoformat(),
        object_path=None,
        attempts=1,
        url=str(row["url"]),
        secrets=_secrets(row),
    )
    answer = await post(_client(at), delivery, None, utc_now)
    if answer.delivered:
        await _change(at, endpoint_id, {"failing_since": None})
    return {"delivered": answer.delivered, "status": answer.status, "error": answer.error}


async def deliveries(
    at: Connections, endpoint_id: UUID | None, session_id: UUID | None, limit: int
) -> list[Sent]:
    """What was or is to be sent, to one endpoint or of one session if that is given; the newest first."""
    query = at.supabase.table(_OUTBOX).select(",".join(Sent.__annotations__))
    if endpoint_id is not None:
        query = query.eq("endpoint_id", str(endpoint_id))
    if session_id is not None:
        query = query.eq("session_id", str(session_id))
    return _SENT_ROWS.validate_python(
        (await query.order("created_at", desc=True).limit(limit).execute()).data
    )


async def resend(at: Connections, delivery_id: UUID | None, endpoint_id: UUID | None) -> Resent:
    """Begin anew with one event, or with all that were given up of an endpoint.

    Raises `Refused` for none, and where the endpoint is disabled, which is sent nothing.
    """
    to = await _endpoint_of(at, delivery_id) if endpoint_id is None else str(endpoint_id)
    if (await _row(at, to, "disabled_at"))["disabled_at"] is not None:
        raise Refused(f"endpoint {to} is disabled and is sent nothing: first wearonctl webhooks enable {to}")
    params = {
        "p_id": None if delivery_id is None else str(delivery_id),
        "p_endpoint_id": None if endpoint_id is None else str(endpoint_id),
    }
    count = (await at.supabase.rpc("generation_webhooks_resend", params).execute()).data
    if not isinstance(count, int):
        raise ValueError("the database answered no number")
    if count == 0:
        raise Refused("nothing was found to send again")
    return {"resent": count}


async def _endpoint_of(at: Connections, delivery_id: UUID | None) -> str:
    query = at.supabase.table(_OUTBOX).select("endpoint_id").eq("id", str(delivery_id))
    for row in rows((await query.execute()).data):
        return str(row["endpoint_id"])
    raise Refused(f"no event has the id {delivery_id}")


def _secrets(row: Row) -> list[str]:
    """Those that an endpoint's events are signed with now, the newest first."""
    until = row["previous_secret_until"]
    both = until is not None and datetime.fromisoformat(str(until)) > utc_now()
    return [str(row["secret"]), *([str(row["previous_secret"])] if both else [])]


def _client(at: Connections) -> WebhookClient:
    return WebhookClient(timeout=Timing().webhook_timeout, trusted_origins=at.webhook_origins)


async def _row(at: Connections, endpoint_id: UUID | str, columns: str) -> Row:
    query = at.supabase.table(_ENDPOINTS).select(columns).eq("id", str(endpoint_id))
    return _only(rows((await query.execute()).data), endpoint_id)


async def _change(at: Connections, endpoint_id: UUID, changes: Row) -> Endpoint:
    query = at.supabase.table(_ENDPOINTS).update(changes).eq("id", str(endpoint_id))
    row = _only(rows((await query.execute()).data), endpoint_id)
    (shown,) = _ENDPOINT_ROWS.validate_python([{name: row[name] for name in Endpoint.__annotations__}])
    return shown


def _only(found: list[Row], endpoint_id: UUID | str) -> Row:
    if not found:
        raise Refused(f"no webhook endpoint has the id {endpoint_id}")
    return found[0]
