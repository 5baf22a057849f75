from __future__ import annotations

from collections.abc import Iterator

import pytest

from wearon_local.stack import Stack


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture
def stack(running_stack: Stack) -> Iterator[Stack]:
    """The one stack of the run, without faults, modes, records or queued elements of an earlier test."""
    running_stack.reset()
    yield running_stack
    running_stack.openai.set_latency(0)
