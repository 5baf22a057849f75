"""Supabase does what it was asked and the answer is lost: asked again, it does nothing twice."""

from __future__ import annotations

import pytest
from tests.chaos.faults import SUPABASE_CALLS
from tests.chaos.scene import Scene

pytestmark = pytest.mark.slow  # kills, stops or cuts off running services

MOST_CALLS = 7
"""As many as any of these jobs makes of the database about its session, or more."""


def test_the_answer_to_any_call_of_a_job_is_lost(scene: Scene) -> None:
    scene.start(generators=1)
    jobs = {
        words: [scene.workload.make_b2c(words) for _ in range(MOST_CALLS)]
        for words in ("", "moderation_blocked", "rate_limit_once=1")
    }
    for same in jobs.values():
        for number, job in enumerate(same):
            scene.stack.gateway.inject("lose_answer", path="/rpc/", contains=job.session, skip=number)
    stored = [scene.workload.make_b2c() for _ in range(2)]
    for job, call in zip(stored, ("upload", "sign"), strict=True):
        method, path = SUPABASE_CALLS[call]
        scene.stack.gateway.inject("lose_answer", method=method, path=f"{path}.*{job.session}")
    everything = [job for same in (*jobs.values(), stored) for job in same]
    for job in everything:
        scene.workload.push_made(job)
    scene.wait_settled()
    struck = sum(fault["struck"] for fault in scene.stack.gateway.faults())
    evidence = scene.end()
    # hold, claim, record_usage, check, complete; hold, claim, fail; both with a requeue between
    assert struck == 5 + 3 + (5 + 3) - 1 + len(stored)
    for job in everything:
        assert scene.status(job) == ("failed" if job in jobs["moderation_blocked"] else "completed")
        assert len(evidence.calls[job.session or ""]) == 1 + (job in jobs["rate_limit_once=1"])


def test_the_answer_to_a_call_about_many_is_lost(scene: Scene) -> None:
    _, first = scene.start(generators=1)
    abandoned = scene.push_to("claim:answered", "kill")
    scene.world.wait_ended(first)
    for rpc, times in (("renew", 2), ("recover", 1), ("reap", 1), ("reject", 1)):
        scene.stack.gateway.inject("lose_answer", path=f"/rpc/generation_{rpc}$", times=times)
    orphan = scene.workload.make_b2c()
    scene.workload.pushed.append(orphan)  # Redis never had it
    invalid = scene.push_invalid()
    slow = scene.push("slow=4")
    scene.start(consumers=0, generators=1)
    scene.wait_settled()
    assert all(fault["struck"] == fault["times"] for fault in scene.stack.gateway.faults())
    evidence = scene.end()
    assert [scene.status(job) for job in (abandoned, slow, orphan, invalid)] == [
        *("completed", "completed"),
        *("failed", "failed"),
    ]
    assert [len(evidence.calls[job.session or ""]) for job in (abandoned, slow)] == [1, 1]
