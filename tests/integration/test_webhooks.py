"""Webhooks from the settling of a session to a receiver that is well, down, slow, rude or forbidden."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from uuid import UUID

import httpx
import pytest
from standardwebhooks import WebhookVerificationError
from tests.integration.tryons import TryOn, TryOns, start_generators

from wearon_contracts.webhooks import WebhookEvent
from wearon_generator.webhooks.signing import new_secret
from wearon_local.app.webhook_receiver import Manners, Received, WebhookReceiver
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # waits for deliveries of running services

TIMING = {
    "webhook_poll": 0.1,
    "webhook_idle_poll": 0.3,
    "webhook_timeout": 1.0,
    "webhook_lease": 5,
    "webhook_first_pause": 0.3,
    "webhook_longest_pause": 1.0,
    "webhook_tidy": 0.3,
    # So long that no test but the one of it sees it happen.
    "webhook_give_up": 600,
    "webhook_disable": 3600,
}
SECRET = new_secret()


@pytest.fixture(scope="module")
def shop() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def generators(stack: Stack, shop: WebhookReceiver) -> list[Service]:
    stack.start_service("consumer")
    env = {"WEBHOOK_TRUSTED_ORIGINS": shop.origin}
    return start_generators(stack, 2, env, timing=TIMING, internet={})


@pytest.fixture
def tryons(stack: Stack, generators: list[Service]) -> TryOns:
    return TryOns(stack)


@pytest.fixture
def endpoint(stack: Stack) -> Iterator[Callable[..., UUID]]:
    """Makes endpoints, global unless they are a store's; after the test there are none."""

    def make(url: str, *, store: UUID | None = None, secret: str = SECRET) -> UUID:
        (row,) = stack.app.rows(
            "insert into generation_webhook_endpoints (store_id, url, secret) values (%s, %s, %s)"
            " returning id",
            store,
            url,
            secret,
        )
        made = row["id"]
        assert isinstance(made, UUID)
        return made

    yield make
    with stack.postgres.connect() as database:
        database.execute("truncate generation_webhook_endpoints, generation_webhook_outbox")


def told(shop: WebhookReceiver, tryon: TryOn, path: str = "/hook") -> list[Received]:
    """What the receiver was told of one try-on, in the order in which it came."""
    return [each for each in shop.received(path) if each.event["data"]["session_id"] == tryon.id]


def types_told(shop: WebhookReceiver, tryon: TryOn, path: str = "/hook") -> set[str]:
    return {each.event["type"].removeprefix("generation.") for each in told(shop, tryon, path)}


def wait_told(
    shop: WebhookReceiver, tryon: TryOn, *types: str, timeout: float = 20, path: str = "/hook"
) -> None:
    wait_until(
        lambda: types_told(shop, tryon, path) >= set(types),
        timeout=timeout,
        what=f"the shop is told {types}, not only {types_told(shop, tryon, path)}",
    )


def outbox(stack: Stack, endpoint: UUID) -> list[dict[str, object]]:
    return list(
        stack.app.rows(
            "select * from generation_webhook_outbox where endpoint_id = %s order by created_at", endpoint
        )
    )


def test_a_completed_tryon_is_told_with_a_link_that_leads_to_its_picture(
    tryons: TryOns, shop: WebhookReceiver, endpoint: Callable[..., UUID]
) -> None:
    endpoint(f"{shop.origin}/hook")
    tryon = tryons.order()
    wait_told(shop, tryon, "processing", "completed")

    for received in told(shop, tryon):
        event = WebhookEvent.model_validate(received.verified(SECRET))
        assert str(event.data.user_id) == str(tryon.job.owner_id)
        assert received.headers["content-type"] == "application/json"
        with pytest.raises(WebhookVerificationError):
            received.verified(new_secret())
    (completed,) = [r.event for r in told(shop, tryon) if r.event["type"] == "generation.completed"]
    picture = httpx.get(completed["data"]["url"])
    assert picture.content == tryons.app.stored(tryon.job)


def test_a_failed_tryon_is_told_with_its_code_to_its_store(
    tryons: TryOns, shop: WebhookReceiver, endpoint: Callable[..., UUID]
) -> None:
    tryon = tryons.make("store", prompt="[[standin:moderation_blocked]]")
    endpoint(f"{shop.origin}/store", store=tryon.job.owner_id)
    endpoint(f"{shop.origin}/other", store=tryons.app.create_store())
    tryons.push(tryon)
    wait_told(shop, tryon, "processing", "failed", path="/store")

    (failed,) = [r for r in told(shop, tryon, "/store") if r.event["type"] == "generation.failed"]
    data = failed.verified(SECRET)["data"]
    assert (data["code"], data["given_back"], data["url"]) == ("moderation_blocked", True, None)
    assert (data["store_id"], data["request_id"]) == (str(tryon.job.owner_id), tryon.job.request_id)
    assert shop.received("/other") == []


def test_a_receiver_that_was_down_is_told_everything_once_it_is_back(
    tryons: TryOns, stack: Stack, shop: WebhookReceiver, endpoint: Callable[..., UUID]
) -> None:
    hook = endpoint(f"{shop.origin}/hook")
    shop.down()
    try:
        ordered = [tryons.order() for _ in range(6)]
        tryons.wait_settled(*ordered)
        wait_until(
            lambda: any(row["last_error"] for row in outbox(stack, hook)),
            timeout=10,
            what="a try that failed",
        )
    finally:
        shop.up()
    for tryon in ordered:
        wait_told(shop, tryon, "processing", "completed", timeout=30)
    wait_until(
        lambda: all(row["delivered_at"] for row in outbox(stack, hook)), timeout=10, what="all is delivered"
    )
    (row,) = stack.app.rows("select failing_since from generation_webhook_endpoints where id = %s", hook)
    assert row["failing_since"] is None


@pytest.mark.parametrize(
    ("manners", "error"),
    [
        (Manners(status=500), "status 500"),
        (Manners(status=302, headers={"Location": "/hook"}), "redirect"),
        (Manners(seconds=2.0), "no answer within 1 s"),
    ],
    ids=["500", "redirect", "slow"],
)
def test_an_event_is_sent_again_to_a_receiver_that_does_not_take_it(
    tryons: TryOns,
    stack: Stack,
    shop: WebhookReceiver,
    endpoint: Callable[..., UUID],
    manners: Manners,
    error: str,
) -> None:
    hook = endpoint(f"{shop.origin}/moody")
    shop.manners["/moody"] = manners
    before = len(shop.received("/hook"))
    try:
        tryon = tryons.order()
        wait_until(
            lambda: any(error in str(row["last_error"]) for row in outbox(stack, hook)),
            timeout=15,
            what=f"a try that failed with: {error}",
        )
        tryons.wait_settled(tryon)
    finally:
        del shop.manners["/moody"]
    wait_told(shop, tryon, "processing", "completed", path="/moody")
    by_id: dict[str, set[str]] = {}
    for received in told(shop, tryon, "/moody"):
        received.verified(SECRET)
        by_id.setdefault(received.id, set()).add(received.event["type"])
    assert all(len(types) == 1 for types in by_id.values()), "an id stands for one event"
    assert len(shop.received("/hook")) == before, "the redirect was followed"


def test_a_receiver_that_answers_410_is_disabled_and_shown_to_the_operator(
    tryons: TryOns,
    stack: Stack,
    generators: list[Service],
    shop: WebhookReceiver,
    endpoint: Callable[..., UUID],
) -> None:
    hook = endpoint(f"{shop.origin}/gone")
    shop.manners["/gone"] = Manners(status=410)
    tryons.wait_settled(tryons.order())

    def row() -> dict[str, object]:
        (found,) = stack.app.rows("select * from generation_webhook_endpoints where id = %s", hook)
        return dict(found)

    wait_until(lambda: row()["disabled_reason"] == "gone", timeout=10, what="the endpoint is disabled")
    tried = len(shop.received("/gone"))
    tryons.wait_settled(tryons.order())
    assert len(shop.received("/gone")) == tried
    wait_until(
        lambda: any(
            service.metrics()['wearon_generator_webhook_endpoints{state="disabled"}'] == 1
            for service in generators
        ),
        timeout=10,
        what="the metric tells of it",
    )


def test_an_endpoint_is_not_failing_while_our_storage_signs_no_links(
    tryons: TryOns, stack: Stack, shop: WebhookReceiver, endpoint: Callable[..., UUID]
) -> None:
    hook = endpoint(f"{shop.origin}/hook")
    tryon = tryons.order()
    wait_told(shop, tryon, "processing", "completed")
    wait_until(
        lambda: all(row["delivered_at"] for row in outbox(stack, hook)), timeout=10, what="all is delivered"
    )
    fault = stack.gateway.inject("status", path=f"/object/sign/.*{tryon.id}", status=503, times=None)
    try:
        with stack.postgres.connect() as database:
            database.execute(
                "select generation_webhooks_resend(id, null) from generation_webhook_outbox"
                " where type = 'generation.completed'"
            )
        wait_until(
            lambda: any("signed" in str(row["last_error"]) for row in outbox(stack, hook)),
            timeout=10,
            what="a try without a link",
        )
        (row,) = stack.app.rows("select failing_since from generation_webhook_endpoints where id = %s", hook)
        assert row["failing_since"] is None
    finally:
        stack.gateway.clear_faults(fault)
    wait_until(
        lambda: all(row["delivered_at"] for row in outbox(stack, hook)), timeout=10, what="all is delivered"
    )


def test_an_address_inside_is_never_connected_to(
    tryons: TryOns, stack: Stack, shop: WebhookReceiver, endpoint: Callable[..., UUID]
) -> None:
    """By name, by address, without TLS, through another port: refused before a byte is sent."""
    urls = {
        "https://localhost/inside": "not on the public internet",
        "https://127.0.0.1/inside": "not on the public internet",
        "https://169.254.169.254/latest": "not on the public internet",
        "http://localhost/inside": "https",
        f"http://localhost:{shop.port}/inside": "port",
        f"https://localhost:{shop.port}/inside": "port",
        "http://93.184.216.34/inside": "https",
    }
    hooks = {endpoint(url): why for url, why in urls.items()}
    tryons.wait_settled(tryons.order())

    for hook, why in hooks.items():
        wait_until(
            lambda hook=hook, why=why: any(why in str(row["last_error"]) for row in outbox(stack, hook)),
            timeout=10,
            what=f"refused: {why}",
        )
    assert shop.received("/inside") == []


def test_a_dead_endpoint_holds_up_no_other_and_no_job(
    tryons: TryOns, shop: WebhookReceiver, endpoint: Callable[..., UUID]
) -> None:
    for number in range(20):
        endpoint(f"{shop.origin}/dead?{number}")
        shop.manners[f"/dead?{number}"] = Manners(seconds=30)
    tryons.wait_settled(*[tryons.order() for _ in range(10)])  # 400 events that all end in a timeout

    endpoint(f"{shop.origin}/hook")
    began = time.monotonic()
    tryon = tryons.order()
    tryons.wait_settled(tryon, timeout=15)
    wait_told(shop, tryon, "processing", "completed", timeout=10)
    assert time.monotonic() - began < 15


def test_no_log_holds_the_link_or_the_secret(generators: list[Service]) -> None:
    logs = [generator.process.log() for generator in generators]
    assert any("webhook_delivered" in log for log in logs)
    for log in logs:
        assert "token=" not in log
        assert "whsec_" not in log
