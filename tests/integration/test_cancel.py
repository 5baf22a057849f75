"""Try-ons that are cancelled on the running services, at each place a task can be at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.integration.tryons import PAYERS, Samples, TryOn, TryOns, start_generators

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.queues import CELERY_QUEUE, TASK_LIST, TASKS_HANDED, TASKS_WAITING_PREFIX
from wearon_generator.presence import PAUSED_KEY
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # several services, one after the other

IN_TIME = ["before the push", "in the list", "in a lane", "in Celery's queue", "waiting for its slot"]
TOO_LATE = ["during the call", "during the upload", "settled"]


@dataclass
class Scene:
    """The try-ons by the place at which they were cancelled, and what each cancellation was told."""

    tryons: TryOns
    ordered: dict[str, TryOn] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    others: list[TryOn] = field(default_factory=list)
    generator: Service | None = None

    def make(self, place: str, said: str = "") -> TryOn:
        payer = PAYERS[len(self.ordered) % 3]  # whoever pays; with an overage nothing can be given back
        self.ordered[place] = self.tryons.make(payer, prompt=f"[[standin:{said}]]" if said else "")
        return self.ordered[place]

    def cancel(self, place: str) -> None:
        """As the user, where it is a user's."""
        tryon = self.ordered[place]
        user = tryon.job.owner_id if tryon.payer == "user" else None
        self.told[place] = self.tryons.app.cancel(tryon.job, as_user=user).verdict


@pytest.fixture(scope="module")
def scene(stack: Stack) -> Iterator[Scene]:
    scene = Scene(TryOns(stack))
    tryons, app = scene.tryons, stack.app
    with stack.redis.client() as redis:
        app.cancel(scene.make("before the push").job)
        scene.cancel("before the push")
        tryons.push(scene.ordered["before the push"], scene.make("in the list"))
        assert redis.llen(TASK_LIST) == 2
        scene.cancel("in the list")

        stack.start_service("consumer")
        tryons.push(scene.make("in Celery's queue"))
        wait_until(lambda: redis.llen(CELERY_QUEUE) == 3, timeout=20, what="all are with Celery")
        scene.others = [tryons.order() for _ in range(15)]
        in_lane = scene.make("in a lane")
        tryons.push(in_lane)
        waiting = TASKS_WAITING_PREFIX + in_lane.job.channel
        wait_until(lambda: redis.zscore(waiting, in_lane.id) is not None, timeout=20, what="in its lane")
        scene.cancel("in a lane")
        assert redis.zscore(TASKS_HANDED, scene.ordered["in Celery's queue"].id) is not None
        scene.cancel("in Celery's queue")

        redis.set(PAUSED_KEY, "{}")
        scene.others.append(held := scene.make("waiting for its slot"))
        tryons.push(held)
        (scene.generator,) = start_generators(stack, 1, {"GENERATIONS_PER_MINUTE": "1500"})
        wait_until(lambda: tryons.entry(held) is not None, timeout=20, what="it is held")
        scene.others.remove(held)
        scene.cancel("waiting for its slot")
        redis.delete(PAUSED_KEY)

        called = scene.make("during the call", "slow=3")
        tryons.push(called)
        wait_until(lambda: tryons.calls(called), timeout=30, what="the provider is called")
        scene.cancel("during the call")
        uploaded = scene.make("during the upload")
        stack.gateway.inject("delay", path=f"/object/images/.*{uploaded.id}", method="POST", seconds=2)
        tryons.push(uploaded)
        wait_until(lambda: tryons.usage(uploaded), timeout=30, what="the provider has answered")
        scene.cancel("during the upload")
        done = scene.make("settled")
        tryons.push(done)
        tryons.wait_settled(done, called, uploaded, *scene.others)
        scene.cancel("settled")
    yield scene


@pytest.mark.parametrize("place", IN_TIME)
def test_in_time_it_is_refunded_and_never_called_for(scene: Scene, place: str) -> None:
    tryon = scene.ordered[place]
    assert scene.told[place] == ("already_cancelled" if place == "before the push" else "cancelled")
    scene.tryons.assert_failed(tryon, ErrorCode.CANCELLED, sentence(ErrorCode.CANCELLED), attempts=0)
    assert scene.tryons.calls(tryon) == []


@pytest.mark.parametrize("place", TOO_LATE)
def test_too_late_it_is_delivered(scene: Scene, place: str) -> None:
    tryon = scene.ordered[place]
    assert scene.told[place] == ("completed" if place == "settled" else "too_late")
    scene.tryons.assert_completed(tryon)


def test_each_cancelled_task_is_dropped_without_a_slot(scene: Scene) -> None:
    """As many calls as pictures; no attempt, no lost lease, no quarantine for those that were cancelled."""
    assert scene.generator is not None
    service = scene.generator

    def dropped() -> int:
        return Samples(service.metrics()).by("jobs_total", "outcome")["cancelled"]

    wait_until(lambda: dropped() == len(IN_TIME), timeout=20, what="all of them are dropped")
    samples = Samples(service.metrics())
    assert samples.total("leases_lost_total") == 0
    assert samples.total("quarantined_total") == 0
    made = len(TOO_LATE) + len(scene.others)
    assert samples.total("provider_calls_total") == made
    for tryon in scene.others:
        scene.tryons.assert_completed(tryon)
