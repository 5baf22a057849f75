"""What the tests share: a Redis-compatible server with real consumer processes, tasks, decoded messages."""

from __future__ import annotations

import base64
import json
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from wearon_contracts.queues import (
    CELERY_QUEUE,
    CONSUMER_HEARTBEAT_PREFIX,
    DEAD_LETTER_LIST,
    INFLIGHT_PREFIX,
    TASK_LIST,
)
from wearon_contracts.tasks import DeadLetter
from wearon_local.processes import Nursery, Process, free_port, wait_until
from wearon_local.redis_server import RedisServer
from wearon_local.services import Service

PAUSED_CONSUMER = Path(__file__).with_name("paused_consumer.py")
STOCK_WORKER = Path(__file__).with_name("stock_worker.py")


@dataclass(frozen=True)
class Published:
    """One message of the Celery queue, decoded."""

    name: str
    task_id: str
    argument: dict[str, Any]
    raw: dict[str, Any]


@dataclass
class Lab:
    """One server, the consumers on it, and what a producer and an onlooker do there."""

    nursery: Nursery
    server: RedisServer
    redis: redis.Redis
    consumers: list[Service] = field(default_factory=list)

    def start(self, *, pause_at: str | None = None, wait: bool = True, **env: str) -> Service:
        """A consumer; with `pause_at` it stops itself at that step of paused_consumer.py."""
        port = free_port()
        argv = [str(PAUSED_CONSUMER), pause_at] if pause_at else ["-m", "wearon_consumer"]
        process = self.nursery.start(
            f"consumer-{len(self.consumers)}",
            [sys.executable, *argv],
            env={"REDIS_URL": self.server.url, "HEALTH_PORT": str(port), **env},
        )
        consumer = Service(process, port)
        self.consumers.append(consumer)
        return consumer.wait_ready() if wait and not pause_at else consumer

    def start_stock_worker(self) -> Process:
        """A Celery worker of the queue that knows nothing of this project but the names of the tasks."""
        argv = ["-m", "celery", "-A", STOCK_WORKER.stem, "worker", "--pool", "solo", "--loglevel", "INFO"]
        return self.nursery.start(
            "stock-worker",
            [sys.executable, *argv],
            env={"REDIS_URL": self.server.url},
            cwd=STOCK_WORKER.parent,
        )

    def wait_list(self, name: str, length: int, *, timeout: float = 20) -> list[bytes]:
        """Wait until the list has so many elements; returns them from the left."""
        wait_until(
            lambda: self.redis.llen(name) >= length,
            timeout=timeout,
            what=f"{length} elements in {name}",
            every=0.01,
        )
        elements: list[Any] = self.redis.lrange(name, 0, -1)
        return elements

    def push(self, *elements: bytes) -> None:
        """As the producer does, the first one first."""
        for start in range(0, len(elements), 500):
            self.redis.lpush(TASK_LIST, *elements[start : start + 500])

    def push_tasks(self, count: int) -> list[str]:
        """Returns their task ids."""
        tasks = [new_task() for _ in range(count)]
        self.push(*(encode(task) for task in tasks))
        return [str(task["task_id"]) for task in tasks]

    def published(self) -> list[Published]:
        """The Celery queue, the message that a worker would take first at the front."""
        return [decode_message(raw) for raw in reversed(self.redis.lrange(CELERY_QUEUE, 0, -1))]

    def take(self) -> bytes:
        """The message that a worker would take first, taken."""
        message: Any = self.redis.rpop(CELERY_QUEUE)
        assert message is not None
        return bytes(message)

    def published_ids(self) -> list[str]:
        return [message.task_id for message in self.published()]

    def wait_published(self, count: int, *, timeout: float = 20) -> list[str]:
        """Wait for so many messages in the Celery queue; returns the ids in their order."""
        self.wait_list(CELERY_QUEUE, count, timeout=timeout)
        return self.published_ids()

    def dead_letters(self) -> list[DeadLetter]:
        """Oldest first."""
        return [
            DeadLetter.model_validate_json(raw)
            for raw in reversed(self.redis.lrange(DEAD_LETTER_LIST, 0, -1))
        ]

    def inflight(self) -> dict[str, int]:
        """Elements in flight by the name of the list."""
        return {
            name.decode(): self.redis.llen(name) for name in self.redis.scan_iter(match=f"{INFLIGHT_PREFIX}*")
        }

    def heartbeats(self) -> list[bytes]:
        return list(self.redis.scan_iter(match=f"{CONSUMER_HEARTBEAT_PREFIX}*"))

    def expire_heartbeats(self) -> None:
        """What time does by itself when nobody renews them."""
        for key in self.heartbeats():
            self.redis.delete(key)


NO_END: Final = 10**9
"""Tasks handed ahead of the generators: all of them go to Celery at once."""


def new_task(**changes: Any) -> dict[str, Any]:
    """A valid b2c task."""
    task = {
        "task_id": str(uuid.uuid4()),
        "channel": "b2c",
        "user_id": str(uuid.uuid4()),
        "session_id": str(uuid.uuid4()),
        "image_urls": [
            f"https://project.supabase.co/storage/v1/object/sign/images/{name}.jpg?token={'s3cr3t' * 40}"
            for name in ("person", "garment")
        ],
        "prompt": "Fit the garment 'loosely' – très chic",
        "request_id": f"req_{uuid.uuid4()}",
        "version": 1,
        "created_at": "2026-01-02T03:04:05.678Z",
    }
    return {key: value for key, value in {**task, **changes}.items() if value is not ...}


def encode(task: dict[str, Any]) -> bytes:
    """As JSON.stringify writes it."""
    return json.dumps(task, ensure_ascii=False, separators=(",", ":")).encode()


def decode_message(raw: bytes | str) -> Published:
    message = json.loads(raw)
    (argument,), _, _ = json.loads(base64.b64decode(message["body"]))
    return Published(message["headers"]["task"], message["headers"]["id"], argument, message)


def wait_stopped(process: Process) -> None:
    """Wait until a SIGSTOP has taken effect."""
    process.wait_until(lambda: _is_stopped(process), timeout=20, what="stopped")


def _is_stopped(process: Process) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
