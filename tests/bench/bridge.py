"""The bridge beside what people would otherwise run: rate, CPU per task, idle latency, a long queue.

The consumer is the real process with its log lines. It and the alternatives are pinned to one core; Redis and
what drives the bench to another if there are two.
"""

from __future__ import annotations

import base64
import json
import os
import random
import socket
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from tests.bench.processes import rss_mb
from tests.bench.report import Section, at_least, at_most, percentile, plain

from wearon_consumer.celery_messages import CeleryMessages
from wearon_contracts.queues import (
    CELERY_QUEUE,
    PROCESS_GENERATION_TASK,
    TASK_LIST,
    TASKS_AHEAD,
    TASKS_KEPT,
    lane_of,
)
from wearon_local.processes import Nursery, Process, free_port, wait_until
from wearon_local.redis_server import RedisServer
from wearon_local.services import Service
from wearon_service_kit.lanes import ANNOUNCE, DEALT, lane_script

ALTERNATIVES = Path(__file__).with_name("bridge_alternatives.py")
ASIDE = "bench:aside"
EVERYTHING = 10**9  # tasks handed to Celery ahead of generators, which the bench does not run
LOOK_SECONDS = 0.02
"""Pause between two looks at how far the consumer is: each takes time from Redis, and a run counts as up to
this much longer than it was."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
REDIS_CORE, BRIDGE_CORE = CORES[0], CORES[-1]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    """How often a rate is measured; the middle one counts."""
    tasks: int
    alternative_tasks: int
    round_trips: int
    latencies: int
    backlog_tasks: int
    backlogs: tuple[int, ...]
    lanes: tuple[tuple[int, int], ...]
    """How many lanes hold how many tasks."""


FULL = Size(
    5,
    20_000,
    5_000,
    50_000,
    1000,
    10_000,
    (100, 1_000, 10_000, 1_000_000),
    ((100, 1_000), (100_000, 1_000_000)),
)
QUICK = Size(1, 10_000, 2_000, 10_000, 200, 5_000, (1_000, 100_000), ((100, 1_000), (10_000, 100_000)))


@dataclass(frozen=True)
class Rate:
    """Work of one process."""

    tasks: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.tasks / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_seconds / self.tasks * 1e6


@dataclass(frozen=True)
class Bridged:
    """`consumer_mb`: resident at the end; `redis_mb`: held by the server before a task was taken."""

    rate: Rate
    consumer_mb: float
    redis_mb: float


class BridgeBench:
    """One server and what is measured on it."""

    def __init__(self, nursery: Nursery, size: Size) -> None:
        self.nursery = nursery
        self.size = size
        self.server = RedisServer(nursery, free_port())
        self.server.start()
        self.redis = redis.Redis.from_url(self.server.url)
        self.redis.config_set("appendonly", "no")
        os.sched_setaffinity(int(self.redis.info("server")["process_id"]), {REDIS_CORE})
        self._started = 0

    def alternative(self, kind: str) -> Rate:
        """One of bridge_alternatives.py."""
        count = self.size.alternative_tasks
        self.fill(count)
        process = self.pinned(
            f"{kind}-{count}",
            [sys.executable, str(ALTERNATIVES), kind, str(count)],
            REDIS_URL=self.server.url,
        )
        if process.wait(300) != 0:
            raise RuntimeError(process.log())
        result = json.loads(process.log().splitlines()[-1])
        return Rate(result["tasks"], result["seconds"], result["cpu_seconds"])

    def bridge(self, count: int, *, backlog: int = 0, **env: str) -> Bridged:
        """Bridge `count` tasks with `backlog` behind them."""
        consumer = self.consumer(**env)
        self.fill(count + backlog, aside=True)
        redis_mb = self.redis.info("memory")["used_memory"] / 1e6
        cpu_started = cpu_seconds(consumer.process)
        seconds = self.seconds_until(lambda: self.redis.llen(CELERY_QUEUE) >= count, "all published")
        consumer.process.pause()
        cpu = cpu_seconds(consumer.process) - cpu_started
        done = int(self.redis.llen(CELERY_QUEUE))
        resident = rss_mb(consumer.process.pid)
        self.redis.flushall()
        consumer.kill()
        return Bridged(Rate(done, seconds, cpu), resident, redis_mb)

    def seconds_until(self, done: Callable[[], bool], what: str) -> float:
        """How long the running consumer takes for the tasks that were put aside."""
        started = time.perf_counter()
        self.redis.rename(ASIDE, TASK_LIST)
        wait_until(done, timeout=120, what=what, every=LOOK_SECONDS)
        return time.perf_counter() - started

    def round_trips(self) -> float:
        """PINGs answered per second on one connection, with nothing in the way but the socket."""
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            started = time.perf_counter()
            for _ in range(self.size.round_trips):
                connection.sendall(b"*1\r\n$4\r\nPING\r\n")
                connection.recv(64)
            return self.size.round_trips / (time.perf_counter() - started)

    def rates(self) -> Section:
        """Rate and CPU per task of all of them; they take turns, so that noise meets them alike."""
        kinds: dict[str, Callable[[], Rate]] = {
            "(a) BRPOP + .delay()": lambda: self.alternative("plain"),
            "(b) BLMOVE, publish, LREM one by one": lambda: self.alternative("reliable"),
            "consumer": lambda: self.bridge(self.size.tasks).rate,
            "consumer, LOG_LEVEL=WARNING": lambda: self.bridge(self.size.tasks, LOG_LEVEL="WARNING").rate,
        }
        rounds = [{name: run() for name, run in kinds.items()} for _ in range(self.size.rounds)]
        runs = {name: _middle([measured[name] for measured in rounds]) for name in kinds}
        simple, ours = runs["(a) BRPOP + .delay()"], runs["consumer"]
        section = Section(f"Bridge on one core, tasks of {len(element())} bytes")
        for name, rate in runs.items():
            section.lines += [
                plain(name, rate.per_second, "tasks/s", f"{rate.per_second / simple.per_second:.1f} x (a)"),
                plain(
                    f"{name}: CPU",
                    rate.cpu_us,
                    "us/task",
                    f"(a) takes {simple.cpu_us / rate.cpu_us:.1f} x as much",
                ),
            ]
        section.lines += [
            at_least("consumer / (a)", ours.per_second / simple.per_second, 10, "x"),
            plain(
                "one PING a round trip, no client library",
                self.round_trips(),
                "/s",
                "the ceiling of one by one",
            ),
        ]
        section.data = {name: [measured[name].per_second for measured in rounds] for name in kinds}
        return section

    def latencies(self) -> Section:
        """From LPUSH until a worker's BRPOP has the message, one task at a time, the consumer idle before."""
        consumer = self.consumer()
        samples = []
        worker = redis.Redis.from_url(self.server.url, socket_timeout=None)
        for _ in range(self.size.latencies):
            raw = element()
            started = time.perf_counter()
            self.redis.lpush(TASK_LIST, raw)
            worker.brpop(CELERY_QUEUE)
            samples.append((time.perf_counter() - started) * 1000)
            time.sleep(random.uniform(0.001, 0.01))
        consumer.terminate()
        return Section(
            "Bridge, latency from LPUSH to a worker's BRPOP when idle",
            [
                plain("p50", percentile(samples, 0.5), "ms"),
                at_most("p99", percentile(samples, 0.99), 5, "ms"),
                plain("longest", max(samples), "ms", f"of {len(samples)}"),
            ],
            {"milliseconds": samples},
        )

    def backlogs(self) -> Section:
        """Rate, memory of the consumer and of Redis with so many tasks waiting."""
        section = Section("Bridge, tasks waiting behind those that are bridged")
        rates, weights = {}, {}
        for backlog in self.size.backlogs:
            self.redis.flushall()
            bridged = self.bridge(self.size.backlog_tasks, backlog=backlog)
            rates[backlog], weights[backlog] = bridged.rate.per_second, bridged.consumer_mb
            section.lines += [
                plain(f"{backlog:,} waiting", rates[backlog], "tasks/s"),
                plain(f"{backlog:,} waiting: consumer RSS", weights[backlog], "MB"),
                plain(f"{backlog:,} waiting: Redis", bridged.redis_mb, "MB"),
            ]
        most = max(rates)
        section.lines += [
            at_least(f"rate with {most:,} / with 1,000", rates[most] / rates[1000], 0.8, "x"),
            at_most(f"consumer RSS with {most:,} / with 1,000", weights[most] / weights[1000], 1.1, "x"),
        ]
        section.data = {"rates": rates, "consumer_mb": weights}
        return section

    def lanes(self) -> Section:
        """How many tasks go into and out of lanes a second, and what Redis holds for one that waits."""
        section = Section("Lanes, tasks waiting in them while others come and go")
        into, out_of, per_task = {}, {}, 0.0
        for lanes, tasks in self.size.lanes:
            self.redis.flushall()
            empty = self.redis.info("memory")["used_memory"]
            self.wait_in_lanes(lanes, tasks)
            per_task = (self.redis.info("memory")["used_memory"] - empty) / tasks
            consumer = self.consumer(ahead=0)
            into[tasks] = statistics.median(self.into_lanes() for _ in range(self.size.rounds))
            consumer.kill()
            out_of[tasks] = self.starts_per_second(min(tasks, self.size.backlog_tasks))
            where = f"{tasks:,} in {lanes:,} lanes"
            section.lines += [
                plain(f"{where}: in", into[tasks], "tasks/s"),
                plain(f"{where}: started", out_of[tasks], "tasks/s", "one report each, as generators do"),
            ]
        least, most = min(into), max(into)
        section.lines += [
            at_least(f"in, with {most:,} / with {least:,}", into[most] / into[least], 0.8, "x"),
            at_least(f"started, with {most:,} / with {least:,}", out_of[most] / out_of[least], 0.8, "x"),
            plain("Redis for a waiting task", per_task, "bytes", f"a task of {len(element())} bytes"),
        ]
        section.data = {"in": into, "started": out_of}
        return section

    def wait_in_lanes(self, lanes: int, tasks: int) -> None:
        """Put so many tasks into lanes, as a consumer does."""
        enqueue = self.redis.register_script(lane_script("enqueue(ARGV[1], ARGV[2], ARGV[3], ARGV[4])"))
        owners = [uuid.uuid4() for _ in range(lanes)]
        celery = CeleryMessages(CELERY_QUEUE)
        enqueue(args=[lane_of("b2c", owners[0]), str(uuid.uuid4()), 1.0, "{}"])  # loads the script
        for start in range(1, tasks, 1000):
            with self.redis.pipeline(transaction=False) as pipe:
                for number in range(start, min(start + 1000, tasks)):
                    task = json.loads(element())
                    message = celery.message(PROCESS_GENERATION_TASK, task["task_id"], json.dumps(task))
                    lane = lane_of("b2c", owners[number % lanes])
                    pipe.evalsha(enqueue.sha, 0, lane, task["session_id"], number, message)
                pipe.execute()

    def into_lanes(self) -> float:
        """How many tasks a second the running consumer puts into lanes."""
        self.fill(self.size.backlog_tasks, aside=True)
        wanted = self.redis.hlen(TASKS_KEPT) + self.size.backlog_tasks
        seconds = self.seconds_until(lambda: self.redis.hlen(TASKS_KEPT) >= wanted, "all in lanes")
        return self.size.backlog_tasks / seconds

    def starts_per_second(self, count: int) -> float:
        """Take `count` tasks from Celery's queue one by one and report each as started."""
        dealt = self.redis.register_script(DEALT)
        self.redis.eval(ANNOUNCE, 0, "15")
        started = time.perf_counter()
        for _ in range(count):
            message = json.loads(self.redis.rpop(CELERY_QUEUE))
            if "body" in message:
                (task,), _, _ = json.loads(base64.b64decode(message["body"]))
                lane = lane_of(task["channel"], task["user_id"])
                dealt(args=[task["session_id"], lane, "1"])
        return count / (time.perf_counter() - started)

    def consumer(self, ahead: int = EVERYTHING, **env: str) -> Service:
        """The consumer as it is shipped, ready; it hands so many tasks ahead."""
        self.redis.set(TASKS_AHEAD, ahead)
        port = free_port()
        self._started += 1
        process = self.pinned(
            f"consumer-{self._started}",
            [sys.executable, "-m", "wearon_consumer"],
            **{"REDIS_URL": self.server.url, "HEALTH_PORT": str(port), **env},
        )
        return Service(process, port).wait_ready()

    def pinned(self, name: str, argv: list[str], **env: str) -> Process:
        process = self.nursery.start(name, argv, env=env)
        os.sched_setaffinity(process.pid, {BRIDGE_CORE})
        return process

    def fill(self, count: int, *, aside: bool = False) -> None:
        """So many different tasks waiting; with `aside`, to be put in place by one RENAME."""
        self.redis.delete(TASK_LIST, CELERY_QUEUE, ASIDE)
        for start in range(0, count, 1000):
            self.redis.lpush(ASIDE, *(element() for _ in range(min(1000, count - start))))
        if not aside:
            self.redis.rename(ASIDE, TASK_LIST)


def _middle(rates: list[Rate]) -> Rate:
    return sorted(rates, key=lambda rate: rate.per_second)[len(rates) // 2]


def element() -> bytes:
    """A b2c task with two signed URLs, as large as real ones are."""
    names = (uuid.uuid4(), uuid.uuid4())
    task = {
        "task_id": str(uuid.uuid4()),
        "channel": "b2c",
        "user_id": str(uuid.uuid4()),
        "session_id": str(uuid.uuid4()),
        "image_urls": [
            f"https://abcdefghijklmnop.supabase.co/storage/v1/object/sign/images/{name}.jpg?token={'x' * 300}"
            for name in names
        ],
        "prompt": "Put the garment on the person",
        "request_id": f"req_{uuid.uuid4()}",
        "version": 1,
        "created_at": "2026-01-02T03:04:05.678Z",
    }
    return json.dumps(task, separators=(",", ":")).encode()


def cpu_seconds(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def run(quick: bool) -> Iterator[Section]:
    """All figures of the bridge."""
    nursery = Nursery()
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {REDIS_CORE})
        bench = BridgeBench(nursery, QUICK if quick else FULL)
        yield bench.rates()
        yield bench.latencies()
        yield bench.backlogs()
        yield bench.lanes()
    finally:
        os.sched_setaffinity(0, before)
        nursery.close()
