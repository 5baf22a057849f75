"""Redis away, demoted, or back without its data: everything works again by itself, and no money is lost."""

from __future__ import annotations

import time

import pytest
from tests.chaos.run import BACK_WITHIN
from tests.chaos.scene import Scene

pytestmark = pytest.mark.slow  # kills, stops or cuts off running services


def test_services_work_again_by_themselves_after_each_fault_of_redis(scene: Scene) -> None:
    redis = scene.stack.redis

    def outage() -> None:
        redis.kill()
        time.sleep(2)  # the outage itself, as long as the specification has it
        redis.start()

    def read_only() -> None:
        redis.set_read_only(True)
        time.sleep(2)
        redis.set_read_only(False)

    def connections_reset() -> None:
        redis.drop_connections()

    scene.start(generators=1)
    for break_redis in (outage, read_only, connections_reset):
        before = scene.push("slow=2")
        scene.wait_for("call:asked", before)
        break_redis()
        after = scene.push()
        scene.wait_for("hold:asked", after, timeout=BACK_WITHIN)
    scene.wait_settled()
    evidence = scene.end()
    assert {scene.status(job) for job in scene.workload.pushed} == {"completed"}
    assert {len(calls) for calls in evidence.calls.values()} == {1}


def test_what_redis_forgets_is_refunded(scene: Scene) -> None:
    consumer, _ = scene.start(generators=1)
    working = scene.push("slow=3")
    scene.wait_for("call:asked", working)
    scene.world.kill(consumer)
    forgotten = scene.push()
    scene.interference.redis_losses.append(time.time())
    scene.stack.redis.restart(lose_data=True)
    scene.start(generators=0)
    after = scene.push()
    scene.wait_settled()
    evidence = scene.end()
    assert [scene.status(p) for p in (working, forgotten, after)] == ["completed", "failed", "completed"]
    entry = evidence.ledger[forgotten.session or ""]
    assert (entry["settled_by"], entry["refund_state"]) == ("reaper", "refunded")
