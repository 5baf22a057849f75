"""A small run under control: this many replicas, these jobs, this fault, then the same laws."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from tests.chaos.evidence import Evidence, Interference, collect
from tests.chaos.laws import judge
from tests.chaos.realtime import Listener
from tests.chaos.workload import Pushed, Workload
from tests.chaos.world import Pace, Replica, Step, World

from wearon_contracts.outcomes import CancelVerdict
from wearon_contracts.queues import UNACKED_HASH
from wearon_contracts.sessions import SETTLED
from wearon_local.app.webhook_receiver import WebhookReceiver
from wearon_local.processes import wait_until
from wearon_local.stack import Stack

HURRIED: Final = Pace(factor=10.0, stuck_after=3)
"""Leases of 3 s, renewed and swept every second."""


class Scene:
    """One scenario on a stack that is used for others too."""

    def __init__(self, stack: Stack, pace: Pace = HURRIED) -> None:
        self.stack: Final = stack
        self.pace: Final = pace
        self.interference = Interference()

    def __enter__(self) -> Self:
        self.stack.reset()
        self.stack.openai.set_latency(0.3)
        self.listener = Listener(self.stack.database_url)
        self.listener.start()
        self.workload = Workload(self.stack.app, random.Random(0))
        env = {
            "GENERATIONS_PER_MINUTE": "6000",
            "GENERATOR_CONCURRENCY": "32",
            "OPENAI_TIMEOUT_SECONDS": "15",
            "STUCK_AFTER_SECONDS": str(self.pace.stuck_after),
        }
        self.world = World(self.stack, self.pace, generator_env=env).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (kept := os.environ.get("CHAOS_KEEP")) is not None:
            self.world.save(Path(kept) / f"{time.time():.0f}")
        self.world.__exit__(kind, error, trace)
        self.listener.stop()
        # The next scene's generators cannot reach this one's receiver.
        with self.stack.postgres.connect() as database:
            database.execute("truncate generation_webhook_endpoints, generation_webhook_outbox")

    def start(self, *, consumers: int = 1, generators: int, concurrency: int = 32) -> list[Replica]:
        """So many more of each, ready."""
        env = {"GENERATOR_CONCURRENCY": str(concurrency)}
        started = [self.world.start("consumer", wait=False) for _ in range(consumers)]
        started += [self.world.start("generator", wait=False, **env) for _ in range(generators)]
        for replica in started:
            replica.service.wait_ready(timeout=90)
        return started

    def push(self, words: str = "") -> Pushed:
        """One b2c try-on with this directive for the stand-in."""
        return self.workload.push_b2c(words)

    def push_invalid(self) -> Pushed:
        """One that is no valid task, though its session can be read."""
        made = self.workload.make_invalid()
        self.workload.push_made(made)
        return made

    def push_to(self, step: str, what: Literal["kill", "stop", "kill all"], words: str = "") -> Pushed:
        """One whose generator dies or stops when it comes to `step`; `kill all`: each that does."""
        made = self.workload.make_b2c(words)
        self.world.order(made.session or "", step, what)
        self.workload.push_made(made)
        return made

    def wait_settled(self, *pushed: Pushed, timeout: float = 40) -> None:
        """Until these, or all, are completed or failed."""
        jobs = [p.job for p in pushed or self.workload.pushed if p.job is not None]
        self.stack.app.wait_settled(*jobs, timeout=timeout)

    def wait_for(self, step: str, pushed: Pushed, *, timeout: float = 30) -> None:
        """Until some process has come to the step of this session."""
        wait_until(
            lambda: self.world.has_come_to(step, pushed.session or ""),
            timeout=timeout,
            what=f"{step} of {pushed.session}",
        )

    def wait_for_another(self, step: str, pushed: Pushed, *, timeout: float = 30) -> None:
        """Until the job has come to the step in a second process."""

        def in_two() -> bool:
            found = {s.process for s in self.world.traces() if (s.name, s.session) == (step, pushed.session)}
            return bool(found - {s.process for s in self._first_holder(pushed)})

        wait_until(in_two, timeout=timeout, what=f"{step} of {pushed.session} in another process")

    def _first_holder(self, pushed: Pushed) -> list[Step]:
        mine = [s for s in self.world.traces() if (s.name, s.session) == ("hold:answered", pushed.session)]
        return mine[:1]

    def nothing_in_flight(self) -> bool:
        """Whether all generators have finished what they took."""
        return not self.world.redis.hlen(UNACKED_HASH)

    def all_ended(self, replicas: list[Replica]) -> bool:
        self.world.notice_ends()
        return all(replica.ended_at for replica in replicas)

    def status(self, pushed: Pushed) -> str:
        assert pushed.job
        return self.stack.app.statuses([pushed.job])[pushed.job.session_id]

    def is_settled(self, pushed: Pushed) -> bool:
        return self.status(pushed) in SETTLED

    def cancel(self, pushed: Pushed) -> CancelVerdict:
        """As the service."""
        assert pushed.job and pushed.session
        verdict = self.stack.app.cancel(pushed.job).verdict
        self.interference.cancellations[pushed.session].append(verdict)
        return verdict

    def delete_user(self, pushed: Pushed) -> None:
        """As the application does it: sessions, then credits."""
        assert pushed.job
        self.stack.app.delete_user(pushed.job.owner_id)
        self.workload.accounts.deleted.add(pushed.job.owner_id)

    def refund_as_cron(self, pushed: Pushed) -> None:
        """The first half of what the application's cron does."""
        assert pushed.job and pushed.session
        text = f"Stuck job recovery: session {pushed.session} timed out after 10 minutes"
        self.stack.app.rows("select refund_credits(%s, 1, %s)", pushed.job.owner_id, text)
        self.interference.cron_refunds[pushed.session] = time.time()

    def fail_as_cron(self, pushed: Pushed) -> None:
        """The second half."""
        assert pushed.session
        self.stack.app.rows(
            "update generation_sessions set status = 'failed' where id = %s returning id", pushed.session
        )
        self.interference.cron_failures[pushed.session] = time.time()

    def wait_for_a_death(self, timeout: float = 30) -> None:
        """Until some replica has been killed."""
        wait_until(
            lambda: any(replica.ended_at for replica in self.world.notice_ends()),
            timeout=timeout,
            what="a replica was killed",
        )

    def end(self, receiver: WebhookReceiver | None = None) -> Evidence:
        """End all services, then hold everything against the laws; `receiver`: see `collect`."""
        self.world.end_all()
        evidence = collect(
            self.world,
            self.listener,
            self.workload.pushed,
            self.workload.accounts,
            self.interference,
            receiver,
        )
        verdicts = judge(evidence)
        assert verdicts.hold, {law: breaches for law, breaches in verdicts.breaches.items() if breaches}
        return evidence
