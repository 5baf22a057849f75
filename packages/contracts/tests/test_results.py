from __future__ import annotations

from uuid import UUID

import pytest

from wearon_contracts.results import result_path
from wearon_contracts.tasks import Channel

OWNER = UUID("9B2E4C10-6F0D-4D1E-8C57-2F1A7E5D3C21")
SESSION = UUID("0196F0A4-7C1E-7B3A-9D52-3F6A1C0E8B11")


@pytest.mark.parametrize(
    ("channel", "path"),
    [
        (
            Channel.B2C,
            "generated/9b2e4c10-6f0d-4d1e-8c57-2f1a7e5d3c21/0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11.jpg",
        ),
        (
            Channel.B2B,
            "stores/9b2e4c10-6f0d-4d1e-8c57-2f1a7e5d3c21/generated/0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11.jpg",
        ),
    ],
)
def test_a_result_has_one_place(channel: Channel, path: str) -> None:
    assert result_path(channel, OWNER, SESSION) == path
