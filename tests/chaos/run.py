"""One run: everything started, jobs pushed, one thing after another broken, then peace, then the laws."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

import httpx
import psycopg
import redis
from tests.chaos.evidence import Evidence, Interference, collect
from tests.chaos.faults import Action, Fault, catalogue, kill_a_generator
from tests.chaos.laws import Verdicts, judge
from tests.chaos.realtime import Listener
from tests.chaos.workload import Pushed, Workload
from tests.chaos.world import Kind, Pace, Replica, Step, World

from wearon_contracts.queues import CELERY_QUEUE, CELERY_RETRY_QUEUE, INFLIGHT_PREFIX, TASK_LIST, UNACKED_HASH
from wearon_generator.queue_scan import task_in
from wearon_local.app.webhook_receiver import WebhookReceiver
from wearon_local.stack import Stack

REPLICAS: Final[dict[Kind, int]] = {"consumer": 2, "generator": 3}
ORDER_STANDS_FOR: Final = 25.0
"""Seconds after which an order to die or stop at a step that nobody came to is withdrawn."""
BACK_WITHIN: Final = 15.0
"""Law 7, seconds."""
WEBHOOKS_WITHIN: Final = 90.0
"""Law 8, seconds from the settling of the last session: a sweeper that was killed is replaced after 30."""
CANCELLED_SHARE: Final = 0.2
"""So many of the sessions are cancelled."""
CANCELLED_WITHIN: Final = 3.0
"""Seconds from the push: about as long as a try-on lives that meets no fault."""
SLACK: Final = 5.0
"""Seconds that a machine busy with all of this may be late when it is watched."""

GENERATOR_ENV: Final = {
    "GENERATIONS_PER_MINUTE": "900",
    "GENERATOR_CONCURRENCY": "48",
    "OPENAI_TIMEOUT_SECONDS": "8",
}


@dataclass
class Report:
    """What a run came to."""

    seed: int
    seconds: float
    injected: Counter[str]
    not_reached: list[str]
    verdicts: Verdicts
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds, by what was recovered from."""


class Run:
    """The state of a run, as faults see it."""

    def __init__(
        self, stack: Stack, world: World, seed: int, say: Callable[[str], None], *, ordinary: bool = False
    ) -> None:
        """`ordinary`: only try-ons that complete unless something of ours is broken."""
        self.stack = stack
        self.world = world
        self.chance = random.Random(seed)
        self.interference = Interference()
        self.workload = Workload(stack.app, random.Random(seed + 1))
        self.listener = Listener(stack.database_url)
        self.injected: Counter[str] = Counter()
        self.not_reached: list[str] = []
        self.late: list[str] = []
        self.recoveries: dict[str, list[float]] = defaultdict(list)
        self._say = say
        self._ordinary = ordinary
        self._cancel_chance = random.Random(seed + 2)
        self._began = time.monotonic()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._ids = itertools.count()
        self._orders: list[tuple[float, str, str, str]] = []
        self._armed: dict[int, str] = {}
        self._deadlines: dict[str, float] = {}
        self._marks: list[tuple[float, str, str]] = []
        self._peace = False
        self._killers: list[str] = []
        self._count_at = 0.0
        self._too_many_copies = ""

    # ------------------------------------------------------------------ what faults use

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it so many seconds from now, between other things."""
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._ids), action))

    def wait(self, seconds: float) -> None:
        """Let time pass; what is due meanwhile is done."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.do_what_is_due()
            time.sleep(0.05)

    def any_of(self, kind: Kind) -> Replica | None:
        """One that works, by chance; None if there is none."""
        working = self.world.working(kind)
        return self.chance.choice(working) if working else None

    def start(self, kind: Kind) -> Replica:
        """One more, not waited for."""
        return self.world.start(kind, wait=False)

    def kill(self, replica: Replica) -> None:
        """SIGKILL; another one is started a little later."""
        self.world.kill(replica)

    def terminate(self, replica: Replica, *, within: float) -> None:
        """SIGTERM, and SIGKILL if it still runs after `within` seconds."""
        self.world.ask_to_end(replica)
        self._deadlines[replica.name] = time.monotonic() + within

    def order(self, kind: Kind, step: str, what: Literal["kill", "stop"]) -> None:
        """Have the next of a kind that comes to the step die or stop there."""
        self.world.order(kind, step, what)
        self._orders.append((time.monotonic() + ORDER_STANDS_FOR, kind, step, what))

    def beyond_lease(self, kind: Kind) -> float:
        """Seconds of a pause after which others have taken over."""
        pace = self.world.pace
        return (pace.taken_over if kind == "generator" else pace.put_back) + 1.0

    def arm_gateway(self, name: str, action: Action, **fault: Any) -> None:
        """A fault of the gateway that waits for requests to strike."""
        self._armed[self.stack.gateway.inject(action, **fault)] = name

    def away(self, part: Literal["gateway", "postgrest", "postgres"], seconds: float) -> None:
        """Kill a part of Supabase and start it again."""
        server = getattr(self.stack, part)
        if part == "gateway":
            self._count_armed()  # it forgets its faults
        server.stop() if part == "postgres" else server.kill()
        self.wait(seconds)
        server.start()
        self.measure_next("complete:answered", f"Supabase: {part} restarted")

    def expect_recovery(self, label: str) -> None:
        """Redis is back: everything must work again by itself within 15 s."""
        since = time.monotonic()
        old_enough = time.time() - 20
        canary = self.workload.push_b2c()
        missing = "everything"
        while missing and time.monotonic() - since < 4 * BACK_WITHIN:
            self.do_what_is_due()
            missing = self._not_working(old_enough, canary.session or "")
            time.sleep(0.1)
        took = time.monotonic() - since
        self.recoveries[label].append(took)
        if took > BACK_WITHIN:
            self.late.append(f"{label}: {missing or 'all'} after {took:.1f} s")

    def measure_next(self, step: str, label: str) -> None:
        """How long it takes from now until any process comes to `step`."""
        self._marks.append((time.time(), step, label))

    def cron(self) -> None:
        """The application's cron: it looks once, then gives each credit back and writes each row later on."""
        rows = self.stack.app.rows(
            "select id, user_id from generation_sessions where status in ('queued', 'pending', 'processing')"
            " and created_at < now() - interval '10 minutes' order by created_at"
        )
        for row in rows:
            self.later(self.chance.uniform(0, 2), lambda row=row: self._cron_refund(row))

    def _cron_refund(self, row: dict[str, Any]) -> None:
        text = f"Stuck job recovery: session {row['id']} timed out after 10 minutes"
        self.stack.app.rows("select refund_credits(%s, 1, %s)", row["user_id"], text)
        self.interference.cron_refunds[str(row["id"])] = time.time()
        self.later(self.chance.uniform(0, 1), lambda: self._cron_fail(row))

    def _cron_fail(self, row: dict[str, Any]) -> None:
        self.stack.app.rows(
            "update generation_sessions set status = 'failed',"
            " error_message = 'Generation timed out. Your credit has been refunded.'"
            " where id = %s returning id",
            row["id"],
        )
        self.interference.cron_failures[str(row["id"])] = time.time()

    def push_killer(self) -> None:
        """A task that kills each process which has its pictures."""
        made = self.workload.make_b2c()
        self.world.order(made.session or "", "images:answered", "kill all")
        self.workload.push_made(made)
        self._killers.append(made.session or "")

    def delete_user(self) -> None:
        """The application forgets a user, whatever of hers is in work."""
        accounts = self.workload.accounts
        self.stack.app.delete_user(accounts.forgotten)
        accounts.deleted.add(accounts.forgotten)

    def _count_copies(self) -> None:
        """There are never more copies in the queue of those that waited before than sessions."""
        if time.monotonic() < self._count_at:
            return
        self._count_at = time.monotonic() + 1.0
        with contextlib.suppress(redis.RedisError):
            copies, sessions = self.world.redis.llen(CELERY_RETRY_QUEUE), len(self.workload.pushed)
            if copies > sessions:
                self._too_many_copies = f"{copies} copies of {sessions} tasks wait"

    def uninstall(self) -> None:
        """The application fails all that the store has queued."""
        self.stack.app.rows("select app_uninstall_store(%s)", self.workload.accounts.leaving)

    # ------------------------------------------------------------------ the loop

    def do_what_is_due(self) -> None:
        """Everything that was put off, replacements for dead processes, orders that nobody obeyed."""
        while self._later and self._later[0][0] <= time.monotonic():
            _, _, action = heapq.heappop(self._later)
            self._database_permitting(action)
        for replica in self.world.notice_ends():
            if replica.ended_at is None:
                self.later(self.beyond_lease(replica.kind), lambda r=replica: self.world.resume(r))
        for name, deadline in list(self._deadlines.items()):
            if time.monotonic() >= deadline:
                (replica,) = (r for r in self.world.replicas if r.name == name)
                if replica.ended_at is None:
                    self.world.kill(replica)
                del self._deadlines[name]
        self._see_to_orders()
        self._count_copies()
        for kind, wanted in REPLICAS.items():
            there = [r for r in self.world.replicas if r.kind == kind and (r.works or r.stopped_at)]
            for _ in range(wanted - len([r for r in there if r.ended_at is None])):
                self.world.start(kind, wait=False)

    def _database_permitting(self, action: Callable[[], None]) -> None:
        try:
            action()
        except psycopg.OperationalError:
            self.later(0.5, action)

    def _see_to_orders(self) -> None:
        standing = []
        for until, kind, step, what in self._orders:
            if time.monotonic() < until and not self._peace:
                standing.append((until, kind, step, what))
            elif self.world.withdraw_order(kind, step):
                self.not_reached.append(f"{what} of a {kind} at {step}")
        self._orders = standing

    def _count_armed(self) -> None:
        for fault in self.stack.gateway.faults():
            name = self._armed.pop(fault["id"], None)
            if name is not None and fault["struck"] == 0:
                self.not_reached.append(name)

    def execute(self, faults: list[tuple[float, Fault]], pushes: list[float], seconds: float) -> None:
        """Break and push until `seconds` are over; both lists are in order of time."""
        self.listener.start()
        for kind, number in REPLICAS.items():
            for _ in range(number):
                self.world.start(kind, wait=False)
        for replica in self.world.replicas:
            replica.service.wait_ready(timeout=90)
        self._began = began = time.monotonic()
        faults, pushes = list(faults), list(pushes)
        while (now := time.monotonic() - began) < seconds or faults or pushes:
            self.do_what_is_due()
            while pushes and pushes[0] <= now:
                pushes.pop(0)
                self._database_permitting(self._push)
            if faults and faults[0][0] <= now:
                fault = faults.pop(0)[1]
                self._tell(f"{fault.group}: {fault.name}")
                self.injected[fault.group] += 1
                fault.strike(self)
            time.sleep(0.05)

    @property
    def patience(self) -> float:
        """Seconds until all must have ended once nothing is broken any more.

        A task that kills is held six times before it is given up, and so is what was with it.
        """
        deaths = 6 if self._killers else 0
        return 150 + 60 / self.world.pace.factor + deaths * (self.world.pace.taken_over + SLACK)

    def _push(self) -> None:
        if self._ordinary:
            self.workload.push_b2c()
            return
        pushed, chance = self.workload.push(), self._cancel_chance
        if pushed.job is not None and pushed.readable and chance.random() < CANCELLED_SHARE:
            as_owner = pushed.job.channel == "b2c" and chance.random() < 0.5
            for _ in range(chance.choice([1, 1, 2])):
                # Rather early, so that about as many come in time as come too late.
                seconds = CANCELLED_WITHIN * chance.random() ** 2
                self.later(seconds, lambda: self._cancel(pushed, as_owner=as_owner))

    def _cancel(self, pushed: Pushed, *, as_owner: bool) -> None:
        """As the owner or the service; asked again until there is an answer."""
        assert pushed.job and pushed.session
        try:
            answer = self.stack.app.cancel(pushed.job, as_user=pushed.job.owner_id if as_owner else None)
        except httpx.HTTPError:
            self.later(0.5, lambda: self._cancel(pushed, as_owner=as_owner))
            return
        self.injected["cancelled by its owner" if as_owner else "cancelled by the service"] += 1
        self.interference.cancellations[pushed.session].append(answer.verdict)

    def make_peace(self) -> None:
        """No more faults: what is stopped goes on, what is armed is taken out."""
        self._tell("peace")
        self._peace = True
        self._count_armed()
        self.stack.gateway.clear_faults()
        self.stack.openai.clear_faults()
        self.stack.openai.clear_modes()
        for replica in self.world.replicas:
            self.world.resume(replica)
        while self._later:
            self.do_what_is_due()
            time.sleep(0.05)
        self.do_what_is_due()

    def wait_for_the_end(self, seconds: float) -> list[str]:
        """Until all is settled and nothing is in Redis; breaches of law 1 that were seen meanwhile."""
        allowed = self.world.pace.stuck_after + self.world.pace.sweep + SLACK
        free_since: dict[str, float] = {}
        breaches: dict[str, str] = {}
        until = time.monotonic() + seconds
        while True:
            self.do_what_is_due()
            try:
                open_ones = self._open_sessions()
            except psycopg.OperationalError:
                # The connection ended with a restart of PostgreSQL; the next call makes a new one.
                if time.monotonic() > until:
                    raise
                time.sleep(1.0)
                continue
            waiting = self._in_redis()
            for session, lives in open_ones.items():
                if lives or session in waiting:
                    free_since.pop(session, None)
                elif time.monotonic() - free_since.setdefault(session, time.monotonic()) > allowed:
                    breaches[session] = f"{session} was held by nothing for more than {allowed:.0f} s"
            if not open_ones and not self._lists_hold_something():
                break
            if time.monotonic() > until:
                breaches["end"] = f"not over {seconds:.0f} s after the last fault"
                break
            time.sleep(1.0)
        return list(breaches.values())

    def _open_sessions(self) -> dict[str, bool]:
        """Unsettled sessions, and whether a live lease holds them."""
        rows = self.stack.app.rows(
            """select s.id, coalesce(l.lease_expires_at > clock_timestamp(), false) as lives
                 from (select id, status from generation_sessions
                       union all select id, status from store_generation_sessions) s
                 left join generation_ledger l on l.session_id = s.id
                where s.status not in ('completed', 'failed')"""
        )
        return {str(row["id"]): row["lives"] for row in rows}

    def _lists(self) -> list[str]:
        inflight = [name.decode() for name in self.world.redis.scan_iter(f"{INFLIGHT_PREFIX}*")]
        return [TASK_LIST, *inflight, CELERY_QUEUE, CELERY_RETRY_QUEUE]

    def _lists_hold_something(self) -> bool:
        return any(self.world.redis.llen(name) for name in self._lists())

    def _in_redis(self) -> set[str]:
        elements = [e for name in self._lists() for e in self.world.redis.lrange(name, 0, -1)]
        elements += self.world.redis.hvals(UNACKED_HASH)
        return {str(task_in(element).get("session_id")) for element in elements}

    def _not_working(self, old_enough: float, canary: str) -> str:
        """What does not work yet, in words; empty if everything does."""
        replicas = [r for r in self.world.working() if r.started_at < old_enough]
        try:
            clients = self.world.redis.client_list()
        except redis.RedisError:
            return "Redis"
        taking = [
            c for c in clients if c["name"].startswith("wearon-generator-broker") and c["cmd"] == "brpop"
        ]
        generators = [r for r in replicas if r.kind == "generator"]
        if len(taking) < len(generators):
            return f"{len(taking)} of {len(generators)} generators take jobs"
        for replica in replicas:
            if not self._sees_redis(replica):
                return f"{replica.name} is not ready"
        if {replica.kind for replica in replicas} != {"consumer", "generator"}:
            return ""  # other faults have killed or stopped all that could take the task
        return "" if self.world.has_come_to("hold:asked", canary) else "a new task has not arrived"

    @staticmethod
    def _sees_redis(replica: Replica) -> bool:
        # Supabase may be away at the same time: that is not what is asked here.
        try:
            checks = replica.service.readiness()["checks"]
        except Exception:
            return False
        return all(checks[name]["ok"] for name in ("redis", "loop", "worker") if name in checks)

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.1f} s  {text}")

    # ------------------------------------------------------------------ afterwards

    def report(self, evidence: Evidence, seed: int, watched: list[str]) -> Report:
        verdicts = judge(evidence)
        verdicts.breaches[1] += watched
        if self._too_many_copies:
            verdicts.breaches[1].append(self._too_many_copies)
        for session in evidence.jobs if self._ordinary else ():
            if evidence.sessions[session]["status"] != "completed":
                verdicts.breaches[1].append(
                    f"{session} is lost: {evidence.sessions[session]['error_message']}"
                )
        for session in self._killers:
            if evidence.sessions[session]["status"] != "failed":
                verdicts.breaches[1].append(f"{session}, which kills, is not failed")
        verdicts.breaches[7] += self.late
        report = Report(
            seed, time.monotonic() - self._began, self.injected, self.not_reached, verdicts, self.recoveries
        )
        for at, step, label in self._marks:
            after = [s.at for s in evidence.steps if s.name == step and s.at >= at]
            if after:
                report.recoveries[label].append(min(after) - at)
        _measure_takeovers(evidence, report)
        _measure_reaping(evidence, report)
        return report


def _measure_takeovers(evidence: Evidence, report: Report) -> None:
    """How long a job of a killed or stopped generator waited until another one had it."""
    for replica in evidence.replicas:
        moments = [("generator killed", replica.ended_at)] if replica.terminated_at is None else []
        moments += [
            ("generator stopped", begin) for begin, end in replica.pauses if end - begin > evidence.pace.lease
        ]
        for label, at in moments:
            if at is None or replica.kind != "generator":
                continue
            for story in evidence.by_session.values():
                taken_over = _taken_over(story, replica.name, at)
                if taken_over is not None:
                    report.recoveries[f"{label}: its job is with another"].append(taken_over - at)


def _taken_over(story: list[Step], process: str, at: float) -> float | None:
    holds = [s for s in story if s.name == "hold:answered" and s.verdict == "held"]
    before = [s for s in holds if s.at <= at]
    if not before or before[-1].process != process:
        return None
    gone = {"complete:answered", "fail:answered", "requeue:answered", "release:answered"}
    if any(s.process == process and s.name in gone and before[-1].at <= s.at <= at for s in story):
        return None
    return next((s.at for s in holds if s.at > at), None)


def _measure_reaping(evidence: Evidence, report: Report) -> None:
    for entry in evidence.ledger.values():
        if entry["settled_by"] == "reaper":
            settled = entry["settled_at"].timestamp()
            losses = [at for at in evidence.interference.redis_losses if at < settled]
            if losses:
                report.recoveries["Redis's data lost: an orphan is refunded"].append(settled - max(losses))


def run_once(
    seed: int,
    *,
    jobs: int,
    seconds: float,
    pace: Pace,
    most_faults: int | None,
    say: Callable[[str], None],
    keep: Path | None,
    sentinels: bool = False,
    kills: int = 0,
    groups: Collection[str] | None = None,
) -> Report:
    """Start everything, run, judge, stop everything.

    `kills`: nothing but so many generators is broken. `groups`: nothing but the faults of these.
    """
    chance = random.Random(seed)
    faults = catalogue(chance, sentinels=sentinels)
    if groups is not None:
        faults = [fault for fault in faults if fault.group in groups]
    if kills:
        faults = [kill_a_generator() for _ in range(kills)]
    elif sentinels:  # a short run has all of them too
        faults.sort(key=lambda fault: fault.group != "Redis")
    faults = faults[: None if kills else most_faults]
    if sentinels:
        chance.shuffle(faults)
    # The last fifth is left to what has been broken by then.
    times = sorted(chance.uniform(2, seconds * 0.9) for _ in faults)
    pushes = sorted(chance.uniform(0, seconds) for _ in range(jobs))
    env = {**GENERATOR_ENV, "STUCK_AFTER_SECONDS": str(pace.stuck_after)}
    with (
        Stack(openai_latency=1.2, openai_jitter=0.8, sentinels=sentinels) as stack,
        World(stack, pace, generator_env=env) as world,
        WebhookReceiver() as receiver,
    ):
        run = Run(stack, world, seed, say, ordinary=bool(kills))
        world.add_webhook(receiver)
        # Beside all faults, the shop is away for the middle third.
        run.later(seconds / 3, receiver.down)
        run.later(seconds * 2 / 3, receiver.up)
        try:
            run.execute(list(zip(times, faults, strict=True)), pushes, seconds)
            run.make_peace()
            watched = run.wait_for_the_end(run.patience)
            world.wait_webhooks_delivered(WEBHOOKS_WITHIN)
            world.end_all()
            evidence = collect(
                world, run.listener, run.workload.pushed, run.workload.accounts, run.interference, receiver
            )
            report = run.report(evidence, seed, watched)
        except BaseException:
            if keep is not None:
                world.save(keep)
            raise
        if keep is not None and not report.verdicts.hold:
            world.save(keep)
    return report


def typical(values: list[float]) -> str:
    """Median and maximum of seconds."""
    return f"{median(values):.1f} / {max(values):.1f} s of {len(values)}"
