"""How tests are chosen, how examples are drawn, and a Redis for them, wherever the tests stand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from wearon_local.processes import Nursery, free_port
from wearon_local.redis_server import RedisServer

# How fast the first examples are drawn says how busy the machine is; in a fresh clone tables of Unicode are
# made first.
settings.register_profile("busy-machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `full` unless markers were asked for."""
    if config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server like production's, for the whole run; whoever uses it empties it first."""
    nursery = Nursery()
    try:
        server = RedisServer(nursery, free_port())
        server.start()
        yield server
    finally:
        nursery.close()
