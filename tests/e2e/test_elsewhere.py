"""Each service by its command and its environment alone, against servers that are set up differently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.e2e.tls import tls_front
from tests.integration.leaks import assert_no_secret_in_logs
from tests.integration.tryons import TryOns

from wearon_contracts.queues import CELERY_QUEUE
from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON, NextApp
from wearon_local.paths import SUPABASE_DIR
from wearon_local.processes import Nursery, free_port, wait_until
from wearon_local.redis_server import RedisServer
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # starts each service anew, many times

REDIS_PASSWORD = "a-password-of-redis"


@pytest.fixture(autouse=True)
def nothing_else(stack: Stack) -> Iterator[None]:
    stack.stop_services()
    stack.reset()
    yield


def create_bucket(stack: Stack, name: str) -> None:
    headers = {"authorization": f"Bearer {stack.service_role_key}"}
    answer = httpx.post(f"{stack.gateway_url}/storage/v1/bucket", json={"name": name}, headers=headers)
    answer.raise_for_status()


def not_ready(generator: Service, check: str, said: str) -> bool:
    """Whether /ready says so, and the log does in one line."""
    try:
        detail = generator.readiness()["checks"][check]["detail"]
    except httpx.HTTPError:
        return False
    return said in detail and any(
        said in event["reason"] for event in generator.events(event="generator_not_ready")
    )


def test_another_bucket_and_another_public_address(stack: Stack) -> None:
    public, bucket = "https://project.example.com", "virtual-tryon-images"
    create_bucket(stack, bucket)
    app: NextApp = replace(stack.app, bucket=bucket, _connection=None)
    stack.start_service("consumer")
    stack.start_service("generator", {"STORAGE_BUCKET": bucket, "SUPABASE_PUBLIC_URL": public})
    user = app.create_user()
    inputs = app.upload_inputs(user, [SAMPLE_PERSON, SAMPLE_GARMENT])
    job = app.b2c_job(user, image_urls=[url.replace(stack.gateway_url, public) for url in inputs])
    app.push(job)
    (row,) = app.wait_settled(job)
    assert row["status"] == "completed", row["error_message"]
    url = row["generated_image_url"]
    assert url.startswith(f"{public}/storage/v1/object/sign/{bucket}/{job.result_path}?token=")
    assert app.download(url.replace(public, stack.gateway_url)).content == app.stored(job)
    app.close()


def test_redis_over_tls_with_a_password(stack: Stack, tmp_path: Path) -> None:
    nursery = Nursery()
    try:
        server = RedisServer(nursery, free_port())
        server.start()
        with server.client() as client, tls_front(tmp_path, server.port) as front:
            client.config_set("requirepass", REDIS_PASSWORD)
            url = f"rediss://:{REDIS_PASSWORD}@127.0.0.1:{front.port}/0"
            app = replace(
                stack.app, redis_url=f"redis://:{REDIS_PASSWORD}@127.0.0.1:{server.port}/0", _connection=None
            )
            env = {"REDIS_URL": url, "SSL_CERT_FILE": str(front.authority)}
            stack.start_service("consumer", env)
            stack.start_service("generator", env)
            user = app.create_user()
            job = app.b2c_job(user, prompt="[[standin:rate_limit_once=1]]")
            app.push(job)
            (row,) = app.wait_settled(job)
            assert row["status"] == "completed", row["error_message"]
            assert front.accepted
            app.close()
            services = list(stack.services)
            stack.stop_services()
            for service in services:
                assert REDIS_PASSWORD not in service.process.log()
                assert service.process.returncode == 0
    finally:
        nursery.close()


def test_redis_whose_certificate_nobody_vouches_for_is_told_nothing(stack: Stack, tmp_path: Path) -> None:
    with tls_front(tmp_path, stack.redis.port) as front:
        env = {"REDIS_URL": f"rediss://:{REDIS_PASSWORD}@127.0.0.1:{front.port}/0"}
        generator = stack.start_service("generator", env, wait=False)
        consumer = stack.start_service("consumer", env, wait=False)
        refused = "Trying again in"
        generator.process.wait_until(lambda: generator.process.log().count(refused) >= 2, what="refusals")
        consumer.process.wait_until(lambda: len(consumer.events(event="loop_failed")) >= 2, what="refusals")
        assert front.accepted == []
        for service in (generator, consumer):
            assert not service.ready()
            assert REDIS_PASSWORD not in service.process.log()
        stack.stop_services()


def test_generator_waits_for_a_bucket_that_is_missing(stack: Stack) -> None:
    stack.start_service("consumer")
    generator = stack.start_service("generator", {"STORAGE_BUCKET": "not-there-yet"}, wait=False)
    generator.process.wait_until(
        lambda: not_ready(generator, "storage", "bucket not-there-yet does not exist"), what="named"
    )
    assert not generator.ready()
    tryon = TryOns(stack).order()
    with stack.redis.client() as client:
        wait_until(lambda: client.llen(CELERY_QUEUE) == 1, timeout=10, what="in the queue")
        create_bucket(stack, "not-there-yet")
        generator.wait_ready(timeout=15)
        wait_until(lambda: client.llen(CELERY_QUEUE) == 0, timeout=10, what="taken")
    stack.app.wait_settled(tryon.job)


def test_generator_waits_for_migrations_that_are_missing() -> None:
    dev, migrations = (sorted((SUPABASE_DIR / name).glob("*.sql")) for name in ("dev", "migrations"))
    with Stack(schema=dev) as stack:
        stack.start_service("consumer")
        generator = stack.start_service("generator", wait=False)
        said = "function generation_schema_version is missing: apply deploy/supabase/migrations"
        generator.process.wait_until(lambda: not_ready(generator, "database", said), what="named")
        assert not generator.ready()
        assert len(generator.events(event="generator_not_ready")) == 1
        assert "Traceback" not in generator.process.log()
        tryons = TryOns(stack)
        tryon = tryons.order()
        with stack.redis.client() as client:
            wait_until(lambda: client.llen(CELERY_QUEUE) == 1, timeout=10, what="in the queue")
            # All but the last: it is still said to be missing, and nothing is begun.
            stack.postgres.apply(migrations[:-1])
            stack.postgres.apply(migrations[:-1])
            assert client.llen(CELERY_QUEUE) == 1
        stack.postgres.apply(migrations)
        generator.wait_ready(timeout=20)
        tryons.wait_settled(tryon)
        assert tryons.row(tryon)["status"] == "completed"
        stack.stop_services()
        assert_no_secret_in_logs(stack)


def test_health_port_that_is_taken(stack: Stack) -> None:
    """It ends with a line that says so."""
    running = stack.start_service("consumer")
    port = running.url.rpartition(":")[2]
    for name in ("consumer", "generator"):
        second = stack.start_service(name, {"HEALTH_PORT": port}, wait=False)  # type: ignore[arg-type]
        assert second.process.wait(30) == 1
        assert "Traceback" not in second.process.log()
        assert [event["event"] for event in second.events(level="error")] == ["health_port_not_available"]
