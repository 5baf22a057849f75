"""What the tests across services share: one local stack for the whole run, and figures for its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.register_assert_rewrite("tests.integration.tryons", "tests.integration.leaks")

from tests.integration.leaks import assert_no_secret_in_logs  # noqa: E402
from tests.integration.tryons import keep_status_history  # noqa: E402

from wearon_local.stack import Stack  # noqa: E402

_figures = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_figures] = []
    config.addinivalue_line(
        "markers", "full: the whole length of a measurement that `make test` takes shorter; run with -m full"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `full` unless markers were asked for."""
    if config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[_figures]:
        terminalreporter.section("figures")
        for line in config.stash[_figures]:
            terminalreporter.write_line(line)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line at the end of the run."""
    return request.config.stash[_figures].append


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Stack]:
    """Started once. When it ends, no log of any process of the run may hold a secret."""
    with Stack() as stack:
        keep_status_history(stack)
        yield stack
        stack.stop_services()
        assert_no_secret_in_logs(stack)


@pytest.fixture(scope="module")
def stack(running_stack: Stack) -> Iterator[Stack]:
    """The one stack, without services, queues, faults and records of an earlier module."""
    running_stack.reset()
    running_stack.openai.set_latency(0)
    yield running_stack
    running_stack.stop_services()
    # What a module leaves behind must not be recovered or reaped by the generators of the next one.
    with running_stack.postgres.connect() as database:
        database.execute("truncate generation_ledger, generation_usage")
        database.execute("truncate generation_sessions, store_generation_sessions")
