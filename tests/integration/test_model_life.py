"""The day on which the model is switched off: no backlog is burnt, and it completes after the change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Final

import httpx
import pytest
from tests.integration.tryons import Samples, TryOn, TryOns

from wearon_generator.breaker import TRIPS_AFTER
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow

OLD: Final = "gpt-image-1.5"  # its end is what this is about
NEW: Final = "gpt-image-2.6-sunburst"
THE_DAY: Final = date(2026, 12, 1)
THE_DAY_BEFORE: Final = date(2026, 11, 30)
BACKLOG: Final = 50


@pytest.fixture(scope="module", autouse=True)
def consumer(stack: Stack) -> Service:
    return stack.start_service("consumer")


@pytest.fixture
def tryons(stack: Stack) -> Iterator[TryOns]:
    stack.reset()
    yield TryOns(stack)
    for service in stack.services[1:]:
        service.terminate(timeout=30)
    del stack.services[1:]


def start(stack: Stack, model: str, *, wait: bool = True, **env: str) -> Service:
    return stack.start_service("generator", {"OPENAI_MODEL": model, **env}, wait=wait)


def model_check(generator: Service) -> dict[str, object]:
    try:
        check: dict[str, object] = generator.readiness()["checks"]["provider_model"]
    except httpx.HTTPError:
        return {"ok": True, "detail": ""}
    return check


def ordered(tryons: TryOns) -> list[TryOn]:
    backlog = [tryons.make() for _ in range(BACKLOG)]
    tryons.push(*backlog)
    return backlog


def outcomes(tryons: TryOns, backlog: list[TryOn]) -> Counter[str]:
    return Counter(str(tryons.row(tryon)["status"]) for tryon in backlog)


def test_model_that_is_gone_is_named_and_no_job_is_lost(stack: Stack, tryons: TryOns) -> None:
    stack.openai.set_today(THE_DAY)
    backlog = ordered(tryons)
    generator = start(stack, OLD, wait=False)
    generator.process.wait_until(
        lambda: not model_check(generator)["ok"], what="not ready because of the model"
    )
    line = f"OpenAI does not serve the model {OLD}: set OPENAI_MODEL={NEW}"
    assert model_check(generator)["detail"] == line
    (said,) = generator.events(event="generator_not_ready")
    assert said["reason"] == line
    assert outcomes(tryons, backlog) == {"queued": BACKLOG}
    assert not stack.openai.calls()
    assert generator.terminate(timeout=30) == 0

    start(stack, NEW)
    tryons.wait_settled(*backlog, timeout=120)
    assert outcomes(tryons, backlog) == {"completed": BACKLOG}


def test_crossing_the_day_fails_three_jobs_at_most_and_the_rest_completes(
    stack: Stack, tryons: TryOns
) -> None:
    stack.openai.set_today(THE_DAY_BEFORE)
    generator = start(stack, OLD)
    assert Samples(generator.metrics()).by("model_days_left", "model")[OLD] < 60
    backlog = ordered(tryons)
    wait_until(lambda: outcomes(tryons, backlog)["completed"] >= 5, timeout=60, what="five pictures")
    stack.openai.set_today(THE_DAY)
    wait_until(lambda: not model_check(generator)["ok"], timeout=30, what="not ready because of the model")
    asked = len(stack.openai.calls())
    assert generator.terminate(timeout=30) == 0
    assert outcomes(tryons, backlog)["failed"] <= TRIPS_AFTER
    assert len(stack.openai.calls()) == asked

    start(stack, NEW)
    tryons.wait_settled(*backlog, timeout=120)
    ended = outcomes(tryons, backlog)
    assert ended["failed"] <= TRIPS_AFTER
    assert ended["completed"] == BACKLOG - ended["failed"]


def test_crossing_the_day_with_a_fallback_fails_nothing(stack: Stack, tryons: TryOns) -> None:
    stack.openai.set_today(THE_DAY_BEFORE)
    generator = start(stack, OLD, OPENAI_FALLBACK_MODEL=NEW)
    backlog = ordered(tryons)
    wait_until(lambda: outcomes(tryons, backlog)["completed"] >= 5, timeout=60, what="five pictures")
    stack.openai.set_today(THE_DAY)
    tryons.wait_settled(*backlog, timeout=120)
    assert outcomes(tryons, backlog) == {"completed": BACKLOG}
    models = Counter(tryons.usage(tryon)[0]["model"] for tryon in backlog)
    assert set(models) == {OLD, NEW}
    assert generator.ready()
    assert NEW in str(model_check(generator)["detail"])
    wait_until(lambda: Samples(generator.metrics()).total("fallback_in_use") == 1, timeout=10, what="shown")


@pytest.mark.parametrize("answer", [404, 405, 501, 403])
def test_endpoint_without_the_call_for_models_blocks_nothing(
    stack: Stack, tryons: TryOns, answer: int
) -> None:
    stack.openai.inject(
        "status", path="/v1/models/", times=None, status=answer, body="<html>no such page</html>"
    )
    generator = start(stack, NEW)
    tryon = tryons.order()
    tryons.wait_settled(tryon)
    tryons.assert_completed(tryon)
    if answer != 501:  # a server error may pass
        assert len(generator.events(event="model_not_told")) == 1


def test_refused_key_is_told_at_start_and_jobs_begin_once_it_is_taken(stack: Stack, tryons: TryOns) -> None:
    fault = stack.openai.inject(
        "status",
        path="/v1/",
        times=None,
        status=401,
        body={"error": {"message": "no", "type": "invalid_request_error", "code": "invalid_api_key"}},
    )
    tryon = tryons.order()
    generator = start(stack, NEW, wait=False)
    generator.process.wait_until(
        lambda: not model_check(generator)["ok"], what="not ready because of the key"
    )
    assert "OPENAI_API_KEY" in str(model_check(generator)["detail"])
    stack.openai.clear_faults(fault)
    tryons.wait_settled(tryon, timeout=60)
    tryons.assert_completed(tryon)
