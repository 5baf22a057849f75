"""The three images in docker-compose.yml: a smoke test. In this order, on one stack."""

from __future__ import annotations

import time
from collections import Counter

import httpx
import pytest
from tests.containers.conftest import ComposeStack
from tests.containers.engine import docker, events, inspect, python

from wearon_local.app.next_app import SAMPLE_PERSON, Job
from wearon_local.app.producer import push_with_node
from wearon_local.processes import wait_until

pytestmark = pytest.mark.timeout(900)


def _done_by(container: str) -> int:
    return sum(event.get("event") == "session_completed" for event in events(container))


def _push(stack: ComposeStack, count: int) -> list[Job]:
    user = stack.app.create_user(credits=count)
    urls = stack.app.upload_inputs(user, [SAMPLE_PERSON, SAMPLE_PERSON])
    jobs = [stack.app.b2c_job(user, image_urls=urls) for _ in range(count)]
    push_with_node(stack.redis_url, jobs)
    return jobs


def _attempts(stack: ComposeStack, jobs: list[Job]) -> Counter[int]:
    ids = [job.session_id for job in jobs]
    rows = stack.app.rows("select attempt from generation_ledger where session_id = any(%s)", ids)
    return Counter(row["attempt"] for row in rows)


def test_containers_run_unprivileged_and_can_write_tmp_alone(stack: ComposeStack) -> None:
    """Non-root with a fixed id, no capability, nothing writable but /tmp, and no installer or compiler."""
    for service in ("consumer", "generator", "sizing-api"):
        (container,) = stack.project.containers(service)
        found = python(
            container,
            """
import importlib.util, os, pathlib, shutil
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines())
writable = []
for folder in ("/", "/app", "/opt/venv", "/etc", "/var", "/home", "/tmp"):
    try:
        (pathlib.Path(folder) / "probe").write_text("x")
        writable.append(folder)
    except OSError:
        pass
print(os.getuid(), os.getgid(), status["CapEff"], status["NoNewPrivs"], *writable)
print([name for name in ("pip", "gcc", "cc", "make", "pytest", "curl") if shutil.which(name)],
      [name for name in ("pip", "pytest", "setuptools") if importlib.util.find_spec(name)])
""",
        ).splitlines()
        assert found == ["10001 10001 0000000000000000 1 /tmp", "[] []"], service
        assert inspect(container)["State"]["Health"]["Status"] in ("healthy", "starting")


def test_consumer_holds_no_key(stack: ComposeStack) -> None:
    """Neither among its variables nor anywhere in the environment of its processes."""
    (container,) = stack.project.containers("consumer")
    variables = python(container, "print(open('/proc/1/environ').read().replace(chr(0), chr(10)))")
    assert "REDIS_URL=" in variables
    for forbidden in ("SUPABASE", "OPENAI", "eyJ", "sk-"):
        assert forbidden not in variables


def test_job_from_the_node_producer_completes(stack: ComposeStack) -> None:
    """One of each channel; the result opens through its stored URL on the host, and the credit is spent."""
    user, store = stack.app.create_user(credits=3), stack.app.create_store(credits=3)
    jobs = [stack.app.b2c_job(user), stack.app.b2b_job(store)]
    push_with_node(stack.redis_url, jobs)
    for job, row in zip(jobs, stack.app.wait_settled(*jobs, timeout=90), strict=True):
        assert row["status"] == "completed", row["error_message"]
        assert row["generated_image_url"].startswith(stack.gateway_url)
        picture = stack.app.download(row["generated_image_url"])
        assert picture.headers["content-type"] == "image/jpeg"
        assert picture.content[:3] == b"\xff\xd8\xff"
        assert stack.app.balance(job.owner_id) == 2


def test_a_first_try_on_takes_one_command(stack: ComposeStack) -> None:
    """Without an application or the studio page; its last line is a link that opens on the host."""
    said = stack.project("run", "--rm", "-T", "try-on").splitlines()
    assert any(line.endswith("completed") for line in said), said
    assert "credits  10 -> 9" in said
    assert stack.app.download(said[-1]).headers["content-type"] == "image/jpeg"


def test_sizing_answers_with_a_size_for_a_signed_photo(stack: ComposeStack) -> None:
    """With a size, for a photo behind a URL that was signed on the host."""
    user = stack.app.create_user()
    (url,) = stack.app.upload_inputs(user, [SAMPLE_PERSON])
    (container,) = stack.project.containers("sizing-api")
    bound = inspect(container)["NetworkSettings"]["Ports"]["8000/tcp"][0]
    sizing = f"http://127.0.0.1:{bound['HostPort']}"
    health = httpx.get(f"{sizing}/health").json()
    assert (health["status"], health["model_loaded"], health["redis_connected"]) == ("ok", True, True)
    answer = httpx.post(
        f"{sizing}/estimate-body",
        json={"image_url": url, "height_cm": 175.5},
        headers={"X-Request-Id": "smoke"},
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["recommended_size"] in ("XS", "S", "M", "L", "XL", "XXL")


def test_three_generators_share_the_work(stack: ComposeStack) -> None:
    """`--scale generator=3`: each of them completes some of 30 jobs."""
    generators = stack.scale("generator", 3)
    assert len(generators) == 3
    before = {container: _done_by(container) for container in generators}
    jobs = _push(stack, 30)
    rows = stack.app.wait_settled(*jobs, timeout=120)
    assert {row["status"] for row in rows} == {"completed"}
    shares = {container: _done_by(container) - before[container] for container in generators}
    assert sum(shares.values()) == 30
    assert min(shares.values()) > 0, shares


def _begin_slow_jobs(stack: ComposeStack, count: int) -> list[Job]:
    stack.set_latency(6)
    jobs = _push(stack, count)
    wait_until(
        lambda: set(stack.app.statuses(jobs).values()) == {"processing"}, timeout=60, what="all processing"
    )
    return jobs


def test_killed_generator_loses_nothing(stack: ComposeStack) -> None:
    """`docker kill` in mid-job: its jobs are run again by the others, and nobody pays twice."""
    generators = stack.scale("generator", 3)
    jobs = _begin_slow_jobs(stack, 9)
    killed_at = time.monotonic()
    docker("kill", generators[0])
    rows = stack.app.wait_settled(*jobs, timeout=120)
    print(f"all settled {time.monotonic() - killed_at:.1f} s after the kill")
    assert {row["status"] for row in rows} == {"completed"}
    assert stack.app.balance(jobs[0].owner_id) == 0
    assert set(_attempts(stack, jobs)) == {1, 2}
    docker("rm", generators[0])


def test_stopped_generator_drains(stack: ComposeStack) -> None:
    """`docker stop` in mid-job: it finishes what it has begun, exits with 0, and no job runs twice."""
    generators = stack.scale("generator", 2)
    jobs = _begin_slow_jobs(stack, 6)
    calls_before = stack.provider_calls()
    docker("stop", "--time", "60", *generators)
    assert [inspect(container)["State"]["ExitCode"] for container in generators] == [0, 0]
    assert set(stack.app.statuses(jobs).values()) == {"completed"}
    assert _attempts(stack, jobs) == Counter({1: 6})
    assert stack.provider_calls() - calls_before == 6


def test_stopped_consumer_leaves_nothing_behind(stack: ComposeStack) -> None:
    """`docker stop` of every consumer: exit code 0, and its in-flight list is empty."""
    stack.set_latency(0)
    consumers = stack.scale("consumer", 2)
    jobs = _push(stack, 4)
    docker("stop", "--time", "15", *consumers)
    assert [inspect(container)["State"]["ExitCode"] for container in consumers] == [0, 0]
    program = """
import redis
client = redis.Redis.from_url("redis://redis:6379/0")
print(sum(client.llen(key) for key in client.scan_iter("wearon:tasks:generation:inflight:*")))
"""
    stack.project("up", "--detach", "--no-deps", "consumer", "generator")
    stack.wait_ready("consumer")
    stack.wait_ready("generator")
    assert {row["status"] for row in stack.app.wait_settled(*jobs, timeout=90)} == {"completed"}
    assert python(stack.project.containers("consumer")[0], program) == "0"
