"""All metrics of the consumer, with their meaning."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import redis
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from wearon_contracts.queues import (
    CELERY_QUEUE,
    CELERY_RETRY_QUEUE,
    DEAD_LETTER_BYTES,
    DEAD_LETTER_LIST,
    INTAKE_STOPPED,
    LANE_PARKED,
    LANE_TURNS,
    TASK_LIST,
    TASKS_HANDED,
    TASKS_WAITING_PREFIX,
)
from wearon_contracts.tasks import Channel, DeadLetterReason

_BRIDGE_BUCKETS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
)  # seconds


class Metrics:
    """Counters and gauges of one consumer in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.received = Counter(
            "wearon_consumer_received",
            "Elements taken from the task list, counted when they are handed on.",
            registry=registry,
        )
        self.published = Counter(
            "wearon_consumer_published", "Valid tasks put into their lanes.", registry=registry
        )
        self.dead_lettered = Counter(
            "wearon_consumer_dead_lettered",
            "Elements put on the dead-letter list, by reason.",
            ["reason"],
            registry=registry,
        )
        # Prometheus does not see the first event of a series that begins with it.
        for reason in DeadLetterReason:
            self.dead_lettered.labels(reason=reason.value)
        self.rejections = Counter(
            "wearon_consumer_rejections",
            "Invalid elements whose session the generator was told to fail and refund.",
            registry=registry,
        )
        self.refused_in_a_row = Gauge(
            "wearon_consumer_refused_in_a_row",
            "Invalid elements since the last valid one, of all consumers together. "
            "At MAX_INVALID_IN_A_ROW the intake stops.",
            registry=registry,
        )
        self.recovered = Counter(
            "wearon_consumer_recovered",
            "Elements of dead consumers put back on the task list.",
            registry=registry,
        )
        self.superseded = Counter(
            "wearon_consumer_superseded",
            "Batches given up because this consumer was taken for dead while it worked on them.",
            registry=registry,
        )
        self.loop_errors = Counter(
            "wearon_consumer_loop_errors", "Errors of the loop, each followed by a pause.", registry=registry
        )
        self.bridge_seconds = Histogram(
            "wearon_consumer_bridge_seconds",
            "Time of a batch from being taken to lying in its lanes.",
            buckets=_BRIDGE_BUCKETS,
            registry=registry,
        )
        self.last_progress = Gauge(
            "wearon_consumer_last_progress_timestamp_seconds",
            "When Redis last did what the loop asked of it, Unix time.",
            registry=registry,
        )


class Backlog(Collector):
    """Lengths of the lists in Redis, read when Prometheus scrapes:

    wearon_consumer_list_length{list="waiting|lanes_b2c|lanes_b2b|celery|celery_again|dead_letters|in_flight"}
        (lanes_…: tasks that wait for their turn, by channel; in_flight: of this consumer alone)
    wearon_consumer_lane_oldest_seconds{channel="b2c|b2b"}
        age of the oldest task that waits for its turn, by its created_at; 0 with none waiting
    wearon_consumer_lanes
        lanes that take turns or are held back by a cap of theirs
    wearon_consumer_handed
        tasks handed to Celery that no generator has started yet
    wearon_consumer_oldest_waiting_seconds
        age of the next task by its created_at; 0 with none waiting, absent when it cannot be read

    wearon_consumer_intake_stopped
        1 while no consumer takes elements because an operator has to look at the dead letters, else 0
    wearon_consumer_dead_letter_bytes
        about how many bytes the dead letters hold

    All are absent while Redis does not answer.
    """

    def __init__(
        self,
        client: redis.Redis,
        inflight_list: str,
        reachable: Callable[[], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`reachable`: whether to ask Redis, so that a scrape never waits for one that is unavailable."""
        self._client = client
        self._reachable = reachable
        self._clock = clock
        self._lists = {
            "waiting": TASK_LIST,
            "celery": CELERY_QUEUE,
            "celery_again": CELERY_RETRY_QUEUE,
            "dead_letters": DEAD_LETTER_LIST,
            "in_flight": inflight_list,
        }

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterator[Metric]:
        if not self._reachable():
            return
        length, oldest, stopped, dead_bytes, lane_oldest, lanes, handed = self._families()
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for name in self._lists.values():
                    pipeline.llen(name)
                for channel in Channel:
                    pipeline.zcard(TASKS_WAITING_PREFIX + channel)
                    pipeline.zrange(TASKS_WAITING_PREFIX + channel, 0, 0, withscores=True)
                pipeline.lindex(TASK_LIST, -1)
                for key in (INTAKE_STOPPED, DEAD_LETTER_BYTES):
                    pipeline.get(key)
                for key in (LANE_TURNS, LANE_PARKED, TASKS_HANDED):
                    pipeline.zcard(key)
                answers = pipeline.execute()
        except redis.RedisError:
            return
        answer = iter(answers)
        for label in self._lists:
            length.add_metric([label], next(answer))
        for channel in Channel:
            length.add_metric([f"lanes_{channel.value}"], next(answer))
            first = next(answer)
            age = max(0.0, self._clock().timestamp() - first[0][1]) if first else 0.0
            lane_oldest.add_metric([channel.value], age)
        age_of_next = self._age(next(answer))
        stopped.add_metric([], next(answer) is not None)
        dead_bytes.add_metric([], int(next(answer) or 0))
        lanes.add_metric([], next(answer) + next(answer))
        handed.add_metric([], next(answer))
        yield from (length, stopped, dead_bytes, lane_oldest, lanes, handed)
        if age_of_next is not None:
            oldest.add_metric([], age_of_next)
            yield oldest

    def _age(self, element: bytes | None) -> float | None:
        if element is None:
            return 0.0
        try:
            document: Any = json.loads(element)
            created = datetime.fromisoformat(document["created_at"])
            return max(0.0, (self._clock() - created).total_seconds())
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, ...]:
        return (
            GaugeMetricFamily(
                "wearon_consumer_list_length", "Elements of the lists in Redis.", labels=["list"]
            ),
            GaugeMetricFamily(
                "wearon_consumer_oldest_waiting_seconds", "Age of the task that is next in line."
            ),
            GaugeMetricFamily(
                "wearon_consumer_intake_stopped",
                "1 while consumers take nothing until `wearonctl intake resume`.",
            ),
            GaugeMetricFamily("wearon_consumer_dead_letter_bytes", "Bytes of the dead letters."),
            GaugeMetricFamily(
                "wearon_consumer_lane_oldest_seconds",
                "Age of the oldest task that waits for its turn.",
                labels=["channel"],
            ),
            GaugeMetricFamily("wearon_consumer_lanes", "Stores and users with tasks that wait."),
            GaugeMetricFamily("wearon_consumer_handed", "Tasks handed to Celery and not yet started."),
        )
