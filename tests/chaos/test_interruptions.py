"""Killed at a named step, or stopped there beyond the lease: every task ends once, nothing is paid twice."""

from __future__ import annotations

import pytest
from tests.chaos.faults import CONSUMER_STEPS
from tests.chaos.scene import Scene

from wearon_local.processes import wait_until

pytestmark = pytest.mark.slow  # kills, stops or cuts off running services

KILLED_AT = {
    "hold:asked": "",
    "hold:answered": "",
    "claim:answered": "",
    "call:answered": "",
    "upload:answered": "",
    "complete:answered": "",
    "fail:asked": "moderation_blocked",
    "fail:answered": "moderation_blocked",
    "requeue:answered": "rate_limit_once=1",
}
"""Steps of a job, and what the stand-in has to be told for it to come there."""
MADE_AGAIN = {"call:answered", "fail:asked", "requeue:answered"}
"""Killed there, the provider is asked once more; elsewhere nothing was asked, or the picture is stored."""

STOPPED_AT = ["slot:answered", "call:answered", "upload:asked", "complete:asked"]


def test_killed_at_every_step_of_a_job(scene: Scene) -> None:
    # Each victim takes one job, so that it takes no other one with it.
    _, *victims = scene.start(generators=len(KILLED_AT), concurrency=1)
    jobs = {step: scene.push_to(step, "kill", words) for step, words in KILLED_AT.items()}
    scene.world.wait_ended(*victims, timeout=60)
    scene.start(consumers=0, generators=1)
    scene.wait_settled()
    evidence = scene.end()
    for step, job in jobs.items():
        assert scene.status(job) == ("failed" if step.startswith("fail") else "completed"), step
        assert len(evidence.calls[job.session or ""]) == 1 + (step in MADE_AGAIN), step


def test_stopped_beyond_the_lease_and_overtaken(scene: Scene) -> None:
    _, *sleepers = scene.start(generators=len(STOPPED_AT), concurrency=1)
    jobs = {step: scene.push_to(step, "stop", "slow=1") for step in STOPPED_AT}
    for sleeper in sleepers:
        scene.world.wait_stopped(sleeper)
    # The picture is on its way already where they stopped right before the upload.
    scene.stack.openai.set_latency(3)
    scene.start(consumers=0, generators=1)
    for step in ("slot:answered", "call:answered"):
        scene.wait_for_another("call:asked", jobs[step])
    for sleeper in sleepers:
        scene.world.resume(sleeper)
    scene.wait_settled()
    wait_until(scene.nothing_in_flight, timeout=20, what="all sleepers done")
    evidence = scene.end()
    assert {scene.status(job) for job in jobs.values()} == {"completed"}
    for step, job in jobs.items():
        session = job.session or ""
        late = [s for s in evidence.by_session[session] if s.process in {r.name for r in sleepers}]
        if step in ("slot:answered", "call:answered"):
            # Overtaken while the other one was still working: it came to know, and did nothing any more.
            assert not [s for s in late if s.what in ("upload", "complete", "fail")], step
            assert len(evidence.calls[session]) == 1 + (step == "call:answered"), step


def test_killed_at_every_step_of_the_bridge(scene: Scene) -> None:
    *steps, last = CONSUMER_STEPS
    for number, step in enumerate(steps):
        scene.world.order(f"consumer-{number + 1}", step, "kill")
    victims = scene.start(consumers=len(steps), generators=1)[:-1]
    wait_until(lambda: scene.push() and scene.all_ended(victims), timeout=40, every=0.2, what="all killed")
    assert last == "recovered"
    scene.world.order("consumer", last, "kill")
    # One of them is killed as soon as it recovers something, perhaps before it is ready.
    rescuers = [scene.world.start("consumer", wait=False) for _ in range(2)]
    scene.wait_settled()
    scene.end()
    assert sum(replica.terminated_at is None for replica in rescuers) == 1


def test_a_new_replica_disturbs_nobody(scene: Scene) -> None:
    scene.start(generators=1)
    jobs = [scene.push("slow=4") for _ in range(3)]
    for job in jobs:
        scene.wait_for("call:asked", job)
    scene.start(consumers=1, generators=1)
    scene.wait_settled()
    evidence = scene.end()
    assert [len(evidence.calls[job.session or ""]) for job in jobs] == [1, 1, 1]
    assert not [step for step in evidence.steps if step.name == "publish:asked"]


def test_a_clock_that_is_an_hour_behind_delays_nothing(scene: Scene) -> None:
    _, behind = scene.start(generators=1)
    scene.world.set_clock(behind, -3600)
    job = scene.push("rate_limit_once=1")
    scene.wait_settled(timeout=15)
    scene.end()
    assert scene.status(job) == "completed"
