"""The stack starts what it says, can break each part on its own, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from wearon_contracts.queues import TASK_LIST
from wearon_contracts.tasks import GenerationTask
from wearon_local.app.producer import push_with_node
from wearon_local.processes import ProcessFailed, free_port, listens, wait_until
from wearon_local.stack import ServiceName, Stack

pytestmark = pytest.mark.slow  # starts and ends whole stacks

STARTS_AND_WAITS = """
import sys, time
from wearon_local.stack import Stack
with Stack() as stack:
    ports = (stack.redis.port, stack.postgres.port, stack.gateway.port, stack.openai.port)
    print(stack.directory, *ports, flush=True)
    time.sleep(300)
"""


def test_replication_is_logical_and_the_schema_is_applied(stack: Stack) -> None:
    assert stack.app.rows("show wal_level") == [{"wal_level": "logical"}]
    published = stack.app.rows("select tablename from pg_publication_tables order by 1")
    assert [row["tablename"] for row in published] == ["generation_sessions", "store_generation_sessions"]


def test_redis_keeps_its_data_unless_told_to_lose_them(stack: Stack) -> None:
    with stack.redis.client() as client:
        client.set("kept", "yes")
        stack.redis.restart()
        assert client.get("kept") == "yes"
        stack.redis.restart(lose_data=True)
        assert client.get("kept") is None


def test_redis_can_refuse_writes_for_a_while(stack: Stack) -> None:
    with stack.redis.client() as client:
        client.set("kept", "yes")
        stack.redis.set_read_only(True)
        with pytest.raises(redis.ReadOnlyError):
            client.set("kept", "no")
        stack.redis.set_read_only(False)
        assert client.get("kept") == "yes"
        client.set("kept", "no")


def test_redis_drops_connections_in_the_middle_of_a_blocking_pop(stack: Stack) -> None:
    blocked = redis.Redis.from_url(stack.redis_url, retry=None, socket_timeout=30)
    connection = blocked.connection_pool.get_connection()
    connection.send_command("BRPOP", "nothing-here", 30)
    wait_until(
        lambda: stack.redis.drop_connections() > 0, timeout=5, what="the blocked connection is dropped"
    )
    with pytest.raises(redis.ConnectionError):
        connection.read_response()


def test_postgres_keeps_what_was_committed(stack: Stack) -> None:
    user_id = stack.app.create_user(credits=7)
    stack.postgres.restart()
    wait_until(lambda: _balance(stack, user_id) == 7, timeout=10, what="balance readable again")


def _balance(stack: Stack, user_id: object) -> int | None:
    try:
        return stack.app.balance(user_id)  # type: ignore[arg-type]
    except psycopg.OperationalError:
        return None


def test_each_service_gets_only_its_own_secrets(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(stack.env_for("consumer")) == {"REDIS_URL", "LOG_LEVEL", "LOG_FORMAT"}
    generator = stack.env_for("generator")
    assert generator["SUPABASE_SERVICE_ROLE_KEY"] == stack.service_role_key
    assert "OPENAI_API_KEY" not in stack.env_for("sizing-api")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-developer")
    consumer = stack.start_service("consumer", wait=False)
    environment = Path(f"/proc/{consumer.process.pid}/environ").read_bytes()
    consumer.kill()
    assert b"sk-of-the-developer" not in environment


@pytest.mark.parametrize("name", ["consumer", "generator", "sizing-api"])
def test_services_answer_on_loopback_alone(stack: Stack, name: ServiceName) -> None:
    service = stack.start_service(name)
    processes = [psutil.Process(service.process.pid)]
    processes += processes[0].children(recursive=True)
    listening = {c.laddr.ip for p in processes for c in p.net_connections("tcp") if c.status == "LISTEN"}
    service.process.terminate(timeout=10)
    assert listening == {"127.0.0.1"}


def test_a_service_that_ends_says_why(stack: Stack) -> None:
    with pytest.raises(ProcessFailed, match="REDIS_URL"):
        stack.start_service("consumer", {"REDIS_URL": "not a url"})


def test_the_node_producer_pushes_what_the_contract_says(stack: Stack) -> None:
    user_id, store_id = stack.app.create_user(), stack.app.create_store()
    jobs = [stack.app.b2c_job(user_id, prompt="a"), stack.app.b2b_job(store_id)]
    push_with_node(stack.redis_url, jobs)
    with stack.redis.client() as client:
        pushed = [json.loads(element) for element in reversed(client.lrange(TASK_LIST, 0, -1))]
    tasks = [GenerationTask.model_validate(element) for element in pushed]
    assert [task.session_id for task in tasks] == [job.session_id for job in jobs]
    assert [task.owner_id for task in tasks] == [user_id, store_id]
    assert "store_id" not in pushed[0]
    assert tasks[0].session_id.version == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_stack_leaves_no_process_and_no_directory(number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    directory, *ports = owner.stdout.readline().split()
    children = psutil.Process(owner.pid).children(recursive=True)
    assert len(children) >= 5
    owner.send_signal(number)
    owner.wait(20)
    owner.stdout.close()
    wait_until(lambda: not any(listens(int(p)) for p in ports), timeout=10, what="ports closed")
    wait_until(lambda: not any(_alive(c) for c in children), timeout=10, what="children gone")
    wait_until(lambda: not Path(directory).exists(), timeout=10, what="directory removed")


def _alive(process: psutil.Process) -> bool:
    try:
        # Nobody collects the exit code of an orphan where init does not.
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_given_ports_are_used_and_a_failing_start_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sql"
    broken.write_text("select nonsense")
    port = free_port()
    with pytest.raises(psycopg.Error) as raised, Stack(schema=[broken], ports={"gateway": port}):
        pass
    assert "broken.sql" in str(raised.value.__notes__)
    assert not listens(port)
    with Stack(ports={"gateway": port}) as stack:
        assert stack.gateway_url.endswith(f":{port}")
        assert stack.directory.stat().st_uid == os.geteuid()
