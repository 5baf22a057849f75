"""States of a try-on session, and what a row update tells the browser."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from wearon_contracts.fields import Timestamp
from wearon_contracts.tasks import Channel

SessionStatus = Literal["queued", "pending", "processing", "completed", "failed"]
"""`pending` is an old word for `queued`."""

SESSION_TABLES: Final[dict[Channel, str]] = {
    Channel.B2C: "generation_sessions",
    Channel.B2B: "store_generation_sessions",
}
"""Table of a channel's session rows."""

SETTLED: Final[frozenset[SessionStatus]] = frozenset({"completed", "failed"})
"""A session in one of these states never changes again."""

TRANSITIONS: Final[dict[SessionStatus, frozenset[SessionStatus]]] = {
    "queued": frozenset({"processing", "failed"}),
    "pending": frozenset({"processing", "failed"}),
    # Back to queued only while a rate-limited job waits for its retry.
    "processing": frozenset({"completed", "failed", "queued"}),
    "completed": frozenset(),
    "failed": frozenset(),
}


class SessionUpdate(BaseModel):
    """The columns of a session row that this project writes, as Supabase Realtime brings them."""

    model_config = ConfigDict(extra="ignore", strict=True)

    status: SessionStatus
    generated_image_url: str | None = Field(default=None, description="Signed, valid for six hours.")
    error_message: str | None = Field(default=None, description="A sentence for the shopper.")
    processing_time_ms: int | None = Field(default=None, ge=0)
    completed_at: Timestamp | None = None
    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    estimated_cost_usd: float | None = Field(default=None, ge=0, allow_inf_nan=False)
