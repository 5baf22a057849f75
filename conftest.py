"""How tests are chosen and how examples are drawn, wherever the tests stand."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

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
