"""What a webhook endpoint is told, in the form of Standard Webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from wearon_contracts.errors import ErrorCode
from wearon_contracts.fields import Timestamp, UrlString, UuidString
from wearon_contracts.tasks import Channel

WebhookType = Literal[
    "generation.processing",
    "generation.completed",
    "generation.failed",
    "generation.cancelled",
    "webhook.test",
]
"""`webhook.test`: sent by an operator to see that it arrives; its session does not exist."""


class WebhookData(BaseModel):
    """The session that an event is about, and how it stood then."""

    model_config = ConfigDict(extra="ignore")

    session_id: UuidString
    channel: Channel
    user_id: UuidString | None = Field(description="Whose session it is (b2c).")
    store_id: UuidString | None = Field(description="Whose session it is (b2b).")
    request_id: str | None
    code: ErrorCode | None = Field(
        description="Why it failed; null if the application or the row's owner failed it."
    )
    attempts: int = Field(ge=0, description="How often work on it began.")
    given_back: bool = Field(description="Whether the credit was given back.")
    url: UrlString | None = Field(
        description="Link to the result, signed when this was sent; null without a result."
    )


class WebhookEvent(BaseModel):
    """One event. It may arrive more than once (webhook-id is the same then) and in any order."""

    model_config = ConfigDict(extra="ignore")

    type: WebhookType
    timestamp: Timestamp = Field(description="When it happened.")
    data: WebhookData
