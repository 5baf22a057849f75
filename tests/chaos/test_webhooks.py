"""The replica that sends webhooks is killed with deliveries in its hands, while the receiver is away."""

from __future__ import annotations

import pytest
from tests.chaos.scene import Scene

from wearon_local.app.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.slow  # kills running services


@pytest.mark.parametrize(
    "step", ["webhooks_claim:answered", "webhooks_report:asked", "webhooks_report:answered"]
)
def test_every_event_arrives_though_its_sender_is_killed(scene: Scene, step: str) -> None:
    with WebhookReceiver() as receiver:
        scene.world.add_webhook(receiver)
        receiver.down()
        scene.start(generators=2)
        jobs = [scene.push("moderation_blocked" if number % 2 else "") for number in range(6)]
        scene.wait_settled(*jobs)
        scene.world.order("generator", step, "kill")
        receiver.up()
        scene.wait_for_a_death()
        scene.world.wait_webhooks_delivered(30)
        scene.end(receiver)
