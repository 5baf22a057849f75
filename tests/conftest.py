"""What the tests across services share: one local stack for the whole run, and figures for its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.register_assert_rewrite("tests.integration.tryons", "tests.integration.leaks")

from tests.integration.leaks import assert_no_secret_in_logs  # noqa: E402
from tests.integration.tryons import keep_status_history  # noqa: E402

from wearon_local.stack import Stack  # noqa: E402

_FIGURE = "figure"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that tests printed, whichever process ran them."""
    lines = [
        line
        for report in terminalreporter.getreports("passed")
        for name, line in getattr(report, "user_properties", ())
        if name == _FIGURE and report.when == "teardown"
    ]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line at the end of the run."""
    return lambda line: request.node.user_properties.append((_FIGURE, line))


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
        database.execute("truncate generation_webhook_endpoints, generation_webhook_outbox")
        database.execute("truncate generation_lane_rules")
        database.execute("truncate generation_sessions, store_generation_sessions")
