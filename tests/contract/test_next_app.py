"""The README's route handlers in an application of Next.js, on the local stack: what they do, for whom."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from standardwebhooks import Webhook
from tests.contract import next_application

from wearon_local.app.next_app import SAMPLE_PERSON, Job
from wearon_local.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOT_THERE: Final = "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11"
SESSION_ROUTES: Final = [("GET", ""), ("GET", "/events"), ("POST", "/cancel")]
"""Below /api/try-on/{id}."""
OTHER_ROUTES: Final = ["/api/try-on", "/api/size", "/api/check-photo", "/api/wearon"]


@pytest.fixture(scope="module")
def built(typescript: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `next build` prints."""
    return next_application.build(typescript, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def shop(built: str, stack: Stack) -> Iterator[httpx.Client]:
    """The application and all services."""
    stack.start_service("consumer")
    stack.start_service("generator")
    sizing = stack.start_service("sizing-api")
    with next_application.serve(stack, sizing.url) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def as_user(stack: Stack, user: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.app.user_token(user)}"}


@pytest.fixture(scope="module")
def job(stack: Stack) -> Job:
    """A user's try-on that is paid for and not enqueued yet."""
    return stack.app.b2c_job(stack.app.create_user())


@pytest.fixture(scope="module")
def owner(stack: Stack, job: Job) -> dict[str, str]:
    return as_user(stack, job.owner_id)


def body_of(job: Job) -> dict[str, Any]:
    return {"sessionId": str(job.session_id), "imageUrls": job.task["image_urls"], "prompt": "a coat"}


def test_application_is_built_without_any_environment(built: str) -> None:
    routes = ["/api/try-on", "/api/try-on/[id]", "/api/try-on/[id]/events", "/api/try-on/[id]/cancel"]
    for route in (*routes, *OTHER_ROUTES):
        assert re.search(rf"ƒ {re.escape(route)}$", built, re.MULTILINE), built


@pytest.mark.parametrize(("method", "path"), SESSION_ROUTES)
def test_route_of_a_session_refuses_nobody_and_strangers(
    shop: httpx.Client, stack: Stack, job: Job, owner: dict[str, str], method: str, path: str
) -> None:
    url = f"/api/try-on/{job.session_id}{path}"
    assert shop.request(method, url).status_code == 401
    assert shop.request(method, url, headers={"Authorization": "Bearer made-up"}).status_code == 401
    stranger = as_user(stack, stack.app.create_user())
    refused = shop.request(method, url, headers=stranger)
    unknown = shop.request(method, f"/api/try-on/{NOT_THERE}{path}", headers=owner)
    # A session of somebody else's looks like one that does not exist.
    assert (refused.status_code, refused.json()) == (404, unknown.json())
    assert unknown.status_code == 404


def test_stranger_cannot_enqueue_anothers_session(shop: httpx.Client, stack: Stack, job: Job) -> None:
    assert shop.post("/api/try-on", json=body_of(job)).status_code == 401
    stranger = as_user(stack, stack.app.create_user())
    assert shop.post("/api/try-on", json=body_of(job), headers=stranger).status_code == 404
    assert stack.app.session(job)["status"] == "queued"


@pytest.mark.parametrize("path", OTHER_ROUTES)
def test_nobody_is_refused_by_every_other_route(shop: httpx.Client, path: str) -> None:
    assert shop.post(path, json={"imageUrl": "https://host.example/me.jpg"}).status_code == 401


def test_try_on_is_enqueued_followed_and_shown(
    shop: httpx.Client, stack: Stack, job: Job, owner: dict[str, str]
) -> None:
    url = f"/api/try-on/{job.session_id}"
    assert shop.get(url, headers=owner).json()["status"] == "queued"
    with shop.stream("GET", f"{url}/events", headers=owner) as events:
        assert events.headers["content-type"] == "text/event-stream"
        lines = events.iter_lines()
        seen = [status_in(next(line for line in lines if line.startswith("data:")))]
        enqueued = shop.post("/api/try-on", json=body_of(job), headers=owner)
        assert enqueued.status_code == 202
        for line in lines:
            if line == "event: end":
                break
            if line.startswith("data:"):
                seen.append(status_in(line))
    assert (seen[0], seen[-1]) == ("queued", "completed")
    assert shop.post("/api/try-on", json=body_of(job), headers=owner).status_code == 409
    assert shop.post(f"{url}/cancel", headers=owner).status_code == 409
    shown = shop.get(url, headers=owner).json()
    assert shown["status"] == "completed"
    assert httpx.get(shown["url"]).content == stack.app.stored(job)


def status_in(line: str) -> str:
    return str(json.loads(line.removeprefix("data:"))["status"])


def test_try_on_is_cancelled_and_the_credit_given_back(shop: httpx.Client, stack: Stack) -> None:
    user = stack.app.create_user(credits=5)
    waiting = stack.app.b2c_job(user)
    url = f"/api/try-on/{waiting.session_id}"
    assert shop.post(f"{url}/cancel", headers=as_user(stack, user)).status_code == 200
    assert stack.app.balance(user) == 5
    shown = shop.get(url, headers=as_user(stack, user)).json()
    assert (shown["status"], shown["code"], shown["givenBack"]) == ("failed", "cancelled", True)


def test_photo_is_checked_and_sized(shop: httpx.Client, stack: Stack, owner: dict[str, str]) -> None:
    photo = stack.app.sign(stack.app.upload("uploads/next-app.jpg", SAMPLE_PERSON))
    checked = shop.post("/api/check-photo", json={"imageUrl": photo}, headers=owner)
    assert (checked.status_code, set(checked.json())) == (200, {"usable", "sentence"})
    sized = shop.post("/api/size", json={"imageUrl": photo, "heightCm": 172}, headers=owner)
    # The sample is a drawing: what it shows is for the sizing API to say, not for this test.
    answer = sized.json()
    assert "recommended_size" in (answer if sized.status_code == 200 else answer["fallback"])


def test_webhook_is_taken_with_its_signature_alone(shop: httpx.Client) -> None:
    sent = datetime.now(UTC)
    data = {"session_id": NOT_THERE, "url": None}
    body = json.dumps({"type": "generation.completed", "timestamp": sent.isoformat(), "data": data})
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(sent.timestamp())),
        "webhook-signature": Webhook(next_application.WEBHOOK_SECRET).sign("msg_1", sent, body),
    }
    assert shop.post("/api/wearon", content=body, headers=headers).status_code == 204
    assert shop.post("/api/wearon", content=body.replace("null", "1"), headers=headers).status_code == 401
