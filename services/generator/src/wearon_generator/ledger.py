"""The ledger in the database: who works on a session, how often it was tried, and how it ended.

Each method is one call of a function from `deploy/supabase/migrations`, which decides and changes in one
transaction. All may be repeated after a lost answer. Errors are those that `supabase_client.ask` translates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID

from postgrest.exceptions import APIError
from supabase import AsyncClient

from wearon_contracts.errors import ErrorCode
from wearon_contracts.tasks import Channel, GenerationTask
from wearon_generator.prices import Usage

T = TypeVar("T")

SCHEMA_VERSION: Final = 2
"""Version of the migrations this code calls."""

LEASE_SECONDS: Final = 30
MAX_CLAIMS: Final = 5
MAX_RATE_LIMIT_RETRIES: Final = 1
_IDS_IN_ONE_QUERY: Final = 100
"""They go into the URL."""


class MigrationsMissing(Exception):
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
class Verdict:
    """What a ledger function decided, and the figures that go with it."""

    name: str
    attempt: int = 0
    rate_limit_retries: int = 0
    due_in: float | None = None
    """Seconds, by the database's clock: ours may be off."""
    outcome: str | None = None
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


def _verdict(data: dict[str, Any]) -> Verdict:
    refund = data.get("refund") or {}
    return Verdict(
        name=data["verdict"],
        attempt=data.get("attempt") or 0,
        rate_limit_retries=data.get("rate_limit_retries") or 0,
        due_in=data.get("due_in_seconds"),
        outcome=data.get("outcome"),
        refund=refund.get("state"),
        flagged=bool(data.get("flagged")),
        shopper_email=data.get("shopper_email"),
    )


class Ledger:
    """Calls of the ledger's functions through PostgREST."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def _call(self, function: str, params: dict[str, Any], kind: type[T]) -> T:
        # Whatever is not JSON comes through postgrest as a string, an empty body as a list.
        data: Any = (await self._client.rpc(function, params).execute()).data
        if not isinstance(data, kind):
            raise ValueError(f"{function} answered no {kind.__name__}")
        return data

    async def _decide(self, function: str, params: dict[str, Any]) -> Verdict:
        return _verdict(await self._call(function, params, dict))

    async def check_schema(self) -> None:
        """Raise `MigrationsMissing`, naming what is missing, unless the migrations are applied."""
        try:
            version = await self._call("generation_schema_version", {}, int)
        except APIError as error:
            if error.code in ("PGRST202", "42883"):
                raise MigrationsMissing(
                    "function generation_schema_version is missing: apply deploy/supabase/migrations"
                ) from error
            raise
        if version < SCHEMA_VERSION:
            raise MigrationsMissing(
                f"database schema version {version} is older than {SCHEMA_VERSION}: "
                "apply deploy/supabase/migrations"
            )

    async def hold(self, task: GenerationTask, holder: str) -> Verdict:
        """held, settled, held_elsewhere, session_not_found or owner_mismatch."""
        params = {"p_task": task.to_message(), "p_holder": holder, "p_lease_seconds": LEASE_SECONDS}
        return await self._decide("generation_hold", params)

    async def renew(self, holders: Iterable[str]) -> set[str]:
        """Extend the leases of these holders; returns those that still hold."""
        params = {"p_holders": list(holders), "p_lease_seconds": LEASE_SECONDS}
        return set(await self._call("generation_renew", params, list))

    async def release(self, held: Held) -> Verdict:
        """Give a session up before it was claimed: released, lost or settled."""
        return await self._decide("generation_release", held.params())

    async def claim(self, held: Held, deadline_seconds: float) -> Verdict:
        """claimed, poison (claimed, but only to be settled), settled, lost or not_due."""
        params = {
            **held.params(),
            "p_lease_seconds": LEASE_SECONDS,
            "p_deadline_seconds": int(deadline_seconds),
            "p_max_attempts": MAX_CLAIMS,
        }
        return await self._decide("generation_claim", params)

    async def requeue(self, claim: Claim, delay_seconds: int, code: ErrorCode) -> Verdict:
        """Back to queued until the retry is due: requeued, exhausted, lost or settled."""
        params = {
            **claim.params(),
            "p_delay_seconds": delay_seconds,
            "p_max_retries": MAX_RATE_LIMIT_RETRIES,
            "p_error_code": code.value,
        }
        return await self._decide("generation_requeue", params)

    async def postpone(self, claim: Claim) -> Verdict:
        """End the attempt without an outcome, the status unchanged: postponed, lost or settled."""
        return await self._decide("generation_postpone", claim.params())

    async def check(self, claim: Claim) -> Verdict:
        """Whether the attempt is still the current one: current, lost or settled."""
        return await self._decide("generation_check", claim.params())

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
        await self._call("generation_record_usage", params, dict)

    async def complete(self, claim: Claim, result: Result) -> Verdict:
        """Settle as completed: completed, lost or settled."""
        params = {
            **claim.params(),
            "p_object_path": result.object_path,
            "p_result_url": result.url,
            "p_processing_time_ms": result.processing_time_ms,
            "p_input_tokens": result.usage.input_tokens if result.usage else None,
            "p_output_tokens": result.usage.output_tokens if result.usage else None,
            "p_cost_usd": None if result.cost_usd is None else str(result.cost_usd),
        }
        return await self._decide("generation_complete", params)

    async def fail(self, claim: Claim, code: ErrorCode, message: str) -> Verdict:
        """Settle as failed and give back what was taken: failed, lost or settled."""
        params = {**claim.params(), "p_error_code": code.value, "p_message": message}
        return await self._decide("generation_fail", params)

    async def reject(self, session: Session, code: ErrorCode, message: str) -> Verdict:
        """Fail a session that nobody holds: failed, settled, busy or session_not_found."""
        params = {**session.params(), "p_error_code": code.value, "p_message": message}
        return await self._decide("generation_reject", params)

    async def recover(self, limit: int, grace_seconds: int) -> list[dict[str, Any]]:
        """Tasks (as the producer sent them) whose leases ran out, each lease extended by the grace."""
        params = {"p_limit": limit, "p_grace_seconds": grace_seconds}
        return await self._call("generation_recover", params, list)

    async def settled_among(self, session_ids: Iterable[str]) -> dict[str, bool]:
        """Of these sessions those that anybody ever held, and whether they are settled."""
        wanted = sorted(set(session_ids))
        found: dict[str, bool] = {}
        for start in range(0, len(wanted), _IDS_IN_ONE_QUERY):
            query = self._client.table("generation_ledger").select("session_id, state")
            # The primary key begins with the channel: without it PostgreSQL before 18 reads everything.
            query = query.in_("channel", [channel.value for channel in Channel])
            answer = await query.in_("session_id", wanted[start : start + _IDS_IN_ONE_QUERY]).execute()
            rows: Any = answer.data
            found |= {str(row["session_id"]): row["state"] == "settled" for row in rows}
        return found

    async def orphans(self, created_before: datetime, stuck_after: int, limit: int) -> list[Session]:
        """Sessions the ledger does not know that nothing may ever run, oldest first."""
        params = {
            "p_created_before": created_before.isoformat(),
            "p_stuck_after_seconds": stuck_after,
            "p_limit": limit,
        }
        rows = await self._call("generation_orphans", params, list)
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
            "p_stuck_after_seconds": stuck_after,
            "p_error_code": code.value,
            "p_message": message,
        }
        return await self._call("generation_reap", params, list)

    async def backlog(self) -> dict[str, float]:
        """Figures of what is not settled, and of what a person should look at; see generation_backlog."""
        return await self._call("generation_backlog", {}, dict)
