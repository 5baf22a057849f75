"""Jobs take as long beside webhook endpoints that are dead or slow as without any."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.bench.generator import bench
from tests.bench.webhooks import CASES, LATENCY, WITHOUT, best_p95, measure

from wearon_local.app.webhook_receiver import WebhookReceiver

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# A job that waited for an endpoint would wait for seconds. How little it really costs is for the bench to say
# (`python -m tests.bench --only webhooks`), on a machine that does nothing else.
MOST_MORE = 3.0
NOISE_SECONDS = 1.0


def test_dead_and_slow_endpoints_slow_no_job(record_property: Callable[[str, object], None]) -> None:
    with WebhookReceiver() as receiver, bench(LATENCY) as running:
        overheads = measure(running, receiver, (WITHOUT, *CASES), rounds=2)
    p95 = {title: best_p95(rounds) for title, rounds in overheads.items()}
    record_property("figure", f"overhead p95 of jobs beside webhooks: {p95}")
    limit = p95[WITHOUT.title] * MOST_MORE + NOISE_SECONDS
    assert {title: seconds for title, seconds in p95.items() if seconds > limit} == {}
