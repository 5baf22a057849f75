"""Redis away, demoted, or back without its data: everything works again by itself, and no money is lost."""

from __future__ import annotations

import time

import pytest
from tests.chaos.scene import Scene

BACK_WITHIN = 15.0


def break_redis(scene: Scene, how: str) -> None:
    server = scene.stack.redis
    match how:
        case "outage":
            server.kill()
            time.sleep(2)  # the outage itself, as long as the specification has it
            server.start()
        case "read only":
            server.set_read_only(True)
            time.sleep(2)
            server.set_read_only(False)
        case "connections reset":
            server.drop_connections()


@pytest.mark.parametrize("how", ["outage", "read only", "connections reset"])
def test_works_again_by_itself(scene: Scene, how: str) -> None:
    scene.start(generators=1)
    before = scene.push("slow=3")
    scene.wait_for("call:asked", before)
    break_redis(scene, how)
    after = scene.push()
    scene.wait_for("hold:asked", after, timeout=BACK_WITHIN)
    scene.wait_settled()
    evidence = scene.end()
    assert [scene.status(p) for p in (before, after)] == ["completed", "completed"]
    assert len(evidence.calls[before.session or ""]) == 1


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
