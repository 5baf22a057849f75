"""Flame graphs of generator and consumer under load, drawn by py-spy, and where their time goes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import redis
from tests.bench.generator import bench, push_evenly, shipped
from tests.bench.report import Section, plain

from wearon_contracts.queues import CELERY_QUEUE, TASK_LIST

FLAMES = Path(".local/bench/flames")
# What a frame belongs to, by a part of its file's path; the innermost frame that matches decides.
PARTS = {
    "decode and resize": "images/decode",
    "download": "images/fetch",
    "provider": "openai/",
    "supabase": "supabase",
    "postgrest": "postgrest/",
    "storage": "storage3/",
    "validation": "wearon_contracts",
    "building messages": "celery_messages",
    "redis": "redis/",
    "log lines": "structlog",
    "celery": "celery/",
    "http": "httpx",
    "event loop": "asyncio",
}


def run(quick: bool) -> list[Section]:
    seconds = 5 if quick else 20
    FLAMES.mkdir(parents=True, exist_ok=True)
    with bench(2.0) as running:
        worker = shipped(running)
        jobs = running.jobs(4 * (seconds + 3))
        pusher = push_evenly(running, jobs, per_minute=240)
        generator = _record("generator", worker.pid, seconds)
        pusher.join()
        consumer = running.stack.services[0].process
        element = json.dumps(running.jobs(1)[0].task).encode()
        feeding = threading.Event()
        # The generator would choke on so many copies; only the bridge is looked at.
        worker.kill()
        feeder = threading.Thread(target=_feed, args=(running.stack.redis_url, element, feeding), daemon=True)
        feeder.start()
        bridge = _record("consumer", consumer.pid, seconds)
        feeding.set()
        feeder.join()
    return [_section("generator, 4 jobs/s", generator), _section("consumer, saturated", bridge)]


def _feed(redis_url: str, element: bytes, stop: threading.Event) -> None:
    client = redis.Redis.from_url(redis_url)
    while not stop.is_set():
        if client.llen(TASK_LIST) < 20_000:
            client.lpush(TASK_LIST, *([element] * 2000))
        client.delete(CELERY_QUEUE)
        stop.wait(0.05)


def _record(name: str, pid: int, seconds: int) -> Counter[str]:
    """Sample the process; writes the flame graph and returns samples by part."""
    spy = str(Path(sys.executable).with_name("py-spy"))
    raw = FLAMES / f"{name}.txt"
    kinds = {"raw": (raw, seconds), "flamegraph": (FLAMES / f"{name}.svg", max(3, seconds // 3))}
    for kind, (output, duration) in kinds.items():
        command = [spy, "record", "--pid", str(pid), "--rate", "200", "--nonblocking", "--format", kind]
        command += ["--duration", str(duration), "--output", str(output)]
        subprocess.run(command, check=True, capture_output=True)
    parts: Counter[str] = Counter()
    for line in raw.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        parts[_part(stack.split(";"))] += int(samples)
    return parts


def _part(frames: list[str]) -> str:
    for frame in reversed(frames):
        for part, path in PARTS.items():
            if path in frame:
                return part
    return "other"


def _section(title: str, parts: Counter[str]) -> Section:
    total = max(sum(parts.values()), 1)
    lines = [plain(part, samples / total * 100, "%") for part, samples in parts.most_common()]
    return Section(f"Where the time goes: {title} (flame graphs in {FLAMES})", lines)
