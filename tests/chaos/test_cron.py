"""The application's cron gives credits back and overwrites rows whenever it likes."""

from __future__ import annotations

from tests.chaos.scene import Scene


def test_what_the_cron_gave_back_is_neither_delivered_nor_given_back_again(scene: Scene) -> None:
    _, *sleepers = scene.start(generators=3, concurrency=1)
    completing = scene.push_to("complete:asked", "stop")
    failing = scene.push_to("fail:asked", "stop", "moderation_blocked")
    waiting = scene.push_to("slot:answered", "stop")
    for sleeper in sleepers:
        scene.world.wait_stopped(sleeper)
    for job in (completing, failing, waiting):
        scene.refund_as_cron(job)
    scene.fail_as_cron(waiting)
    for sleeper in sleepers:
        scene.world.resume(sleeper)
    scene.wait_settled()
    scene.fail_as_cron(completing)
    evidence = scene.end()
    assert {scene.status(job) for job in (completing, failing, waiting)} == {"failed"}
    for job in (completing, failing, waiting):
        refunds = [row for row in evidence.money[job.session or ""] if row["type"] == "refund"]
        assert len(refunds) == 1
        assert evidence.ledger[job.session or ""]["refund_state"] == "already_refunded"
    assert not evidence.calls[waiting.session or ""]


def test_what_the_cron_does_afterwards_is_reported(scene: Scene) -> None:
    scene.start(generators=1)
    done = scene.push()
    scene.wait_settled()
    scene.refund_as_cron(done)
    scene.fail_as_cron(done)
    scene.end()
    flagged = scene.stack.app.rows("select generation_flagged(100) as flagged")[0]["flagged"]
    assert [(f["session_id"], f["reason"]) for f in flagged if f["session_id"] == done.session] == [
        (done.session, "completed_and_refunded_by_cron")
    ]
