"""The services on Redis as other people run it: behind Sentinels, with an ACL user, without client names."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import httpx
import pytest
import redis

from wearon_contracts.queues import TASK_LIST
from wearon_local.app.next_app import Job
from wearon_local.processes import Nursery
from wearon_local.sentinels import SentinelGroup
from wearon_local.stack import ServiceName, Stack

pytestmark = pytest.mark.slow  # starts Redis servers of several kinds

PASSWORD = "a-password-of-redis"
# What docs/operations.md tells an operator to allow.
ACL_RULE = ("~wearon*", "~_kombu.*", "&*", "+@all", "-@admin", "-@dangerous", "+info", "+keys")


@pytest.fixture(autouse=True)
def nothing_else(stack: Stack) -> Iterator[None]:
    stack.stop_services()
    stack.reset()
    yield
    stack.stop_services()
    with stack.redis.client() as client:
        client.execute_command("ACL", "DELUSER", "wearon")


def jobs_of(stack: Stack, count: int, prompt: str = "") -> list[Job]:
    user = stack.app.create_user(credits=count)
    return [stack.app.b2c_job(user, prompt=prompt) for _ in range(count)]


def push(client: redis.Redis, jobs: list[Job]) -> None:
    for job in jobs:
        client.lpush(TASK_LIST, json.dumps(job.task))


def test_failover_behind_sentinels_loses_no_job(stack: Stack, figure: Callable[[str], None]) -> None:
    with closing(Nursery()) as nursery:
        group = SentinelGroup(nursery, PASSWORD)
        group.start()
        env = {"REDIS_URL": group.url}
        consumer = stack.start_service("consumer", env)
        generators = [stack.start_service("generator", env) for _ in range(2)]
        sizing = stack.start_service("sizing-api", env)
        jobs = jobs_of(stack, 40, prompt="[[standin:slow=3]]")
        with group.client() as client:
            push(client, jobs[:20])
        consumer.process.wait_until(
            lambda: any(status != "queued" for status in stack.app.statuses(jobs).values()), what="in work"
        )
        group.kill_primary()
        new_primary = time.monotonic()
        with group.client() as client:
            push(client, jobs[20:])
        rows = stack.app.wait_settled(*jobs, timeout=120)
        assert [row["status"] for row in rows] == ["completed"] * len(jobs)
        figure(
            f"Sentinel failover with 40 jobs: all completed {time.monotonic() - new_primary:.1f} s after "
            "the new primary (each takes 3 s)"
        )
        for service in (consumer, *generators):
            service.wait_ready(timeout=30)
        sizing.process.wait_until(lambda: httpx.get(f"{sizing.url}/health").json()["redis_connected"])
        for service in (consumer, *generators, sizing):
            assert PASSWORD not in service.process.log()
        stack.stop_services()


def test_acl_user_with_the_documented_rights_can_run_everything(stack: Stack) -> None:
    with stack.redis.client() as client:
        client.execute_command("ACL", "SETUSER", "wearon", "on", f">{PASSWORD}", *ACL_RULE)
        env = {"REDIS_URL": f"redis://wearon:{PASSWORD}@127.0.0.1:{stack.redis.port}/0"}
        stack.start_service("consumer", env)
        stack.start_service("generator", env)
        jobs = jobs_of(stack, 3, prompt="[[standin:rate_limit_once=1]]")
        push(client, jobs)
        assert [row["status"] for row in stack.app.wait_settled(*jobs)] == ["completed"] * 3


def test_server_that_refuses_client_names_is_used_without_them(stack: Stack) -> None:
    with stack.redis.client() as client:
        rule = (*ACL_RULE, "-client|setname")
        client.execute_command("ACL", "SETUSER", "wearon", "on", f">{PASSWORD}", *rule)
        env = {"REDIS_URL": f"redis://wearon:{PASSWORD}@127.0.0.1:{stack.redis.port}/0"}
        stack.start_service("consumer", env)
        stack.start_service("generator", env)
        jobs = jobs_of(stack, 2)
        push(client, jobs)
        assert [row["status"] for row in stack.app.wait_settled(*jobs)] == ["completed"] * 2


@pytest.mark.parametrize(
    ("name", "variable"),
    [("consumer", "HEALTH_HOST"), ("generator", "HEALTH_HOST"), ("sizing-api", "HOST")],
)
def test_service_listens_on_ipv6_and_ipv4_when_told_to(
    stack: Stack, name: ServiceName, variable: str
) -> None:
    service = stack.start_service(name, {variable: "::"})
    port = service.url.rpartition(":")[2]
    for address in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{address}:{port}/live").status_code == 200


def test_consumer_says_in_ready_why_its_loop_stands_still(stack: Stack) -> None:
    consumer = stack.start_service("consumer", {"REDIS_URL": "redis://127.0.0.1:1/0"}, wait=False)

    def says_why() -> bool:
        with suppress(httpx.HTTPError):
            detail = consumer.readiness()["checks"]["loop"]["detail"]
            return bool(detail == "the connection was refused: nothing listens there")
        return False

    consumer.process.wait_until(says_why, what="the reason")
