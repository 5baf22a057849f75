"""Killed, stopped or cut off at each named step: every task ends once, every credit is where it belongs."""

from __future__ import annotations

from tests.chaos.scene import Scene

STEPS_OF_A_JOB = [
    ("hold:asked", ""),
    ("hold:answered", ""),
    ("slot:answered", ""),
    ("claim:answered", ""),
    ("images:answered", ""),
    ("call:asked", ""),
    ("call:answered", ""),
    ("record_usage:answered", ""),
    ("check:answered", ""),
    ("upload:answered", ""),
    ("sign:answered", ""),
    ("complete:answered", ""),
    ("fail:asked", "moderation_blocked"),
    ("fail:answered", "moderation_blocked"),
    ("requeue:answered", "rate_limit_once=1"),
    ("retry:answered", "rate_limit_once=1"),
]
"""And what the stand-in has to be told for a job to come there."""


def test_killed_at_every_step_of_a_job(scene: Scene) -> None:
    victims = scene.start(generators=len(STEPS_OF_A_JOB), concurrency=1)[1:]
    for step, words in STEPS_OF_A_JOB:
        scene.push_to(step, "kill", words)
    scene.world.wait_ended(*victims, timeout=60)
    scene.start(consumers=0, generators=2)
    scene.wait_settled()
    evidence = scene.end()
    for pushed, (step, _) in zip(scene.workload.pushed, STEPS_OF_A_JOB, strict=True):
        assert scene.status(pushed) == ("failed" if step.startswith("fail") else "completed"), step
        # A picture that was stored is not paid for again.
        again = step in ("call:answered", "record_usage:answered", "check:answered", "fail:asked")
        again |= step.startswith(("requeue", "retry"))
        assert len(evidence.calls[pushed.session or ""]) == 1 + again, step
