"""Images built with TRACING=1 in docker-compose.yml: a job and a size, each one trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import httpx
import pytest
import yaml
from tests.containers.conftest import ComposeStack, running_stack
from tests.containers.engine import IMAGES, events, inspect
from tests.contract.otlp_collector import Collector, collecting

from wearon_local.app.next_app import SAMPLE_PERSON

pytestmark = pytest.mark.timeout(600)

TRACING: Final = {service: image.replace(":dev", ":tracing") for service, image in IMAGES.items()}
CALLER: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_MOST_ADDED: Final = 12_000_000
"""Bytes that OpenTelemetry may add to an image, uncompressed."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """On the host, at the address by which containers of every network reach it."""
    (settings,) = inspect("bridge")["IPAM"]["Config"]
    with collecting(settings["Gateway"]) as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(
    engine: None, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeStack]:
    """The services as operations.md says: the other images, and the collector's address."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    services = {service: {"image": image, "environment": environment} for service, image in TRACING.items()}
    file = tmp_path_factory.mktemp("compose") / "tracing.yml"
    file.write_text(yaml.safe_dump({"services": services}))
    with running_stack(file) as running:
        yield running


def test_job_is_one_trace_from_the_callers_span_to_the_provider(
    traced: ComposeStack, collector: Collector
) -> None:
    user = traced.app.create_user()
    job = traced.app.b2c_job(user, image_urls=traced.app.upload_inputs(user, [SAMPLE_PERSON] * 2))
    job.task["traceparent"] = CALLER
    traced.app.push(job)
    (row,) = traced.app.wait_settled(job, timeout=90)
    assert row["status"] == "completed", row["error_message"]
    (forwarded,) = collector.wait("forward wearon:tasks:generation")
    (processed,) = collector.wait("process generation")
    (called,) = collector.wait("generate_content")
    assert f"00-{forwarded.trace}-{forwarded.parent}-01" == CALLER
    assert (forwarded.service, processed.service) == ("wearon-consumer", "wearon-generator")
    assert processed.parent == forwarded.id
    assert {called.trace, processed.trace} == {forwarded.trace}


def test_size_continues_its_callers_trace(traced: ComposeStack, collector: Collector) -> None:
    (url,) = traced.app.upload_inputs(traced.app.create_user(), [SAMPLE_PERSON])
    (container,) = traced.project.containers("sizing-api")
    port = inspect(container)["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"]
    answer = httpx.post(
        f"http://127.0.0.1:{port}/estimate-body",
        json={"image_url": url, "height_cm": 175},
        headers={"traceparent": CALLER},
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    (asked,) = collector.wait("POST /estimate-body")
    assert asked.service == "wearon-sizing"
    assert f"00-{asked.trace}-{asked.parent}-01" == CALLER


def test_no_service_complains(traced: ComposeStack) -> None:
    for service in TRACING:
        (container,) = traced.project.containers(service)
        said = [event for event in events(container) if event["level"] not in ("debug", "info")]
        assert said == [], service


@pytest.mark.parametrize("service", TRACING)
def test_opentelemetry_adds_little_to_the_image(engine: None, service: str) -> None:
    added = int(inspect(TRACING[service])["Size"]) - int(inspect(IMAGES[service])["Size"])
    print(f"{service}: OpenTelemetry adds {added / 1e6:.1f} MB")
    assert 0 < added <= _MOST_ADDED
