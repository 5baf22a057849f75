"""The bridge as a process: what goes in at the list comes out at Celery or at the dead letters."""

from __future__ import annotations

import base64
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from wearon_consumer.metrics import Backlog
from wearon_contracts.queues import (
    DEAD_LETTER_LIST,
    PROCESS_GENERATION_TASK,
    REJECT_GENERATION_TASK,
    TASK_LIST,
    TASKS_AHEAD,
)
from wearon_contracts.tasks import Channel, DeadLetterReason
from wearon_local.processes import wait_until

from .lab import Lab, encode, new_task


def test_every_task_reaches_the_celery_queue_once_and_in_order(lab: Lab) -> None:
    waiting = lab.push_tasks(250)
    consumer = lab.start()
    assert lab.wait_published(250) == waiting
    later = lab.push_tasks(3)
    assert lab.wait_published(253) == waiting + later
    assert {message.name for message in lab.published()} == {PROCESS_GENERATION_TASK}
    assert not lab.inflight()
    accepted = consumer.events(event="task_accepted")
    assert [line["task_id"] for line in accepted] == waiting + later


def test_published_task_is_the_validated_one(lab: Lab) -> None:
    task = new_task(
        channel="b2b", store_id="018F0000-0000-7000-8000-00000000000A", user_id=None, version=None
    )
    lab.push(encode({**task, "unknown": {"key": 1}}))
    lab.start()
    lab.wait_published(1)
    expected = {**task, "version": 1, "store_id": task["store_id"].lower()}
    del expected["user_id"]
    assert lab.published()[0].argument == expected


def test_invalid_elements_are_set_aside_and_their_sessions_rejected(lab: Lab) -> None:
    nobody = b"\xff\x00 not a task"
    somebody = encode(new_task(prompt=["wrong"]))
    good = new_task()
    lab.push(nobody, somebody, encode(good))
    consumer = lab.start()
    lab.wait_published(2)

    first, second = lab.dead_letters()
    assert (first.reason, first.encoding, base64.b64decode(first.raw)) == (
        DeadLetterReason.NOT_UTF8,
        "base64",
        nobody,
    )
    assert (second.reason, second.encoding, second.raw.encode()) == (
        DeadLetterReason.INVALID_TASK,
        "utf-8",
        somebody,
    )
    assert first.session_id is None
    session_id = json.loads(somebody)["session_id"]
    assert (str(second.session_id), second.channel) == (session_id, Channel.B2C)
    assert abs(second.set_aside_at.timestamp() - time.time()) < 60
    assert second.set_aside_by == consumer.events(event="consumer_started")[0]["consumer_id"]

    rejection, task = lab.published()
    assert (rejection.name, rejection.argument["session_id"]) == (REJECT_GENERATION_TASK, session_id)
    assert (task.name, task.task_id) == (PROCESS_GENERATION_TASK, good["task_id"])
    assert not lab.inflight()


def test_repeated_invalid_element_is_rejected_under_the_same_id(lab: Lab) -> None:
    element = encode(new_task(prompt=None))
    lab.push(element, encode(new_task(prompt=None)), element)
    lab.start()
    first, other, again = lab.wait_published(3)
    assert first == again != other


def test_elements_of_megabytes_neither_block_others_nor_stay_in_memory(lab: Lab) -> None:
    large = [encode(new_task(prompt="x" * size)) for size in (100_000, 1_000_000, 3_000_000)]
    consumer = lab.start()
    lab.push(*large * 10)
    ids = lab.push_tasks(5)
    lab.wait_list(DEAD_LETTER_LIST, 30)
    processed = [m.task_id for m in lab.published() if m.name == PROCESS_GENERATION_TASK]
    assert processed == ids
    rejected = [m for m in lab.published() if m.name == REJECT_GENERATION_TASK]
    assert len(rejected) == 30
    kept = [*large[:2], large[2][: 64 * 1024]]  # of elements over 1 MiB only the head
    assert [letter.raw.encode() for letter in lab.dead_letters()] == kept * 10
    assert resident_megabytes(consumer.process.pid) < 120


@pytest.mark.slow
def test_consumer_uses_less_than_60_mb(lab: Lab) -> None:
    consumer = lab.start(LOG_LEVEL="WARNING")
    lab.push_tasks(5000)
    started = time.monotonic()
    lab.wait_published(5000)
    assert time.monotonic() - started < 10
    assert resident_megabytes(consumer.process.pid) < 60


def resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def test_consumer_imports_no_celery_and_no_other_heavy_module(lab: Lab) -> None:
    program = "import sys, wearon_consumer.__main__; print(*sys.modules)"
    process = lab.nursery.start("imports", [sys.executable, "-c", program])
    assert process.wait(30) == 0
    loaded = {name.partition(".")[0] for name in process.log().split()}
    assert {"redis", "wearon_contracts"} <= loaded
    assert not loaded & {"celery", "kombu", "httpx", "PIL", "supabase", "openai", "numpy"}


def test_metrics_count_handled_and_waiting_elements(lab: Lab) -> None:
    consumer = lab.start()
    lab.push_tasks(3)
    lab.push(b"[]", b"nonsense", encode(new_task(prompt=None)))
    lab.wait_published(4)
    metrics = wait_until(
        lambda: m if (m := consumer.metrics())["wearon_consumer_received_total"] == 6 else None,
        timeout=5,
        what="six elements counted",
    )
    assert metrics["wearon_consumer_published_total"] == 3
    assert metrics["wearon_consumer_rejections_total"] == 1
    for reason in ("not_an_object", "not_json", "invalid_task"):
        assert metrics[f'wearon_consumer_dead_lettered_total{{reason="{reason}"}}'] == 1
    assert metrics["wearon_consumer_refused_in_a_row"] == 3
    assert metrics["wearon_consumer_intake_stopped"] == 0
    letters = lab.redis.lrange(DEAD_LETTER_LIST, 0, -1)
    assert metrics["wearon_consumer_dead_letter_bytes"] == sum(map(len, letters))
    assert metrics["wearon_consumer_loop_errors_total"] == 0
    assert metrics["wearon_consumer_recovered_total"] == 0
    assert 1 <= metrics["wearon_consumer_bridge_seconds_count"] <= 6
    assert 0 <= metrics["wearon_consumer_bridge_seconds_sum"] < 3
    assert abs(metrics["wearon_consumer_last_progress_timestamp_seconds"] - time.time()) < 30
    lengths = {"waiting": 0, "celery": 4, "celery_again": 0, "dead_letters": 3, "in_flight": 0}
    lengths |= {"lanes_b2c": 0, "lanes_b2b": 0}
    for name, length in lengths.items():
        assert metrics[f'wearon_consumer_list_length{{list="{name}"}}'] == length
    assert metrics["wearon_consumer_oldest_waiting_seconds"] == 0


def test_metrics_show_what_waits_in_lanes_by_channel(lab: Lab) -> None:
    lab.redis.set(TASKS_AHEAD, 2)
    created_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 90))
    lab.push(*(encode(new_task(created_at=created_at)) for _ in range(5)))
    consumer = lab.start()
    metrics = wait_until(
        lambda: m if (m := consumer.metrics())["wearon_consumer_handed"] == 2 else None,
        timeout=10,
        what="two handed",
    )
    assert metrics['wearon_consumer_list_length{list="lanes_b2c"}'] == 3
    assert metrics['wearon_consumer_list_length{list="lanes_b2b"}'] == 0
    assert 89 < metrics['wearon_consumer_lane_oldest_seconds{channel="b2c"}'] < 150
    assert metrics['wearon_consumer_lane_oldest_seconds{channel="b2b"}'] == 0
    assert metrics["wearon_consumer_lanes"] == 5  # two of them just emptied


def test_metric_shows_age_of_the_next_task(lab: Lab) -> None:
    registry = CollectorRegistry()
    registry.register(Backlog(lab.redis, "none", lambda: True))
    now = time.time()
    for age in (120, 60):
        created_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - age))
        lab.push(encode(new_task(created_at=created_at)))
    oldest = registry.get_sample_value("wearon_consumer_oldest_waiting_seconds")
    assert oldest is not None and 119 < oldest < 150
    lab.redis.rpush(TASK_LIST, "nonsense")
    assert registry.get_sample_value("wearon_consumer_oldest_waiting_seconds") is None
    assert registry.get_sample_value("wearon_consumer_list_length", {"list": "waiting"}) == 3


def test_log_lines_have_the_request_id_and_no_secret(lab: Lab) -> None:
    task = new_task(prompt="a very private prompt")
    bad = new_task(image_urls=["ftp:no?token=s3cr3t"], prompt="a very private prompt")
    lab.push(encode(task), encode(bad))
    consumer = lab.start()
    lab.wait_published(2)
    assert consumer.terminate() == 0
    for event, element in (("task_accepted", task), ("element_dead_lettered", bad)):
        (line,) = consumer.events(event=event, request_id=element["request_id"])
        assert (line["session_id"], line["channel"]) == (element["session_id"], "b2c")
    (line,) = consumer.events(event="element_dead_lettered")
    assert (line["reason"], line["generator_notified"]) == ("invalid_task", True)
    assert "image_urls.0" in line["detail"]
    for secret in ("s3cr3t", "token", "private", "supabase.co"):
        assert secret not in consumer.process.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_consumer_within_three_seconds(lab: Lab, number: signal.Signals) -> None:
    consumer = lab.start()
    consumer.process.signal(number)
    assert consumer.process.wait(3) == 0
    assert not lab.heartbeats()
    assert consumer.events(event="consumer_stopped")


@pytest.mark.slow
def test_sigterm_under_load_leaves_nothing_in_flight(lab: Lab) -> None:
    ids = lab.push_tasks(20_000)
    consumer = lab.start(wait=False)
    lab.wait_published(500)
    started = time.monotonic()
    assert consumer.terminate() == 0
    assert time.monotonic() - started < 3
    published = lab.published_ids()
    waiting = [json.loads(raw)["task_id"] for raw in reversed(lab.redis.lrange(TASK_LIST, 0, -1))]
    assert published + waiting == ids
    assert waiting
    assert not lab.inflight()
    assert not lab.heartbeats()


@pytest.mark.slow
def test_ready_follows_redis_and_the_loop(lab: Lab) -> None:
    consumer = lab.start()
    assert consumer.readiness()["ready"] is True
    lab.server.pause()
    wait_until(lambda: not consumer.ready(), timeout=15, what="not ready without Redis")
    wait_until(
        lambda: not consumer.readiness()["checks"]["loop"]["ok"], timeout=15, what="the loop known to stand"
    )
    assert httpx.get(f"{consumer.url}/live").status_code == 200
    assert "wearon_consumer_loop_errors_total" in consumer.metrics()
    lab.server.resume()
    wait_until(consumer.ready, timeout=15, what="ready again")


@pytest.mark.parametrize(
    ("env", "named"),
    [({}, "REDIS_URL"), ({"REDIS_URL": "http://x", "HEALTH_PORT": "eighty"}, "REDIS_URL HEALTH_PORT")],
)
def test_bad_settings_end_the_consumer_with_one_line(lab: Lab, env: dict[str, str], named: str) -> None:
    process = lab.nursery.start("misconfigured", [sys.executable, "-m", "wearon_consumer"], env=env)
    assert process.wait(20) == 2
    (line,) = process.log().splitlines()
    for variable in named.split():
        assert variable in line


def test_health_port_in_use_ends_the_consumer_with_a_reason(lab: Lab) -> None:
    first = lab.start()
    env: dict[str, Any] = {"REDIS_URL": lab.server.url, "HEALTH_PORT": first.url.rpartition(":")[2]}
    process = lab.nursery.start("second", [sys.executable, "-m", "wearon_consumer"], env=env)
    assert process.wait(20) == 1
    (line,) = process.log().splitlines()
    assert json.loads(line)["event"] == "health_port_not_available"
