"""The application's cron gives credits back and overwrites rows whenever it likes."""

from __future__ import annotations

import pytest
from tests.chaos.scene import Scene

pytestmark = pytest.mark.slow  # kills, stops or cuts off running services


def test_what_the_cron_gave_back_is_neither_delivered_nor_given_back_again(patient_scene: Scene) -> None:
    scene = patient_scene
    _, *sleepers = scene.start(generators=3, concurrency=1)
    completing = scene.push_to("complete:asked", "stop")
    failing = scene.push_to("fail:asked", "stop", "moderation_blocked")
    waiting = scene.push_to("slot:answered", "stop")
    jobs = (completing, failing, waiting)
    for sleeper in sleepers:
        scene.world.wait_stopped(sleeper)
    for job in jobs:
        scene.refund_as_cron(job)
    scene.fail_as_cron(waiting)
    for sleeper in sleepers:
        scene.world.resume(sleeper)
    scene.wait_settled()
    scene.fail_as_cron(completing)
    # What it does to a session that is completed already cannot be prevented, only reported.
    done = scene.push()
    scene.wait_settled()
    scene.refund_as_cron(done)
    scene.fail_as_cron(done)

    evidence = scene.end()
    assert {scene.status(job) for job in jobs} == {"failed"}
    for job in jobs:
        assert [row["type"] for row in evidence.money[job.session or ""]] == ["generation", "refund"]
        assert evidence.ledger[job.session or ""]["refund_state"] == "already_refunded"
    assert not evidence.calls[waiting.session or ""]
    (answer,) = scene.stack.app.rows("select generation_flagged(1000) as flagged")
    reasons = {flagged["session_id"]: flagged["reason"] for flagged in answer["flagged"]}
    assert reasons[done.session] == "completed_and_refunded_by_cron"
