"""The outbox in the database: what is to be sent, and what came of it. See `110_webhooks.sql`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from wearon_generator.ledger import Database
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Timing
from wearon_generator.webhooks.client import Answer

KEPT_DAYS: Final = 7  # for who asks what was sent; it holds ids and codes
_TIDIED_AT_ONCE: Final = 5000  # rows; a minute of 600 jobs for two endpoints makes 2,400


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one endpoint, leased to this process."""

    id: str
    endpoint_id: str
    type: str
    data: dict[str, Any]
    occurred_at: str
    object_path: str | None
    attempts: int
    """This one included."""
    url: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of a try; `retry_in`: seconds."""

    delivery: Delivery
    answer: Answer
    retry_in: float


class Outbox:
    """The functions of the outbox. Each makes one call and raises `SupabaseUnavailable`."""

    def __init__(self, database: Database, timing: Timing) -> None:
        self._database = database
        self._timing = timing

    async def claim(
        self, limit: int, per_endpoint: int, for_failing: int, busy: Iterable[UUID | str]
    ) -> tuple[int, list[Delivery]]:
        """How many endpoints are enabled, and what is due for those that are not `busy`.

        `for_failing`: of all that is in work, the most for endpoints that fail.
        """
        params = {
            "p_limit": limit,
            "p_per_endpoint": per_endpoint,
            "p_failing_limit": for_failing,
            "p_lease_seconds": self._timing.webhook_lease,
            "p_busy": [str(endpoint) for endpoint in busy],
        }
        answer = await self._call("claim", params)
        return answer["endpoints"], [Delivery(**row) for row in answer["deliveries"]]

    async def report(self, sent: Iterable[Sent]) -> dict[str, Any]:
        """Note what came of deliveries; answers how many were given up and which endpoints were disabled."""
        results = [
            {
                "id": each.delivery.id,
                "endpoint_id": each.delivery.endpoint_id,
                "attempts": each.delivery.attempts,
                "asked": each.answer.asked,
                "delivered": each.answer.delivered,
                "gone": each.answer.gone,
                "status": each.answer.status,
                "error": each.answer.error,
                "retry_in_seconds": each.retry_in,
            }
            for each in sent
        ]
        params = {
            "p_results": results,
            "p_give_up_seconds": self._timing.webhook_give_up,
            "p_disable_seconds": self._timing.webhook_disable,
        }
        return await self._call("report", params)

    async def tidy(self) -> dict[str, float]:
        """Forget what is old; answers the figures for the metrics."""
        params = {"p_keep_seconds": KEPT_DAYS * 24 * 3600, "p_limit": _TIDIED_AT_ONCE}
        return await self._call("tidy", params)

    async def _call(self, function: str, params: dict[str, Any]) -> dict[str, Any]:
        answer = await self._database.call(f"generation_webhooks_{function}", params)
        if not isinstance(answer, dict):
            raise SupabaseUnavailable(f"generation_webhooks_{function} answered no dict")
        return answer
