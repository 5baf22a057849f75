"""What operators read: the story of one job across services, and no secret in any line."""

from __future__ import annotations

import json

import pytest
from tests.integration.leaks import assert_no_secret_in_logs
from tests.integration.tryons import PAYERS, Payer, TryOns, events_of

from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # waits for jobs of every kind of payer

STORY = {
    "task_accepted": "consumer",
    "job_held": "generator",
    "images_ready": "generator",
    "session_processing": "generator",
    "provider_called": "generator",
    "provider_answered": "generator",
    "result_stored": "generator",
    "session_completed": "generator",
}


@pytest.fixture(scope="module")
def tryons(stack: Stack) -> TryOns:
    """Everything there is to log is logged."""
    stack.start_service("consumer", {"LOG_LEVEL": "DEBUG"})
    stack.start_service("generator", {"LOG_LEVEL": "DEBUG"})
    return TryOns(stack)


@pytest.mark.parametrize("payer", PAYERS)
def test_lines_of_a_request_id_tell_the_story_of_the_job(tryons: TryOns, payer: Payer) -> None:
    consumer, generator = tryons.stack.services
    tryon, other = tryons.order(payer), tryons.order()
    tryons.wait_settled(tryon, other)
    generator.process.wait_until(
        lambda: generator.events(event="session_completed", session_id=tryon.id), timeout=5, what="the end"
    )
    events = [event for event in events_of(tryon, consumer, generator) if event["level"] != "debug"]
    assert [(event["event"], event["service"]) for event in events] == list(STORY.items())
    for event in events:
        assert event["session_id"] == tryon.id
        assert event["channel"] == tryon.job.channel
    begun = [event["attempt"] for event in events if "attempt" in event]
    assert begun == [1] * (len(events) - 3), "of all that follows the claim"


def test_every_line_is_an_object_and_none_holds_a_secret(tryons: TryOns) -> None:
    """Also where something goes wrong, and at the most talkative level."""
    stack = tryons.stack
    said = ["moderation_blocked", "500_once", "drop_once", "bad_base64", "401", "rate_limit_once=1"]
    ordered = [tryons.order(prompt=f"[[standin:{word}]]") for word in said]
    unreachable = tryons.make(
        urls=[tryons.inputs()[0], "http://user:secret-word@10.0.0.1/a?token=secret-word"]
    )
    stack.gateway.inject("drop", path="/rpc/generation_claim$", times=3)
    stack.gateway.inject("drop", path="/storage/v1/object/sign/", times=3)
    tryons.push(unreachable)
    tryons.app.push_raw(json.dumps({**tryons.make().job.task, "version": 9}).encode())
    tryons.wait_settled(*ordered, unreachable)
    for service in stack.services:
        lines = service.process.log().splitlines()
        assert lines
        for line in lines:
            assert isinstance(json.loads(line), dict)
        assert "secret-word" not in service.process.log()
    assert_no_secret_in_logs(stack)
    services = list(stack.services)
    stack.stop_services()
    for service in services:
        last = service.process.log().splitlines()[-1]
        assert json.loads(last)["event"] == f"{service.name.partition('-')[0]}_stopped"
