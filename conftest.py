"""How tests are chosen and put together, wherever they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).parent
_ONE_AFTER_THE_OTHER = _ROOT / "tests" / "contract"
"""They build one folder of compiled TypeScript."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process, for they share a stack; run `full` only when asked for markers."""
    for item in items:
        together = _ONE_AFTER_THE_OTHER if item.path.is_relative_to(_ONE_AFTER_THE_OTHER) else item.path
        item.add_marker(pytest.mark.xdist_group(str(together.relative_to(_ROOT))))
    if config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]
