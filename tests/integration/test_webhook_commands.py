"""`wearonctl webhooks`: endpoints are added, tried, renewed, disabled; deliveries are shown and repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner, Result
from standardwebhooks import WebhookVerificationError
from tests.integration.tryons import TryOns, start_generators

from wearon_contracts.webhooks import WebhookEvent
from wearon_generator.operations.cli import main
from wearon_local.app.webhook_receiver import Manners, WebhookReceiver
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # waits for deliveries of running services

SETTINGS = ("REDIS_URL", "SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "STORAGE_BUCKET")
TIMING = {"webhook_poll": 0.1, "webhook_idle_poll": 0.3, "webhook_first_pause": 0.1, "webhook_give_up": 1}

Ctl = Callable[..., Result]
Ask = Callable[..., Any]


@pytest.fixture
def shop() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
def ctl(
    stack: Stack, shop: WebhookReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ctl]:
    monkeypatch.chdir(tmp_path)
    given = stack.env_for("generator")
    env = {name: given[name] for name in SETTINGS} | {"WEBHOOK_TRUSTED_ORIGINS": shop.origin}
    yield lambda *arguments: CliRunner(env=env).invoke(main, arguments)
    with stack.postgres.connect() as database:
        database.execute("truncate generation_webhook_endpoints, generation_webhook_outbox")


@pytest.fixture
def ask(ctl: Ctl) -> Ask:
    """What a command that must succeed answers as JSON."""

    def run(*arguments: str) -> Any:
        result = ctl("--json", "webhooks", *arguments)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run


def test_an_added_endpoint_is_listed_without_its_secret(ask: Ask, ctl: Ctl, shop: WebhookReceiver) -> None:
    store = uuid4()
    added = ask("add", f"{shop.origin}/hook", "--store", str(store))

    (listed,) = ask("list")
    assert (listed["id"], listed["url"]) == (added["id"], f"{shop.origin}/hook")
    assert (listed["store_id"], listed["disabled_at"]) == (str(store), None)
    assert added["secret"] not in ctl("webhooks", "list").stdout


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://shop.example/hook", "https://"),
        ("https://shop.example:8443/hook", "port"),
        ("https://user:password@shop.example/hook", "user name"),
        ("https://0x7f000001/hook", "public internet"),
        ("https://10.0.0.1/hook", "public internet"),
        ("https://[::1]/hook", "public internet"),
        ("ftp://shop.example/", "https://"),
        ("hook", "not valid"),
    ],
)
def test_an_address_that_nothing_could_be_sent_to_is_refused(ctl: Ctl, url: str, says: str) -> None:
    result = ctl("webhooks", "add", url)

    assert result.exit_code == 1
    assert says in result.stderr
    assert "password" not in result.stderr


def test_a_test_is_signed_and_what_came_of_it_is_told(ask: Ask, shop: WebhookReceiver) -> None:
    added = ask("add", f"{shop.origin}/hook")
    assert ask("test", added["id"]) == {"delivered": True, "status": 204, "error": None}
    (received,) = shop.received("/hook")
    event = WebhookEvent.model_validate(received.verified(added["secret"]))
    assert event.type == "webhook.test"


@pytest.mark.parametrize(
    ("down", "says"),
    [
        (False, {"delivered": False, "status": 500, "error": "status 500"}),
        (
            True,
            {
                "delivered": False,
                "status": None,
                "error": "the connection was refused: nothing listens there",
            },
        ),
    ],
    ids=["500", "down"],
)
def test_a_test_that_is_not_taken_ends_with_exit_code_1(
    ask: Ask, ctl: Ctl, shop: WebhookReceiver, down: bool, says: dict[str, Any]
) -> None:
    added = ask("add", f"{shop.origin}/hook")
    shop.manners["/hook"] = Manners(status=500)
    if down:
        shop.down()

    tried = ctl("--json", "webhooks", "test", added["id"])

    assert (tried.exit_code, json.loads(tried.stdout)) == (1, says)


def test_a_test_that_is_delivered_ends_the_failing_of_an_endpoint(
    stack: Stack, ask: Ask, shop: WebhookReceiver
) -> None:
    added = ask("add", f"{shop.origin}/hook")
    with stack.postgres.connect() as database:
        database.execute("update generation_webhook_endpoints set failing_since = now() - interval '2 days'")

    ask("test", added["id"])

    assert ask("list")[0]["failing_since"] is None


def test_the_secret_that_the_shop_uses_still_signs_after_a_second_rotation(
    ask: Ask, shop: WebhookReceiver
) -> None:
    added = ask("add", f"{shop.origin}/hook")
    unused = ask("rotate", added["id"])
    newest = ask("rotate", added["id"])

    ask("test", added["id"])

    (received,) = shop.received("/hook")
    received.verified(added["secret"])
    received.verified(newest["secret"])
    with pytest.raises(WebhookVerificationError):
        received.verified(unused["secret"])


def test_a_rotation_without_hours_ends_every_secret_before(ask: Ask, shop: WebhookReceiver) -> None:
    added = ask("add", f"{shop.origin}/hook")
    ask("rotate", added["id"])
    newest = ask("rotate", added["id"], "--hours", "0")

    ask("test", added["id"])

    (received,) = shop.received("/hook")
    received.verified(newest["secret"])
    assert len(received.headers["webhook-signature"].split()) == 1


def test_an_address_is_added_once_for_the_same_sessions(ask: Ask, ctl: Ctl, shop: WebhookReceiver) -> None:
    url, store = f"{shop.origin}/hook", str(uuid4())
    first, of_store = ask("add", url), ask("add", url, "--store", store)

    for added, options in ((first, []), (of_store, ["--store", store])):
        refused = ctl("webhooks", "add", url, *options)
        assert refused.exit_code == 1
        assert f"endpoint {added['id']} has this address" in refused.stderr
    assert len(ask("list")) == 2

    ask("disable", first["id"])
    ask("add", url)


def test_a_disabled_endpoint_can_be_enabled_again(ask: Ask, shop: WebhookReceiver) -> None:
    added = ask("add", f"{shop.origin}/hook")

    assert ask("disable", added["id"])["disabled_reason"] == "operator"
    assert ask("list")[0]["disabled_at"] is not None
    assert ask("enable", added["id"])["disabled_at"] is None


def test_nothing_is_sent_again_to_a_disabled_endpoint_and_the_sentence_names_enable(
    stack: Stack, ask: Ask, ctl: Ctl, shop: WebhookReceiver
) -> None:
    added = ask("add", f"{shop.origin}/hook")
    with stack.postgres.connect() as database:
        row = database.execute(
            "insert into generation_webhook_outbox"
            " (endpoint_id, channel, session_id, type, data, occurred_at, due_at, given_up_at)"
            " values (%s, 'b2c', gen_random_uuid(), 'generation.failed', '{}', now(), null, now())"
            " returning id",
            [added["id"]],
        ).fetchone()
    assert row is not None
    ask("disable", added["id"])

    for arguments in ([str(row[0])], ["--endpoint", added["id"]]):
        refused = ctl("webhooks", "resend", *arguments)
        assert refused.exit_code == 1
        assert f"wearonctl webhooks enable {added['id']}" in refused.stderr
    ask("enable", added["id"])
    assert ask("resend", str(row[0])) == {"resent": 1}


def test_more_events_than_one_answer_holds_are_not_asked_for(ctl: Ctl) -> None:
    assert ctl("webhooks", "deliveries", "--limit", "1000").exit_code == 0
    refused = ctl("webhooks", "deliveries", "--limit", "1001")
    assert refused.exit_code == 2
    assert "1<=x<=1000" in refused.stderr


@pytest.mark.parametrize("command", ["test", "rotate", "disable", "enable", "resend"])
def test_an_id_that_nothing_has_is_a_sentence(ctl: Ctl, command: str) -> None:
    result = ctl("webhooks", command, str(uuid4()))

    assert result.exit_code == 1
    assert result.stderr.startswith("wearonctl: no")


@pytest.fixture
def generator(stack: Stack, shop: WebhookReceiver) -> Iterator[Service]:
    consumer = stack.start_service("consumer")
    (started,) = start_generators(
        stack, 1, {"WEBHOOK_TRUSTED_ORIGINS": shop.origin}, timing=TIMING, internet={}
    )
    yield started
    for service in (started, consumer):
        service.terminate()


def test_what_was_given_up_is_shown_and_sent_again_with_both_secrets(
    stack: Stack, ask: Ask, shop: WebhookReceiver, generator: Service
) -> None:
    added = ask("add", f"{shop.origin}/hook")
    shop.manners["/hook"] = Manners(status=500)
    tryons = TryOns(stack)
    tryon = tryons.order()
    tryons.wait_settled(tryon)

    def shown() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask("deliveries", "--session", tryon.id)
        return found

    wait_until(
        lambda: [bool(each["given_up_at"]) for each in shown()] == [True, True],
        timeout=20,
        what="both events are given up",
    )
    assert {each["last_error"] for each in shown()} == {"status 500"}

    rotated = ask("rotate", added["id"], "--hours", "1")
    before = len(shop.received())
    del shop.manners["/hook"]
    assert ask("resend", "--endpoint", added["id"]) == {"resent": 2}
    wait_until(
        lambda: all(each["delivered_at"] for each in shown()), timeout=10, what="both events are delivered"
    )

    resent = shop.received()[before:]
    assert {each.id for each in resent} == {each.id for each in shop.received()[:before]}
    for each in resent:
        each.verified(added["secret"])
        each.verified(rotated["secret"])
        assert len(each.headers["webhook-signature"].split()) == 2
    with pytest.raises(WebhookVerificationError):
        shop.received()[0].verified(rotated["secret"])

    one = UUID(resent[0].id)
    assert ask("resend", str(one)) == {"resent": 1}
    wait_until(lambda: len(shop.received()) == before + 3, timeout=10, what="one event comes once more")
