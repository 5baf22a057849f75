"""Cancelled at a named step: refunded and never called for, or too late and delivered."""

from __future__ import annotations

import pytest
from tests.chaos.scene import Scene

from wearon_contracts.outcomes import CancelVerdict
from wearon_local.processes import wait_until

pytestmark = pytest.mark.slow  # stops running services

CANCELLED_AT: dict[str, CancelVerdict] = {
    "hold:asked": "cancelled",
    "hold:answered": "cancelled",
    "slot:answered": "cancelled",
    "claim:asked": "cancelled",
    "claim:answered": "too_late",
    "call:asked": "too_late",
    "call:answered": "too_late",
    "upload:asked": "too_late",
    "complete:asked": "too_late",
}
"""Steps of a job at which its generator is stopped, and what whoever cancels it meanwhile is told."""


def test_cancelled_at_every_step_of_a_job(patient_scene: Scene) -> None:
    scene = patient_scene
    _, *sleepers = scene.start(generators=len(CANCELLED_AT), concurrency=1)
    jobs = {step: scene.push_to(step, "stop") for step in CANCELLED_AT}
    for sleeper in sleepers:
        scene.world.wait_stopped(sleeper)
    told = {step: scene.cancel(job) for step, job in jobs.items()}
    for sleeper in sleepers:
        scene.world.resume(sleeper)
    scene.wait_settled()
    wait_until(scene.nothing_in_flight, timeout=20, what="all sleepers done")

    evidence = scene.end()
    assert told == CANCELLED_AT
    for step, job in jobs.items():
        is_cancelled = told[step] == "cancelled"
        assert scene.status(job) == ("failed" if is_cancelled else "completed"), step
        assert len(evidence.calls[job.session or ""]) == (0 if is_cancelled else 1), step
