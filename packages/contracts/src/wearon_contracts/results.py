"""Where finished pictures are kept."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from wearon_contracts.tasks import Channel

RESULT_PATHS: Final[dict[Channel, str]] = {
    Channel.B2C: "generated/{owner_id}/{session_id}.jpg",
    Channel.B2B: "stores/{owner_id}/generated/{session_id}.jpg",
}
"""Path inside the bucket by channel; ids in small letters. The owner is the user or the store."""

DEFAULT_BUCKET: Final = "images"
AI_GENERATED: Final = {
    "label": "ai-generated",
    "text": "This picture was made by AI. It shows how the item may look, not how it fits.",
}
"""What a page that shows a result has to say; see docs/ai-labels.md."""

SIGNED_URL_SECONDS: Final = 6 * 60 * 60
"""How long a link to a result works unless the services are told otherwise."""


def result_path(channel: Channel, owner_id: UUID, session_id: UUID) -> str:
    """Path of a session's result inside the bucket; the same for every attempt."""
    return RESULT_PATHS[channel].format(owner_id=owner_id, session_id=session_id)
