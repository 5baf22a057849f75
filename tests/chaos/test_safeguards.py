"""What one job, one host, one process or one call does must not reach the others."""

from __future__ import annotations

import time

import pytest
from tests.chaos.scene import Scene

from wearon_contracts.queues import CELERY_RETRY_QUEUE
from wearon_local.app.next_app import SAMPLE_PERSON
from wearon_local.processes import wait_until

pytestmark = pytest.mark.slow

HANGING = 60
"""Pictures of one silent host; a trusted one has 48 places."""


def test_task_that_kills_its_process_is_given_up_and_no_other(scene: Scene) -> None:
    scene.start(generators=2)
    innocent = [scene.push("slow=3") for _ in range(6)]
    for job in innocent:
        scene.wait_for("call:asked", job)
    killer = scene.push_to("images:answered", "kill all")

    def settled() -> bool:
        for _ in range(2 - len(scene.world.working("generator"))):
            scene.world.start("generator", wait=False)
        return scene.is_settled(killer) and all(map(scene.is_settled, innocent))

    wait_until(settled, timeout=150, every=0.2, what="the killer given up")
    evidence = scene.end()
    assert evidence.sessions[killer.session or ""]["status"] == "failed"
    assert evidence.ledger[killer.session or ""]["error_code"] == "attempts_exhausted"
    assert {scene.status(job) for job in innocent} == {"completed"}


def test_renewal_that_hangs_costs_no_second_call(scene: Scene) -> None:
    scene.start(generators=2)
    jobs = [scene.push("slow=13") for _ in range(8)]
    for job in jobs:
        scene.wait_for("call:asked", job)
    # One of each: the elected one recovers nothing that it holds itself.
    scene.stack.gateway.inject("hang", path="/rpc/generation_renew$", times=2)
    scene.wait_settled()
    (fault,) = scene.stack.gateway.faults()
    evidence = scene.end()
    assert fault["struck"] == 2
    assert [len(evidence.calls[job.session or ""]) for job in jobs] == [1] * len(jobs)


def test_pictures_of_a_silent_host_hold_up_no_others(scene: Scene) -> None:
    shop = scene.stack.gateway_url.replace("127.0.0.1", "localhost")
    scene.world.start("consumer")
    scene.world.start("generator", GENERATOR_CONCURRENCY="64", IMAGE_FETCH_TRUSTED_ORIGINS=shop)
    silent = scene.stack.gateway.inject("hang", path="^/samples/", times=None)
    url = scene.stack.app.sample_url(SAMPLE_PERSON).replace(scene.stack.gateway_url, shop)
    hanging = [scene.workload.make_from_shop(url) for _ in range(HANGING)]
    for made in hanging:
        scene.workload.push_made(made)
    for made in hanging:
        scene.wait_for("images:asked", made)
    healthy = scene.push()
    began = time.monotonic()
    scene.wait_for("call:asked", healthy, timeout=20)
    assert time.monotonic() - began < 4
    scene.stack.gateway.clear_faults(silent)
    scene.wait_settled(timeout=60)  # what hangs already does so until the limit of 15 s
    scene.end()


def test_jobs_that_nobody_has_room_for_wait_as_one_copy_each(scene: Scene) -> None:
    _, crowded = scene.start(generators=1)
    left = [scene.push("slow=10") for _ in range(6)]
    for job in left:
        scene.wait_for("call:asked", job)
    scene.world.kill(crowded)
    # It takes one job at a time, and the grace of the others ends twice meanwhile.
    scene.start(consumers=0, generators=1, concurrency=1)
    most = 0

    def two_are_done() -> bool:
        nonlocal most
        most = max(most, scene.world.redis.llen(CELERY_RETRY_QUEUE))
        return sum(map(scene.is_settled, left)) >= 2

    wait_until(two_are_done, timeout=90, every=0.1, what="two jobs done")
    scene.start(consumers=0, generators=1)
    scene.wait_settled(timeout=90)
    scene.end()
    assert 0 < most <= len(left)


def test_user_deleted_during_the_call_gets_no_picture(scene: Scene) -> None:
    scene.start(generators=1)
    scene.stack.openai.set_latency(2)
    job = scene.workload.make_forgotten()
    scene.workload.push_made(job)
    scene.wait_for("call:asked", job)
    scene.delete_user(job)
    scene.wait_for("check:answered", job)
    wait_until(scene.nothing_in_flight, timeout=20, what="the job done with")
    evidence = scene.end()
    assert not [step for step in evidence.by_session[job.session or ""] if step.what == "upload"]


def test_picture_of_a_user_deleted_during_the_upload_does_not_stay(scene: Scene) -> None:
    _, generator = scene.start(generators=1)
    job = scene.workload.make_forgotten()
    scene.world.order(job.session or "", "upload:asked", "stop")
    scene.workload.push_made(job)
    scene.world.wait_stopped(generator)
    scene.delete_user(job)
    scene.world.resume(generator)
    scene.wait_for("upload:answered", job)

    def stored() -> list[str]:
        names = [item["name"] for item in scene.stack.gateway.objects()]
        return [name for name in names if (job.session or "") in name]

    wait_until(lambda: not stored(), timeout=20, what="the picture gone")
    scene.end()


def test_killed_between_taking_a_message_and_noting_it_down(scene: Scene) -> None:
    _, victim = scene.start(generators=1)
    job = scene.push_to("note:asked", "kill")
    scene.world.wait_ended(victim)
    scene.start(consumers=0, generators=1)
    scene.wait_settled()
    evidence = scene.end()
    assert scene.status(job) == "completed"
    assert len(evidence.calls[job.session or ""]) == 1
