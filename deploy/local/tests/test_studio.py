"""The studio page's backend; what a person sees of it is tested in deploy/local/browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from wearon_contracts.queues import CELERY_QUEUE, DEAD_LETTER_LIST, TASK_LIST
from wearon_local.paths import LOCAL_DIR, ROOT
from wearon_local.processes import free_port, wait_until
from wearon_local.stack import Stack
from wearon_local.studio.server import CREDITS, SAMPLES
from wearon_local.studio.sizing import SizingOverlayRenderer
from wearon_local.studio.stack import serving_studio
from wearon_local.studio.try_ons import Timeline

SIZING_FIXTURES = ROOT / "services" / "sizing-api" / "tests" / "fixtures"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def row(status: str, now: float, **known: Any) -> dict[str, Any]:
    names = (
        "state",
        "holder",
        "held_at",
        "claimed_at",
        "answered_at",
        "due_at",
        "settled_at",
        "completed_at",
    )
    unknown = dict.fromkeys((*names, "lease_expires_at", "recovering"))
    return {**unknown, "attempt": 0, "status": status, "created_at": NOON, "now": at(now), **known}


def told(timeline: Timeline, latest: dict[str, Any]) -> list[tuple[str, float]]:
    return [(step.name, step.seconds) for step in timeline.look(latest)]


def test_a_finished_try_on_looked_at_once_has_all_its_steps() -> None:
    seen = row(
        "completed", 90, state="settled", attempt=1, held_at=at(1), claimed_at=at(3), answered_at=at(9),
        settled_at=at(10),
    )  # fmt: skip
    assert told(Timeline(), seen) == [
        ("queued", 1), ("held", 2), ("working", 6), ("storing", 1), ("completed", 0),
    ]  # fmt: skip


def test_an_open_step_goes_on() -> None:
    timeline = Timeline()
    assert told(timeline, row("queued", 2)) == [("queued", 2)]
    assert told(timeline, row("queued", 5)) == [("queued", 5)]
    assert timeline.look(row("queued", 5))[-1].ended_at is None


def test_a_retry_is_a_step_between_two_attempts() -> None:
    timeline = Timeline()
    held = {"held_at": at(1), "attempt": 1}
    told(timeline, row("processing", 2, state="working", claimed_at=at(1), **held))
    told(timeline, row("queued", 4, state="retrying", claimed_at=at(1), due_at=at(9), **held))
    told(timeline, row("queued", 6, state="retrying", claimed_at=at(1), due_at=at(9), **held))
    again = row("processing", 12, state="working", claimed_at=at(9), **{**held, "attempt": 2})
    assert told(timeline, again) == [
        ("queued", 1), ("held", 0), ("working", 3), ("retrying", 5), ("working", 3),
    ]  # fmt: skip


def test_a_lost_worker_shows_from_the_end_of_its_lease_until_another_has_the_job() -> None:
    timeline = Timeline()
    begun = {"held_at": at(1), "claimed_at": at(2), "attempt": 1, "lease_expires_at": at(30)}
    told(timeline, row("processing", 20, state="working", holder="a/1", **begun))
    told(timeline, row("processing", 31, state="working", holder="a/1", **begun))
    told(
        timeline,
        row("processing", 40, state="waiting", holder="b/1", **{**begun, "lease_expires_at": at(70)}),
    )
    seen = row(
        "processing", 45, state="working", holder="b/1",
        **{**begun, "claimed_at": at(41), "attempt": 2, "lease_expires_at": at(75)},
    )  # fmt: skip
    assert told(timeline, seen) == [
        ("queued", 1), ("held", 1), ("working", 29), ("lost", 9), ("held", 1), ("working", 4),
    ]  # fmt: skip


@pytest.fixture
def studio(stack: Stack) -> Iterator[httpx.Client]:
    with serving_studio(stack, free_port()) as url:

        def answers() -> bool:
            try:
                return httpx.get(f"{url}api/samples", trust_env=False).is_success
            except httpx.HTTPError:
                return False

        wait_until(answers, timeout=10, what="studio answers")
        with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
            yield client


def samples(person: str = "person-1", garment: str = "t-shirt", **more: str) -> dict[str, tuple[None, str]]:
    fields = {"person_sample": person, "garment_sample": garment, **more}
    return {name: (None, value) for name, value in fields.items()}


def test_a_try_on_takes_a_credit_and_is_pushed_as_the_app_pushes_it(
    stack: Stack, studio: httpx.Client
) -> None:
    answer = studio.post("/api/try-ons", files=samples(behaviour="blocked"))
    assert answer.status_code == 201
    view = answer.json()
    assert view["status"] == "queued" and view["balance"] == CREDITS - 1
    assert [step["name"] for step in view["steps"]] == ["queued"]
    with stack.redis.client() as client:
        assert client.llen(TASK_LIST) == 1
    assert studio.get(f"/api/try-ons/{view['id']}").json()["id"] == view["id"]
    assert studio.get("/api/queue").json()["depths"]["tasks"] == 1


def test_a_waiting_try_on_is_cancelled_and_its_credit_is_back(studio: httpx.Client) -> None:
    started = studio.post("/api/try-ons", files=samples()).json()
    view = studio.post(f"/api/try-ons/{started['id']}/cancel").json()
    assert (view["status"], view["error"]["code"], view["given_back"]) == ("failed", "cancelled", True)
    assert view["balance"] == CREDITS
    assert studio.post(f"/api/try-ons/{started['id']}/cancel").json()["balance"] == CREDITS


def test_a_try_on_that_is_being_made_is_not_cancelled(stack: Stack, studio: httpx.Client) -> None:
    started = studio.post("/api/try-ons", files=samples()).json()
    with stack.redis.client() as client:
        [task] = client.lrange(TASK_LIST, 0, -1)
    stack.app.rows("select generation_hold(%s, 'a worker', 30)", task)
    stack.app.rows("select generation_claim('b2c', %s, 'a worker', 30, 300, 5)", started["id"])
    refused = studio.post(f"/api/try-ons/{started['id']}/cancel")
    assert refused.status_code == 409 and "no longer" in refused.json()["sentence"]


def test_without_a_credit_nothing_is_pushed(stack: Stack, studio: httpx.Client) -> None:
    for _ in range(CREDITS):
        assert studio.post("/api/try-ons", files=samples()).status_code == 201
    refused = studio.post("/api/try-ons", files=samples())
    assert refused.status_code == 402 and "credit" in refused.json()["sentence"]
    with stack.redis.client() as client:
        assert client.llen(TASK_LIST) == CREDITS
    assert studio.post("/api/account/credits").json() == {"balance": 10}


@pytest.mark.parametrize(
    ("fields", "status"),
    [(samples(person="nobody"), 422), (samples(behaviour="[[standin:hang]]"), 422)],
)
def test_what_the_page_does_not_offer_is_refused(
    studio: httpx.Client, fields: dict[str, tuple[None, str]], status: int
) -> None:
    answer = studio.post("/api/try-ons", files=fields)
    assert answer.status_code == status
    assert answer.json()["sentence"]
    assert studio.get("/api/account").json() == {"balance": CREDITS}


def test_another_sites_page_is_refused(stack: Stack, studio: httpx.Client) -> None:
    for headers in (
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"host": "elsewhere.example"},
    ):
        answer = studio.post("/api/queue/invalid", headers=headers)
        assert answer.status_code in (400, 403), headers
    with stack.redis.client() as client:
        assert client.llen(TASK_LIST) == 0
    assert studio.post("/api/queue/invalid", headers={"origin": str(studio.base_url).rstrip("/")}).is_success


def test_studio_answers_404_for_unknown_paths_and_sessions(studio: httpx.Client) -> None:
    assert studio.post(f"/api/try-ons/{uuid4()}/cancel").status_code == 404
    for path in (
        f"/api/try-ons/{uuid4()}",
        f"/api/try-ons/{uuid4()}/picture",
        "/api/samples/none",
        "/none.js",
    ):
        assert studio.get(path).status_code == 404, path
    assert studio.post("/api/workers/generator-1/kill").status_code == 404
    assert studio.post("/api/workers/consumer-1/kill").status_code == 404


def test_every_file_of_the_page_may_load_nothing_from_elsewhere(studio: httpx.Client) -> None:
    answer = studio.get("/")
    assert "development tool" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    assert all(studio.get(f"/api/samples/{sample.name}").content[:2] == b"\xff\xd8" for sample in SAMPLES)


def test_sizing_without_a_sizing_api_says_so(studio: httpx.Client) -> None:
    fields = {"photo_sample": (None, "person-1"), "height_cm": (None, "161.3")}
    answer = studio.post("/api/sizing", files=fields).json()
    assert answer["outcome"] == "refused" and answer["sentence"] == "No sizing API runs in this stack."
    without_height = studio.post("/api/sizing", files={"photo_sample": (None, "person-1")})
    assert without_height.status_code == 422 and "height" in without_height.json()["sentence"]


def test_what_is_measured_in_a_photo_is_drawn_where_the_body_is() -> None:
    photo = (SIZING_FIXTURES / "b150_typical.jpg").read_bytes()
    with closing(SizingOverlayRenderer(LOCAL_DIR / "models" / "pose_landmarker_full.task")) as renderer:
        drawing, refused = renderer.draw(photo, 172.5), renderer.draw(photo, None)
    assert drawing is not None
    assert [line["name"] for line in drawing["lines"]] == ["chest", "waist", "hip"]
    across = [point[0] for outline in drawing["outline"] for point in outline]
    for line in drawing["lines"]:
        (left, _), (right, _) = line["ends"]
        assert min(across) < left < right < max(across)
        assert 20 < line["width_cm"] < 50
    assert refused is not None
    assert refused["lines"] == []


def test_a_photo_check_without_a_sizing_api_stops_nobody(studio: httpx.Client) -> None:
    answer = studio.post("/api/check-photo", files={"person_sample": (None, "person-1")}).json()
    assert answer == {"usable": True, "sentence": "No sizing API runs in this stack."}


@pytest.mark.parametrize(
    "chart", ["{", '{"rows": []}', '{"rows": [{"label": "M", "chest_cm": {"lower": null}}']
)
def test_a_size_chart_that_cannot_be_read_is_refused(studio: httpx.Client, chart: str) -> None:
    fields = {"photo_sample": "person-1", "height_cm": "161.3", "size_chart": chart}
    answer = studio.post("/api/sizing", files={name: (None, value) for name, value in fields.items()})
    assert answer.status_code == 422 and "size chart" in answer.json()["sentence"]


def test_the_page_reads_nothing_that_the_answers_do_not_hold(studio: httpx.Client) -> None:
    answers = {
        "queue.js": studio.get("/api/queue").json(),
        "try-on.js": studio.post("/api/try-ons", files=samples()).json(),
    }
    for script, answer in answers.items():
        read = set(re.findall(r"\bview\.(\w+)", studio.get(f"/{script}").text))
        assert read and read <= answer.keys(), script


def test_the_queue_shows_the_consumer_and_what_it_set_aside(stack: Stack, studio: httpx.Client) -> None:
    consumer = stack.start_service("consumer")
    try:
        studio.post("/api/queue/invalid").raise_for_status()
        with stack.redis.client() as client:
            wait_until(lambda: client.llen(DEAD_LETTER_LIST), timeout=20, what="dead letter")
            wait_until(lambda: client.llen(CELERY_QUEUE), timeout=20, what="rejection")
        view = studio.get("/api/queue").json()
        assert view["depths"]["dead"] == 1 and view["depths"]["celery"] == 1
        [letter] = view["dead_letters"]
        assert letter["reason"] == "invalid_task" and "image_urls" in letter["detail"]
        assert {"name": consumer.name, "state": "ready"}.items() <= view["workers"][0].items()
        assert [event["text"] for event in view["events"]] == ["A task that nobody can read was sent."]
    finally:
        consumer.terminate()
