"""One stack for all scenarios of the short form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.chaos.scene import Scene

from wearon_local.stack import Stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(openai_latency=0.3) as running:
        yield running


@pytest.fixture
def scene(stack: Stack) -> Iterator[Scene]:
    with Scene(stack) as prepared:
        yield prepared
