"""What runs out: the job's deadline, the patience with Supabase before the hold, that with strangers' hosts.

The generator's constants are cut to seconds (`quick_generator`), and all try-ons run at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pytest
from tests.integration.tryons import PAYERS, Payer, Samples, TryOn, TryOns, events_of, start_generators

from wearon_contracts.errors import ErrorCode, sentence
from wearon_generator.presence import PAUSED_KEY
from wearon_local.app.next_app import SAMPLE_SHOP_GARMENT
from wearon_local.processes import free_port, wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # waits for real deadlines and outages

DEADLINE: Final = 6
PATIENCE_BEFORE_HOLD: Final = 2
FOREIGN_PATIENCE: Final = 3
TIMING: Final = {
    "deadline": DEADLINE,
    "patience_before_hold": PATIENCE_BEFORE_HOLD,
    "own_storage_patience": DEADLINE,
    "foreign_host_patience": FOREIGN_PATIENCE,
}
LEASE: Final = 6
GARMENT: Final = "photo of the garment"


@dataclass(frozen=True)
class Scene:
    """The running services, and the try-ons by name."""

    tryons: TryOns
    generator: Service
    ordered: dict[str, TryOn]

    def settled(self, name: str) -> TryOn:
        tryon = self.ordered[name]
        self.tryons.wait_settled(tryon, timeout=60)
        return tryon

    def events(self, name: str, event: str) -> list[dict[str, object]]:
        return [line for line in events_of(self.ordered[name], self.generator) if line["event"] == event]


@pytest.fixture(scope="module")
def scene(stack: Stack) -> Scene:
    stack.start_service("consumer")
    internet = {"shop.example": stack.gateway.port, "closed.example": free_port()}
    (generator,) = start_generators(
        stack, 1, {"GENERATIONS_PER_MINUTE": "1500"}, timing=TIMING, internet=internet
    )
    tryons, ordered = TryOns(stack), {}

    def make(name: str, payer: Payer = "user", *, said: str = "", garment: str = "") -> TryOn:
        urls = [tryons.inputs()[0], garment] if garment else None
        ordered[name] = tryons.make(payer, prompt=f"[[standin:{said}]]" if said else "", urls=urls)
        return ordered[name]

    def trap(tryon: TryOn, where: str, **fault: object) -> None:
        options = {"status": 503, "times": None, **fault}
        stack.gateway.inject("status", **options, **where_of(tryon, where))  # type: ignore[arg-type]

    def shop(name: str) -> str:
        return f"http://shop.example/samples/{name}"

    for payer in PAYERS:
        make(f"provider hangs, {payer} pays", payer, said="hang")
    path = tryons.app.upload("uploads/never.jpg", SAMPLE_SHOP_GARMENT)
    stack.gateway.inject("status", path="never.jpg", status=503, times=None)
    make("our Storage keeps the image back", garment=tryons.app.sign(path))
    trap(make("our Storage does not say whether a result is there", said="rate_limit_once=1"), "info")
    trap(make("result cannot be stored for long", said="slow=2"), "upload", for_seconds=DEADLINE + 3)
    trap(make("hold away for long"), "hold", for_seconds=2 * PATIENCE_BEFORE_HOLD)
    trap(make("claim away for long"), "claim", for_seconds=DEADLINE + 3)
    for payer in PAYERS:
        stack.gateway.inject("status", path=f"^/samples/{payer}-away", status=503, times=None)
        make(f"shop away for good, {payer} pays", payer, garment=shop(f"{payer}-away.jpg"))
    stack.gateway.inject("status", path=f"^/samples/{SAMPLE_SHOP_GARMENT.name}", status=500, times=2)
    make("shop away at first", garment=shop(SAMPLE_SHOP_GARMENT.name))
    make("shop refuses connections", garment="http://closed.example/a.jpg")
    make("shop has no address", garment="http://nowhere.example/a.jpg")
    stack.gateway.inject("hang", path="^/samples/hangs", times=None)
    make("shop never answers", garment=shop("hangs.jpg"))
    make("shop does not have it", garment=shop("missing.jpg"))
    tryons.push(*ordered.values())
    return Scene(tryons, generator, ordered)


def where_of(tryon: TryOn, where: str) -> dict[str, str]:
    match where:
        case "info":
            return {"path": f"/object/info/.*{tryon.id}"}
        case "upload":
            return {"path": f"/object/images/.*{tryon.id}", "method": "POST"}
        case function:
            return {"path": f"/rpc/generation_{function}$", "contains": tryon.id}


@pytest.mark.parametrize("payer", PAYERS)
def test_job_fails_when_the_provider_hangs_beyond_the_deadline(scene: Scene, payer: Payer) -> None:
    name = f"provider hangs, {payer} pays"
    code = ErrorCode.DEADLINE_EXCEEDED
    tryon = scene.settled(name)
    scene.tryons.assert_failed(tryon, code, sentence(code))
    (call,) = scene.tryons.calls(tryon)
    assert call["outcome"] == "hang"
    assert took(scene, name) == pytest.approx(DEADLINE, abs=2.5)


def took(scene: Scene, name: str, since: str = "claimed_at") -> float:
    """Seconds from the claim (or `held_at`) to the entry of the failure."""
    entry = scene.tryons.entry(scene.ordered[name])
    assert entry is not None
    return float((entry["settled_at"] - entry[since]).total_seconds())


@pytest.mark.parametrize(
    ("name", "attempts", "since"),
    [
        ("our Storage keeps the image back", 1, "held_at"),
        ("our Storage does not say whether a result is there", 2, "claimed_at"),
    ],
)
def test_deadline_while_storage_is_unavailable(scene: Scene, name: str, attempts: int, since: str) -> None:
    code = ErrorCode.DEADLINE_EXCEEDED
    tryon = scene.settled(name)
    scene.tryons.assert_failed(tryon, code, sentence(code), attempts=attempts)
    assert len(scene.tryons.calls(tryon)) == attempts - 1
    assert took(scene, name, since) == pytest.approx(DEADLINE, abs=2.5)


def test_deadline_is_over_once_the_provider_has_answered(scene: Scene) -> None:
    name = "result cannot be stored for long"
    tryon = scene.settled(name)
    scene.tryons.assert_completed(tryon)
    assert took(scene, name) > DEADLINE
    assert scene.events(name, "supabase_unavailable")


def test_supabase_unavailable_before_the_hold_gives_the_message_back(scene: Scene) -> None:
    name = "hold away for long"
    scene.tryons.assert_completed(scene.settled(name))
    assert {line["reason"] for line in scene.events(name, "job_given_back")} == {"supabase_unavailable"}
    assert len(scene.events(name, "job_held")) == 1
    assert Samples(scene.generator.metrics()).by("jobs_total", "outcome")["supabase_unavailable"] >= 2


def test_supabase_unavailable_before_the_claim_gives_the_job_back_after_its_deadline(scene: Scene) -> None:
    name = "claim away for long"
    tryon = scene.settled(name)
    scene.tryons.assert_completed(tryon)
    assert {line["reason"] for line in scene.events(name, "job_given_back")} == {"supabase_unavailable"}
    assert scene.tryons.statuses(tryon) == ["processing", "completed"]


@pytest.mark.parametrize(
    ("name", "payer", "code"),
    [
        *((f"shop away for good, {payer} pays", payer, ErrorCode.IMAGE_UNREACHABLE) for payer in PAYERS),
        ("shop refuses connections", "user", ErrorCode.IMAGE_UNREACHABLE),
        ("shop has no address", "user", ErrorCode.IMAGE_HOST_UNKNOWN),
        ("shop never answers", "user", ErrorCode.IMAGE_TIMEOUT),
    ],
)
def test_refund_when_a_strangers_host_stays_away(
    scene: Scene, name: str, payer: Payer, code: ErrorCode
) -> None:
    tryon = scene.settled(name)
    assert tryon.payer == payer
    scene.tryons.assert_failed(tryon, code, sentence(code, GARMENT))
    assert scene.tryons.calls(tryon) == []
    assert len(scene.events(name, "image_unreachable")) >= 1, "it was not tried again"
    assert took(scene, name, since="held_at") <= FOREIGN_PATIENCE + 3


def test_strangers_host_that_comes_back_in_time(scene: Scene) -> None:
    tryon = scene.settled("shop away at first")
    scene.tryons.assert_completed(tryon)
    assert len(scene.events("shop away at first", "image_unreachable")) == 2


def test_refund_at_once_when_a_strangers_host_does_not_have_the_image(scene: Scene) -> None:
    code = ErrorCode.IMAGE_HTTP_ERROR
    scene.tryons.assert_failed(scene.settled("shop does not have it"), code, sentence(code, GARMENT))
    assert scene.events("shop does not have it", "image_unreachable") == []


def test_a_supabase_outage_longer_than_the_leases_costs_nobody_the_job(stack: Stack) -> None:
    """While nobody can renew, nobody may take over either: sweepers leave everybody a period to renew.

    The sweep comes far more often than the renewal here, so that one which did not wait would win.
    """
    stack.stop_services()
    stack.start_service("consumer")
    timing = {
        "lease": LEASE,
        "renewal_interval": 3,
        "renewal_timeout": 0.8,
        "renewal_pause": 0.2,
        "sweep_interval": 0.2,
        "election": 0.6,
    }
    generators = start_generators(stack, 2, {"GENERATIONS_PER_MINUTE": "600"}, timing=timing)
    tryons = TryOns(stack)
    working = [tryons.order(prompt=f"[[standin:slow={2 * LEASE + 6}]]") for _ in range(2)]
    wait_until(lambda: all(tryons.calls(tryon) for tryon in working), timeout=15, what="calls")
    stack.gateway.kill()
    run_out = "select count(*) as n from generation_ledger where lease_expires_at < now()"
    wait_until(lambda: stack.app.rows(run_out)[0]["n"] == 2, timeout=2 * LEASE, what="leases run out")
    stack.gateway.start()
    tryons.wait_settled(*working, timeout=60)
    for tryon in working:
        tryons.assert_completed(tryon)
        assert tryons.outcome(tryon).attempts == 1
        assert "job_recovered" not in {line["event"] for line in events_of(tryon, *generators)}


def test_sigterm_with_128_held_jobs_while_redis_is_silent_ends_within_its_patience(stack: Stack) -> None:
    """It took over six minutes: each message that goes back to the queue waits for its own timeouts."""
    stack.stop_services()
    stack.reset()
    stack.start_service("consumer")
    # So high that lanes hand on more than 128 jobs, which then wait for the operator's pause to end.
    (stopped,) = start_generators(stack, 1, {"GENERATIONS_PER_MINUTE": "6000"}, timing={"stop_patience": 4})
    with stack.redis.client() as client:
        client.set(PAUSED_KEY, "{}")
    tryons = TryOns(stack)
    ordered = [tryons.order() for _ in range(130)]
    waiting = lambda: Samples(stopped.metrics()).total("jobs_waiting")  # noqa: E731
    wait_until(lambda: waiting() >= 120, timeout=60, what="held")
    stack.redis.pause()
    try:
        assert stopped.terminate(timeout=25) == 0
    finally:
        stack.redis.resume()
        with stack.redis.client() as client:
            client.delete(PAUSED_KEY)
    assert stopped.events(event="generator_ended_by_force")
    # Each is still known, to Redis or to the ledger.
    expired = "update generation_ledger set lease_expires_at = now() where state <> 'settled' returning 1"
    assert len(tryons.app.rows(expired)) >= 120
    start_generators(stack, 1, {"GENERATIONS_PER_MINUTE": "3000"}, timing={"sweep_interval": 1})
    tryons.wait_settled(*ordered, timeout=120)
    assert {tryons.row(tryon)["status"] for tryon in ordered} == {"completed"}
