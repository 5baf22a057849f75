"""The ledger in the database: who works on a session, how often it was tried, and how it ended.

Each method is one call of a function from `deploy/supabase/migrations`, which decides and changes in one
transaction. All may be repeated after a lost answer, and are, as the ledger's retry policy says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, get_args
from uuid import UUID

from postgrest.exceptions import APIError
from supabase import AsyncClient

from wearon_contracts.errors import ErrorCode
from wearon_contracts.tasks import Channel, GenerationTask
from wearon_generator.prices import Usage
from wearon_generator.supabase_client import Once, RetryPolicy, SupabaseUnavailable, ask
from wearon_generator.timing import Timing

T = TypeVar("T")
V = TypeVar("V", bound=str)

SCHEMA_VERSION: Final = 6
"""Version of the migrations this code calls."""

MAX_CLAIMS: Final = 5  # so many without an outcome make a task poison
MAX_RATE_LIMIT_RETRIES: Final = 1  # as the user's document has it
_IDS_IN_ONE_QUERY: Final = 100
"""They go into the URL."""
EARLIER_ATTEMPT: Final = "earlier_attempt"
"""Key of the `traceparent` that a task brings along which has been tried before, where spans are made."""
_FUNCTION_MISSING: Final = ("PGRST202", "42883")

HoldVerdict = Literal["held", "settled", "held_elsewhere", "session_not_found", "owner_mismatch"]
ReleaseVerdict = Literal["released", "lost", "settled"]
ClaimVerdict = Literal["claimed", "poison", "settled", "lost", "not_due"]
BeginCallVerdict = Literal["begun", "lost", "settled"]
RequeueVerdict = Literal["requeued", "exhausted", "lost", "settled"]
PostponeVerdict = Literal["postponed", "lost", "settled"]
CheckVerdict = Literal["current", "lost", "settled", "gone"]
CompleteVerdict = Literal["completed", "lost", "settled"]
FailVerdict = Literal["failed", "lost", "settled"]
RejectVerdict = Literal["failed", "settled", "busy", "session_not_found"]
RecordVerdict = Literal["recorded"]

_HOLD: Final[tuple[HoldVerdict, ...]] = get_args(HoldVerdict)
_RELEASE: Final[tuple[ReleaseVerdict, ...]] = get_args(ReleaseVerdict)
_CLAIM: Final[tuple[ClaimVerdict, ...]] = get_args(ClaimVerdict)
_BEGIN_CALL: Final[tuple[BeginCallVerdict, ...]] = get_args(BeginCallVerdict)
_REQUEUE: Final[tuple[RequeueVerdict, ...]] = get_args(RequeueVerdict)
_POSTPONE: Final[tuple[PostponeVerdict, ...]] = get_args(PostponeVerdict)
_CHECK: Final[tuple[CheckVerdict, ...]] = get_args(CheckVerdict)
_COMPLETE: Final[tuple[CompleteVerdict, ...]] = get_args(CompleteVerdict)
_FAIL: Final[tuple[FailVerdict, ...]] = get_args(FailVerdict)
_REJECT: Final[tuple[RejectVerdict, ...]] = get_args(RejectVerdict)
_RECORD: Final[tuple[RecordVerdict, ...]] = get_args(RecordVerdict)


class MigrationsMissing(SupabaseUnavailable):
    """The database lacks what `deploy/supabase/migrations` adds."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session of either table."""

    channel: Channel
    session_id: UUID

    def params(self) -> dict[str, Any]:
        """The arguments by which every ledger function names a session."""
        return {"p_channel": self.channel.value, "p_session_id": str(self.session_id)}


@dataclass(frozen=True, slots=True)
class Held:
    """A session together with the delivery that holds it."""

    session: Session
    holder: str
    end_user: str = ""
    """Stands for the person the picture is for, towards the image provider."""

    def params(self) -> dict[str, Any]:
        """Arguments of a function that only the holder may call."""
        return {**self.session.params(), "p_holder": self.holder}


@dataclass(frozen=True, slots=True)
class Claim:
    """A held session in work; `attempt` is the fencing token of everything after it."""

    held: Held
    attempt: int

    def params(self) -> dict[str, Any]:
        """Arguments of a function that only the current attempt may call."""
        return {**self.held.params(), "p_attempt": self.attempt}


@dataclass(frozen=True, slots=True)
class Decision(Generic[V]):
    """What a ledger function decided, and the figures that go with it."""

    verdict: V
    attempt: int = 0
    rate_limit_retries: int = 0
    postponed: int = 0
    holders_lost: int = 0
    due_in: float | None = None
    """Seconds, by the database's clock: ours may be off."""
    outcome: str | None = None
    cancelled: bool = False
    """Whether the session was settled by a cancellation."""
    refund: str | None = None
    flagged: bool = False
    shopper_email: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A stored picture, as the session row tells of it. Times in ms, cost in USD."""

    object_path: str
    url: str
    processing_time_ms: int
    usage: Usage | None
    cost_usd: Decimal | None


class Database(Protocol):
    """Where the ledger's functions are. Each method makes one call, and raises `SupabaseUnavailable`."""

    async def call(self, function: str, params: dict[str, Any]) -> object:
        """What the function answered. Raises `MigrationsMissing` if there is no such function."""
        ...

    async def ledger_states(self, session_ids: Sequence[str]) -> object:
        """`session_id` and `state` of those of the sessions that are in the ledger, as rows."""
        ...


class SupabaseDatabase:
    """The database behind PostgREST."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def call(self, function: str, params: dict[str, Any]) -> object:
        """See `Database`."""
        try:
            answer = await ask(self._client.rpc(function, params).execute)
        except SupabaseUnavailable as error:
            if isinstance(error.__cause__, APIError) and error.__cause__.code in _FUNCTION_MISSING:
                raise MigrationsMissing(
                    f"function {function} is missing: apply deploy/supabase/migrations"
                ) from error.__cause__
            raise
        return answer.data

    async def ledger_states(self, session_ids: Sequence[str]) -> object:
        """See `Database`."""
        query = self._client.table("generation_ledger").select("session_id, state")
        # The primary key begins with the channel: without it PostgreSQL before 18 reads everything.
        query = query.in_("channel", [channel.value for channel in Channel])
        return (await ask(query.in_("session_id", list(session_ids)).execute)).data


def _decision(data: dict[str, Any], verdict: V) -> Decision[V]:
    refund = data.get("refund") or {}
    return Decision(
        verdict=verdict,
        attempt=data.get("attempt") or 0,
        rate_limit_retries=data.get("rate_limit_retries") or 0,
        postponed=data.get("postponed") or 0,
        holders_lost=data.get("holders_lost") or 0,
        due_in=data.get("due_in_seconds"),
        outcome=data.get("outcome"),
        cancelled=data.get("settled_by") == "cancellation",
        refund=refund.get("state"),
        flagged=bool(data.get("flagged")),
        shopper_email=data.get("shopper_email"),
    )


def _checked_rows(data: object, source: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """`data` as rows that have these members at least; raises `SupabaseUnavailable` for all else."""
    if not isinstance(data, list):
        raise SupabaseUnavailable(f"{source} answered no list")
    if not all(isinstance(row, dict) and row.keys() >= set(names) for row in data):
        raise SupabaseUnavailable(f"{source} answered a list of something else")
    return data


class Ledger:
    """The ledger's functions. An answer of another shape than theirs counts as no answer."""

    def __init__(self, database: Database, timing: Timing, retry: RetryPolicy | None = None) -> None:
        self._database = database
        self._timing = timing
        self._retry = retry or Once()

    def with_retry(self, retry: RetryPolicy) -> Ledger:
        """The same ledger with another policy."""
        return Ledger(self._database, self._timing, retry)

    async def _call(self, function: str, params: dict[str, Any], kind: type[T]) -> T:
        return await self._retry.call(function, self._call_once, function, params, kind)

    async def _call_once(self, function: str, params: dict[str, Any], kind: type[T]) -> T:
        data = await self._database.call(f"generation_{function}", params)
        if not isinstance(data, kind):
            raise SupabaseUnavailable(f"generation_{function} answered no {kind.__name__}")
        return data

    async def _rows(self, function: str, params: dict[str, Any], *names: str) -> list[dict[str, Any]]:
        """Objects that have these members at least."""
        return await self._retry.call(function, self._rows_once, function, params, names)

    async def _rows_once(
        self, function: str, params: dict[str, Any], names: Sequence[str]
    ) -> list[dict[str, Any]]:
        return _checked_rows(await self._call_once(function, params, list), f"generation_{function}", names)

    async def _decide(self, function: str, params: dict[str, Any], verdicts: tuple[V, ...]) -> Decision[V]:
        return await self._retry.call(function, self._decide_once, function, params, verdicts)

    async def _decide_once(
        self, function: str, params: dict[str, Any], verdicts: tuple[V, ...]
    ) -> Decision[V]:
        data = await self._call_once(function, params, dict)
        for verdict in verdicts:
            if data.get("verdict") == verdict:
                return _decision(data, verdict)
        raise SupabaseUnavailable(f"generation_{function} answered with an unknown verdict")

    async def check_schema(self) -> None:
        """Raise `MigrationsMissing`, naming what is missing, unless the migrations are applied."""
        version = await self._call("schema_version", {}, int)
        if version < SCHEMA_VERSION:
            raise MigrationsMissing(
                f"database schema version {version} is older than {SCHEMA_VERSION}: "
                "apply deploy/supabase/migrations"
            )

    async def hold(
        self, task: GenerationTask, holder: str, attempt: str | None = None
    ) -> Decision[HoldVerdict]:
        """Take note of a task and of who has it; a duplicate or a settled session is turned away.

        `attempt`: a `traceparent` that a recovered copy of the task is to bring along as `EARLIER_ATTEMPT`.
        """
        message = task.to_message()
        if attempt is not None:
            message[EARLIER_ATTEMPT] = attempt
        params = {"p_task": message, "p_holder": holder, "p_lease_seconds": self._timing.lease}
        return await self._decide("hold", params, _HOLD)

    async def renew(self, holders: Iterable[str]) -> set[str]:
        """Extend the leases of these holders; returns those that still hold."""
        asked = set(holders)
        params = {"p_holders": sorted(asked), "p_lease_seconds": self._timing.lease}
        kept = await self._call("renew", params, list)
        if not all(isinstance(holder, str) and holder in asked for holder in kept):
            raise SupabaseUnavailable("generation_renew answered a list of something else")
        return set(kept)

    async def release(self, held: Held) -> Decision[ReleaseVerdict]:
        """Give a session up before it was claimed."""
        params = {**held.params(), "p_return_seconds": self._timing.return_grace}
        return await self._decide("release", params, _RELEASE)

    async def claim(self, held: Held, *, call_begins: bool) -> Decision[ClaimVerdict]:
        """Begin an attempt. poison: claimed, but after so many attempts only to be settled.

        `call_begins`: the provider is called next, as for `begin_call`.
        """
        params = {
            **held.params(),
            "p_lease_seconds": self._timing.lease,
            "p_deadline_seconds": self._timing.deadline,
            "p_max_attempts": MAX_CLAIMS,
            "p_call_begins": call_begins,
        }
        return await self._decide("claim", params, _CLAIM)

    async def begin_call(self, claim: Claim) -> Decision[BeginCallVerdict]:
        """Take note that the provider is called next, so that nobody can cancel the session any more."""
        return await self._decide("begin_call", claim.params(), _BEGIN_CALL)

    async def requeue(self, claim: Claim, delay_seconds: int, code: ErrorCode) -> Decision[RequeueVerdict]:
        """Back to queued until the retry is due. exhausted: nothing was changed, there was a retry before."""
        params = {
            **claim.params(),
            "p_delay_seconds": delay_seconds,
            "p_max_retries": MAX_RATE_LIMIT_RETRIES,
            "p_error_code": code.value,
            "p_grace_seconds": self._timing.retry_grace,
        }
        return await self._decide("requeue", params, _REQUEUE)

    async def postpone(self, claim: Claim) -> Decision[PostponeVerdict]:
        """End the attempt without an outcome, the status unchanged."""
        params = {**claim.params(), "p_return_seconds": self._timing.return_grace}
        return await self._decide("postpone", params, _POSTPONE)

    async def check(self, claim: Claim) -> Decision[CheckVerdict]:
        """Whether the attempt is still the current one. gone: there is no session row any more."""
        return await self._decide("check", claim.params(), _CHECK)

    async def record_usage(
        self, claim: Claim, call_id: UUID, model: str, usage: Usage, cost: Decimal | None
    ) -> None:
        """Note what one answer of the provider cost, whatever becomes of it."""
        params = {
            **claim.held.session.params(),
            "p_call_id": str(call_id),
            "p_attempt": claim.attempt,
            "p_model": model,
            "p_input_tokens": usage.input_tokens,
            "p_output_tokens": usage.output_tokens,
            "p_cost_usd": None if cost is None else str(cost),
        }
        await self._decide("record_usage", params, _RECORD)

    async def complete(self, claim: Claim, result: Result) -> Decision[CompleteVerdict]:
        """Settle as completed."""
        params = {
            **claim.params(),
            "p_object_path": result.object_path,
            "p_result_url": result.url,
            "p_processing_time_ms": result.processing_time_ms,
            "p_input_tokens": result.usage.input_tokens if result.usage else None,
            "p_output_tokens": result.usage.output_tokens if result.usage else None,
            "p_cost_usd": None if result.cost_usd is None else str(result.cost_usd),
        }
        return await self._decide("complete", params, _COMPLETE)

    async def fail(self, claim: Claim, code: ErrorCode, message: str) -> Decision[FailVerdict]:
        """Settle as failed and give back what was taken."""
        params = {**claim.params(), "p_error_code": code.value, "p_message": message}
        return await self._decide("fail", params, _FAIL)

    async def reject(self, session: Session, code: ErrorCode, message: str) -> Decision[RejectVerdict]:
        """Fail a session that nobody holds. busy: somebody does."""
        params = {**session.params(), "p_error_code": code.value, "p_message": message}
        return await self._decide("reject", params, _REJECT)

    async def recover(self, limit: int) -> list[dict[str, Any]]:
        """Tasks (as the producer sent them) whose leases ran out, each lease extended by the grace."""
        params = {
            "p_limit": limit,
            "p_grace_seconds": self._timing.recovery_grace,
            "p_margin_seconds": self._timing.recovery_margin,
        }
        return await self._rows("recover", params, "channel", "session_id", "task", "attempt")

    async def settled_among(self, session_ids: Iterable[str]) -> dict[str, bool]:
        """Of these sessions those that anybody ever held, and whether they are settled."""
        wanted = sorted(set(session_ids))
        found: dict[str, bool] = {}
        for start in range(0, len(wanted), _IDS_IN_ONE_QUERY):
            rows = await self._database.ledger_states(wanted[start : start + _IDS_IN_ONE_QUERY])
            known = _checked_rows(rows, "generation_ledger", ("session_id", "state"))
            found |= {str(row["session_id"]): row["state"] == "settled" for row in known}
        return found

    async def orphans(self, created_before: datetime, stuck_after: int, limit: int) -> list[Session]:
        """Sessions the ledger does not know that nothing may ever run, oldest first."""
        params = {
            "p_created_before": created_before.isoformat(),
            **self._stuck_after(stuck_after),
            "p_limit": limit,
        }
        rows = await self._rows("orphans", params, "channel", "session_id")
        return [Session(Channel(row["channel"]), UUID(row["session_id"])) for row in rows]

    async def reap(
        self, sessions: list[Session], stuck_after: int, code: ErrorCode, message: str
    ) -> list[dict[str, Any]]:
        """Fail and refund at most 100 orphans; each is looked at once more before."""
        params = {
            "p_sessions": [
                {"channel": session.channel.value, "session_id": str(session.session_id)}
                for session in sessions
            ],
            **self._stuck_after(stuck_after),
            "p_error_code": code.value,
            "p_message": message,
        }
        return await self._rows("reap", params, "channel", "session_id", "verdict")

    async def set_aside(self, session: Session, stuck_after: int, error: str) -> dict[str, Any]:
        """Flag an orphan that alone takes longer than a statement may; answers as `reap` does for one."""
        params = {**session.params(), **self._stuck_after(stuck_after), "p_error": error}
        return await self._call("set_aside", params, dict)

    def _stuck_after(self, stuck_after: int) -> dict[str, Any]:
        return {
            "p_stuck_after_seconds": stuck_after,
            "p_older_worker_seconds": self._timing.older_worker_grace,
        }

    async def unwanted_objects(self, limit: int) -> list[dict[str, Any]]:
        """Objects stored for sessions that ended without a result: channel, session_id, owner_id, since."""
        names = ("channel", "session_id", "owner_id", "since")
        return await self._rows("unwanted_objects", {"p_limit": limit}, *names)

    async def objects_deleted(self, objects: list[dict[str, Any]]) -> None:
        """Take note that these, as `unwanted_objects` answered them, are deleted."""
        await self._call("objects_deleted", {"p_objects": objects}, int)

    async def lanes(self, since: str | None, limit: int) -> dict[str, Any]:
        """The rules of lanes, and what was cancelled from `since` on; see generation_lanes."""
        return await self._call("lanes", {"p_since": since, "p_limit": limit}, dict)

    async def backlog(self) -> dict[str, float]:
        """Figures of what is not settled, and of what a person should look at; see generation_backlog."""
        return await self._call("backlog", {}, dict)
