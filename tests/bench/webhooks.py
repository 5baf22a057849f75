"""What webhooks cost jobs: overhead without an endpoint, and with one that works, is slow or is dead."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from tests.bench.generator import Bench, bench
from tests.bench.report import Section, at_most, percentile, plain
from tests.chaos.workload import small

from wearon_generator.webhooks.signing import new_secret
from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON
from wearon_local.app.webhook_receiver import Manners, WebhookReceiver
from wearon_local.processes import free_port

LATENCY: Final = 1.0
PER_MINUTE: Final = 180
JOBS: Final = 30
"""Of one round of one case: 10 s."""
MOST_MORE: Final = 1.25
"""The p95 with an endpoint beside the one without; two measurements without lie up to so far apart."""
_LOOK: Final = 0.005
"""Seconds between two looks for sessions that have ended."""


@dataclass(frozen=True)
class Case:
    """`manners`: of the endpoints, None if nobody listens there; `waiting`: older events for each of them."""

    title: str
    endpoints: int = 0
    manners: Manners | None = None
    waiting: int = 0


WITHOUT: Final = Case("no endpoint")
CASES: Final = (
    Case("one that works", 1, Manners()),
    Case("one that answers after 3 s", 1, Manners(seconds=3.0)),
    Case("one that refuses connections", 1),
    Case("one that never answers", 1, Manners(seconds=60.0)),
    Case("ten that never answer, 10,000 events waiting for each", 10, Manners(seconds=60.0), 10_000),
)
_OLD_EVENTS: Final = """
    insert into generation_webhook_outbox (endpoint_id, channel, session_id, type, data, occurred_at)
    select id, 'b2c', session, 'generation.failed',
           jsonb_build_object(
             'session_id', session, 'channel', 'b2c', 'user_id', session, 'store_id', null,
             'request_id', 'old', 'code', 'internal_error', 'attempts', 1, 'given_back', true
           ), now()
      from generation_webhook_endpoints
     cross join lateral (select gen_random_uuid() as session from generate_series(1, %s)) sessions
"""


def run(quick: bool) -> list[Section]:
    rounds = 1 if quick else 3
    with WebhookReceiver() as receiver, bench(LATENCY) as running:
        one_without_before_each = tuple(one for case in CASES for one in (WITHOUT, case))
        overheads = measure(running, receiver, one_without_before_each, rounds)
    section = Section(
        f"Webhooks beside jobs: {rounds} times {JOBS} jobs, {PER_MINUTE}/min, small pictures",
        data={"overheads": overheads},
    )
    for number, case in enumerate(CASES):
        p95 = best_p95(overheads[case.title])
        right_before = best_p95(overheads[WITHOUT.title][number :: len(CASES)])
        section.lines += [
            plain(f"{case.title}: overhead p95", p95, "s", "the least of the rounds"),
            plain("… right before, without an endpoint", right_before, "s"),
            at_most("… / without an endpoint", p95 / right_before, MOST_MORE, "×"),
        ]
    return [section]


def measure(
    running: Bench, receiver: WebhookReceiver, cases: tuple[Case, ...], rounds: int
) -> dict[str, list[list[float]]]:
    """Overheads of jobs in seconds, by the title of the case; each round takes all cases in turn."""
    nobody = f"http://127.0.0.1:{free_port()}"
    running.stack.start_service(
        "generator",
        running.environment(
            GENERATIONS_PER_MINUTE="600", WEBHOOK_TRUSTED_ORIGINS=f"{receiver.origin},{nobody}"
        ),
    )
    pictures = [small(SAMPLE_PERSON), small(SAMPLE_GARMENT)]
    running.urls = running.stack.app.upload_inputs(running.user, pictures)
    _overheads(running, jobs=5)  # the first ones find nothing warm
    found: dict[str, list[list[float]]] = {case.title: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            path = f"/{len(receiver.manners)}"
            if case.manners is not None:
                receiver.manners[path] = case.manners
            _make_endpoints(running, case, (nobody if case.manners is None else receiver.origin) + path)
            found[case.title].append(_overheads(running, JOBS))
    return found


def best_p95(rounds: list[list[float]]) -> float:
    """Of the round that other work on the machine disturbed least."""
    return min(percentile(overheads, 0.95) for overheads in rounds)


def _make_endpoints(running: Bench, case: Case, url: str) -> None:
    with running.stack.postgres.connect() as database:
        database.execute("truncate generation_webhook_endpoints, generation_webhook_outbox")
        for _ in range(case.endpoints):
            database.execute(
                "insert into generation_webhook_endpoints (url, secret) values (%s, %s)", (url, new_secret())
            )
        database.execute(_OLD_EVENTS, (case.waiting,))


def _overheads(running: Bench, jobs: int) -> list[float]:
    """Seconds from each push until the session is seen to have ended, without the provider's part."""
    work = running.jobs(jobs)
    pushed: dict[object, float] = {}
    seen: dict[object, float] = {}
    began = time.monotonic()
    with running.stack.postgres.connect() as database:
        while len(seen) < jobs:
            now = time.monotonic()
            if now - began > 120:
                raise TimeoutError(f"{len(seen)} of {jobs} jobs have ended")
            if len(pushed) < jobs and now >= began + len(pushed) * 60 / PER_MINUTE:
                job = work[len(pushed)]
                running.stack.app.push(job)
                pushed[job.session_id] = now
            open_ones = [session for session in pushed if session not in seen]
            ended = database.execute(
                "select id from generation_sessions where id = any(%s) and status = 'completed'", (open_ones,)
            ).fetchall()
            seen |= {session: time.monotonic() for (session,) in ended}
            time.sleep(_LOOK)
    return [seen[session] - at - LATENCY for session, at in pushed.items()]
