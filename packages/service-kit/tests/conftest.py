"""A certificate for TLS tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import self_signed


@dataclass(frozen=True)
class Certificate:
    """Self-signed for shop.example and 127.0.0.1; `path` holds it, `key_path` its key."""

    path: Path
    key_path: Path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(*self_signed(tmp_path_factory.mktemp("certificate"), "shop.example"))
