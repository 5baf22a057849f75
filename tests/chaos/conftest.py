"""One stack for all scenarios of the short form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.chaos.scene import Scene
from tests.chaos.world import Pace

from wearon_local.stack import Stack


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


@pytest.fixture
def patient_scene(stack: Stack) -> Iterator[Scene]:
    """With leases as long as in production: nobody is overtaken."""
    with Scene(stack, Pace(stuck_after=3)) as prepared:
        yield prepared


@pytest.fixture
def scene(stack: Stack) -> Iterator[Scene]:
    with Scene(stack) as prepared:
        yield prepared
