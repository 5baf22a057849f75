"""The request that a delivery becomes: its body, and headers as Standard Webhooks has them."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

# The reference implementation: whoever verifies with its library in any language agrees with it.
from standardwebhooks import Webhook

_SECRET_BYTES: Final = 32  # Standard Webhooks asks for 24 to 64


def new_secret() -> str:
    """A secret as Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii")


def body_of(event_type: str, occurred_at: str, data: dict[str, Any], url: str | None) -> str:
    """A `wearon_contracts.webhooks.WebhookEvent` as JSON; `url`: the link to the result."""
    return json.dumps(
        {"type": event_type, "timestamp": occurred_at, "data": {**data, "url": url}}, separators=(",", ":")
    )


def signed_headers(message_id: str, sent_at: datetime, body: str, keys: Sequence[str]) -> dict[str, str]:
    """The three headers; `sent_at` in UTC, a signature for each of the `keys` that may be in use."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(message_id, sent_at, body) for key in keys),
    }
