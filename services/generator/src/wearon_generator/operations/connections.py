"""What every operation works with, and how it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis
from supabase import AsyncClient

from wearon_generator.ledger import Ledger, SupabaseDatabase
from wearon_generator.queue_scan import QueueScan
from wearon_generator.retention import NO_LIMITS, Limits
from wearon_generator.timing import Timing


class Refused(Exception):
    """The operator asked for something that would do harm, or for something that is not there."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Redis and Supabase, and what the generators are told of them."""

    redis: Redis
    supabase: AsyncClient
    bucket: str
    """Where results are stored."""
    stuck_after: int
    """Seconds, as the generators have it."""
    webhook_origins: tuple[str, ...] = ()
    """Where webhooks may go although it is private or http, as the generators have it."""
    retention: Limits = NO_LIMITS
    """When pictures are deleted, as the generators have it."""

    @property
    def ledger(self) -> Ledger:
        """The ledger, asked once."""
        return Ledger(SupabaseDatabase(self.supabase), Timing())

    @property
    def queues(self) -> QueueScan:
        """All queues of Redis."""
        return QueueScan(self.redis)


async def number_at(at: Connections, key: str, *, otherwise: int) -> int:
    """The whole number at a key of Redis, `otherwise` if it is not there; raises `Refused` for all else."""
    value = await at.redis.get(key)
    try:
        return otherwise if value is None else int(value)
    except ValueError as error:
        raise Refused(f"the key {key} of Redis holds no number: somebody set it by hand") from error
