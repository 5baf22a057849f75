"""What became of a session, as its owner can ask for it."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from wearon_contracts.errors import ErrorCode
from wearon_contracts.fields import Timestamp, UuidString
from wearon_contracts.sessions import SessionStatus
from wearon_contracts.tasks import Channel

OUTCOME_FUNCTION: Final = "generation_outcome"
"""Database function (`rpc`) with one argument, `p_session_id`; answers a `GenerationOutcome` or null."""

CANCEL_FUNCTION: Final = "generation_cancel"
"""Database function (`rpc`) with one argument, `p_session_id`; answers a `CancelAnswer`."""

RefundState = Literal["refunded", "already_refunded", "overage", "nothing_deducted", "owed", "none"]
"""`overage`: the money was taken elsewhere. `owed`: the refund failed, a person looks at it."""


class Refund(BaseModel):
    """What was given back, and to whom."""

    model_config = ConfigDict(extra="ignore")

    state: RefundState
    amount: int | None = Field(description="Credits.")
    payer: Literal["user", "store", "shopper"] | None


class GenerationOutcome(BaseModel):
    """How a session stands or ended. Users may ask about their own, the service role about all."""

    model_config = ConfigDict(extra="ignore")

    session_id: UuidString
    channel: Channel
    status: SessionStatus
    outcome: Literal["completed", "failed"] | None = Field(description="Null while it is not settled.")
    error_code: ErrorCode | None
    attempts: int = Field(ge=0, description="How often work on it began.")
    rate_limit_retries: int = Field(ge=0)
    retry_at: Timestamp | None = Field(description="When a rate-limited session is tried again.")
    settled_at: Timestamp | None
    given_back: bool = Field(description="Whether the credit was given back.")
    given_back_at: Timestamp | None
    refund: Refund | None
    flagged: bool = Field(description="Whether a person should look at it.")


CancelVerdict = Literal[
    "cancelled", "already_cancelled", "too_late", "completed", "failed", "session_not_found"
]
"""`too_late`: the image provider has been called. `completed`, `failed`: it had ended before.
`session_not_found`: also where it is somebody else's."""


class CancelAnswer(BaseModel):
    """What became of the wish to cancel a session. Users may cancel their own, the service role all."""

    model_config = ConfigDict(extra="ignore")

    verdict: CancelVerdict
    session_id: UuidString
    given_back: bool = Field(description="Whether the credit was given back.")
    refund: Refund | None
