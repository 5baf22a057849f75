"""Traces of OpenTelemetry: one for a job from the application to the provider, told to a real collector."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.contract.otlp_collector import Collector, Span, collecting
from tests.integration.tryons import TryOn, TryOns, start_generators

from wearon_local.app.next_app import SAMPLE_PERSON
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SOON = {"sweep_interval": 1, "election": 3}
TRACE = CALLER.split("-")[1]


@pytest.fixture
def collector(stack: Stack) -> Iterator[Collector]:
    """The services that were told its address end with it."""
    with collecting() as collector:
        yield collector
        stack.stop_services()


def tracing(collector: Collector) -> dict[str, str]:
    """The environment of a process that sends each span at once."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}


def push_from_node(typescript: Path, stack: Stack, collector: Collector, tryon: TryOn) -> None:
    """Enqueue it as an application does that traces its route handlers."""
    told = {
        "redisUrl": stack.redis_url,
        "generation": {
            "channel": "b2c",
            "userId": str(tryon.job.owner_id),
            "sessionId": tryon.id,
            "imageUrls": tryon.job.task["image_urls"],
            "requestId": tryon.job.request_id,
        },
    }
    env = {**os.environ, **tracing(collector), "JOB": json.dumps(told)}
    subprocess.run(["node", "test/traced-producer.js"], cwd=typescript, env=env, check=True, timeout=60)


def test_one_trace_leads_from_the_application_to_the_provider(
    typescript: Path, stack: Stack, collector: Collector
) -> None:
    stack.start_service("consumer", tracing(collector))
    stack.start_service("generator", tracing(collector))
    tryons = TryOns(stack)
    tryon = tryons.make()
    push_from_node(typescript, stack, collector, tryon)
    tryons.wait_settled(tryon)
    tryons.assert_completed(tryon, calls=None)
    (asked,) = collector.wait("POST /api/try-on")
    (forwarded,) = collector.wait("forward wearon:tasks:generation")
    (processed,) = collector.wait("process generation")
    assert (forwarded.service, processed.service) == ("wearon-consumer", "wearon-generator")
    assert (forwarded.parent, processed.parent) == (asked.id, forwarded.id)
    of_job = [span for span in collector.spans if span.trace == asked.trace and span is not asked]
    assert {span.attributes["request_id"] for span in of_job} == {tryon.job.request_id}
    assert processed.attributes["wearon.outcome"] == "completed"

    (call,) = [span for span in of_job if span.name.startswith("generate_content")]
    assert call.kind == "client"
    assert (
        call.attributes.items()
        >= {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-image-2.6-sunburst",
            "gen_ai.output.type": "image",
            "attempt": 1,
        }.items()
    )
    assert call.attributes["gen_ai.usage.output_tokens"] > 0
    requests = [span for span in of_job if "url.full" in span.attributes]
    (to_openai,) = [span for span in requests if span.attributes["url.full"].endswith("/images/edits")]
    assert to_openai.parent == call.id
    rpcs = {span.attributes["url.full"].rpartition("/rpc/")[2] for span in requests}
    assert rpcs >= {"generation_hold", "generation_claim", "generation_complete"}
    assert len([span for span in of_job if span.name == "download picture"]) == 2
    # What belongs to no job is no trace of its own.
    assert {span.trace for span in collector.spans} == {asked.trace}


def test_recovered_job_is_linked_to_the_attempt_that_died(stack: Stack, collector: Collector) -> None:
    stack.start_service("consumer", tracing(collector))
    (killed,) = start_generators(stack, 1, tracing(collector), timing=SOON)
    tryons = TryOns(stack)
    tryon = tryons.make()
    tryon.job.task["traceparent"] = CALLER
    stack.openai.set_latency(30)
    tryons.push(tryon)
    killed.process.wait_until(lambda: killed.events(event="provider_called"), what="provider called")
    (died,) = collector.wait("hold session")
    killed.kill()
    stack.openai.set_latency(0)
    # As if its lease had run out already.
    query = "update generation_ledger set lease_expires_at = now() where session_id = %s returning 1"
    assert stack.app.rows(query, tryon.job.session_id)
    start_generators(stack, 1, tracing(collector), timing=SOON)
    tryons.wait_settled(tryon)
    (recovered,) = collector.wait("process generation")
    assert recovered.links == [(died.trace, died.id)]
    assert {span.trace for span in collector.spans} == {TRACE}
    assert recovered.attributes["wearon.outcome"] == "completed"
    assert 2 in {span.attributes.get("attempt") for span in collector.spans}


def test_retried_job_is_linked_to_the_attempt_that_was_rate_limited(
    stack: Stack, collector: Collector
) -> None:
    stack.start_service("consumer", tracing(collector))
    stack.start_service("generator", tracing(collector))
    tryons = TryOns(stack)
    tryon = tryons.make(prompt="[[standin:rate_limit_once]]")
    tryon.job.task["traceparent"] = CALLER
    tryons.push(tryon)
    tryons.wait_settled(tryon)
    first, second = collector.wait("process generation", number=2)
    (limited, _) = collector.wait("hold session", number=2)
    assert (first.attributes["wearon.outcome"], second.attributes["wearon.outcome"]) == (
        "rate_limited",
        "completed",
    )
    assert (first.links, second.links) == ([], [(limited.trace, limited.id)])


def test_spans_hold_no_secret_and_no_signature(stack: Stack, collector: Collector) -> None:
    stack.start_service("consumer", tracing(collector))
    generator = stack.start_service("generator", tracing(collector))
    tryons = TryOns(stack)
    failing = [
        tryons.make(prompt="a secret wish [[standin:moderation]]"),
        tryons.make(urls=[f"http://127.0.0.1:1/photo-of-me.jpg?token={tryons.stack.service_role_key}"] * 2),
    ]
    fine = tryons.make(prompt="a secret wish")
    tryons.push(fine, *failing)
    (row,) = tryons.wait_settled(fine)
    tryons.wait_settled(*failing)
    generator.terminate()
    assert len(collector.wait("process generation", number=3)) == 3
    sent = b"".join(collector.received).decode(errors="replace")
    secrets = [stack.service_role_key, stack.openai_api_key, row["generated_image_url"], "a secret wish"]
    secrets += fine.job.task["image_urls"]
    assert not [secret for secret in secrets if secret in sent]
    for part in ("token=", "eyJ", "photo-of-me", "uploads/"):
        assert part not in sent.replace("token=***", "")


def test_request_of_the_sizing_api_continues_its_callers_trace(stack: Stack, collector: Collector) -> None:
    sizing = stack.start_service("sizing-api", tracing(collector))
    url = stack.app.sign(stack.app.upload("uploads/sizing.jpg", SAMPLE_PERSON))
    answer = httpx.post(
        f"{sizing.url}/check-photo?secret=of-a-caller",
        json={"image_url": url, "purpose": "try_on"},
        headers={"traceparent": CALLER, "X-Request-Id": "req_traced"},
        timeout=30,
    )
    assert answer.status_code == 200
    (served,) = collector.wait("POST /check-photo")
    collector.wait("check")
    assert (served.trace, served.parent, served.kind) == (TRACE, CALLER.split("-")[2], "server")
    steps = {span.name for span in collector.spans if is_below(served, span, collector)}
    assert steps >= {"download", "download picture", "decode", "detect", "check"}
    assert {span.attributes["request_id"] for span in collector.spans} == {"req_traced"}
    assert {span.trace for span in collector.spans} == {TRACE}  # /ready was asked too
    sent = b"".join(collector.received)
    assert b"of-a-caller" not in sent
    assert url.encode() not in sent


def is_below(top: Span, span: Span, collector: Collector) -> bool:
    by_id = {one.id: one for one in collector.spans}
    while span.parent in by_id:
        span = by_id[span.parent]
    return span is top


@pytest.mark.parametrize(
    "env",
    [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}],
    ids=["no collector", "disabled", "no exporter"],
)
def test_nothing_is_imported_for_traces_that_are_off(env: dict[str, str]) -> None:
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"} if env else {}
    names, _ = modules_after_start(without="opentelemetry.sdk", env={**env, **collector})
    assert not [name for name in names if name.startswith(("opentelemetry", "google", "requests"))]


def test_service_without_opentelemetry_says_so_and_works_on() -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    _, log = modules_after_start(without="opentelemetry", env=env)
    assert "traces_not_installed" in log
    assert "TRACING=1" in log


def modules_after_start(*, without: str, env: dict[str, str]) -> tuple[list[str], str]:
    """What is imported once consumer and generator have asked for their tracer, which is none; and the log.

    `without`: not installed, as in the images. (The Redis client imports the SDK wherever it is there.)
    """
    program = f"""
import sys
sys.modules["{without}"] = None
import wearon_consumer.__main__, wearon_generator.__main__
from wearon_service_kit.settings import ServiceSettings, load_settings
from wearon_service_kit.tracing import NO_TRACER, start_tracing
assert start_tracing("test", load_settings(ServiceSettings)) is NO_TRACER
print("modules", *[name for name, module in sys.modules.items() if module is not None])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    log, _, names = ran.stdout.rpartition("modules")
    return names.split(), log + ran.stderr
