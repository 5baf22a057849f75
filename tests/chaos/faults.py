"""Everything that is broken in a run, each as something that strikes and, where it lasts, ends by itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from tests.chaos.world import Kind, Replica

if TYPE_CHECKING:
    from tests.chaos.run import Run

GENERATOR_STEPS: Final = (
    "note:asked",
    "note:answered",
    "hold:asked",
    "hold:answered",
    "slot:answered",
    "claim:answered",
    "images:answered",
    "call:asked",
    "call:answered",
    "record_usage:answered",
    "check:answered",
    "upload:asked",
    "upload:answered",
    "sign:answered",
    "complete:asked",
    "complete:answered",
    "fail:asked",
    "fail:answered",
    "requeue:answered",
    "retry:asked",
    "retry:answered",
    "reject:answered",
    "recover:answered",
    "publish:answered",
    "reap:answered",
    "ack:asked",
)
CONSUMER_STEPS: Final = ("popped", "taken", "handing-on", "handed-on", "recovered")
PAUSED_STEPS: Final = ("slot:answered", "call:answered", "check:answered", "upload:asked", "complete:asked")

RPCS: Final = (
    "cancel",
    "hold",
    "renew",
    "release",
    "claim",
    "requeue",
    "check",
    "record_usage",
    "complete",
    "fail",
    "reject",
    "recover",
    "orphans",
    "reap",
    "unwanted_objects",
)
SUPABASE_CALLS: Final = {
    **{rpc: ("POST", f"/rpc/generation_{rpc}$") for rpc in RPCS},
    "upload": ("POST", "/storage/v1/object/images/"),
    "sign": ("POST", "/storage/v1/object/sign/images/"),
    "look for a picture": ("HEAD", "/storage/v1/object/images/"),
}
FAILOVERS: Final = 3
SHOP: Final = "^/samples/"


@dataclass(frozen=True, slots=True)
class Fault:
    """`group` is what the table counts it under."""

    group: str
    name: str
    strike: Callable[[Run], None]


def catalogue(chance: random.Random, *, sentinels: bool = False) -> list[Fault]:
    """Every fault there is, once, in random order; behind Sentinels, Redis fails over instead."""
    faults = [
        *_on_processes(),
        *(_on_sentinels() if sentinels else _on_redis()),
        *_on_supabase(),
        *_on_provider(),
        *_on_pictures(),
        *_of_the_application(),
    ]
    chance.shuffle(faults)
    return faults


# ------------------------------------------------------------------------------------------ processes


def _on_processes() -> list[Fault]:
    kinds: tuple[Kind, Kind] = ("generator", "consumer")
    return [
        *(Fault(f"SIGKILL of a {kind}", "at any moment", _kill(kind)) for kind in kinds for _ in range(2)),
        *(Fault("SIGKILL at a step of a job", s, _kill_at("generator", s)) for s in GENERATOR_STEPS),
        *(Fault("SIGKILL at a step of the bridge", s, _kill_at("consumer", s)) for s in CONSUMER_STEPS),
        *(Fault("SIGTERM with time", kind, _terminate(kind, 60)) for kind in kinds),
        *(Fault("SIGTERM without time", kind, _terminate(kind, 0.4)) for kind in kinds),
        Fault("a task that kills its process", "each time", lambda run: run.push_killer()),
        Fault("rolling restart", "of all replicas", _rolling_restart),
        Fault("a new replica", "beside the others", _one_more),
        *(Fault("SIGSTOP beyond the lease", kind, _stop(kind)) for kind in kinds),
        *(Fault("SIGSTOP beyond the lease", s, _stop_at(s)) for s in PAUSED_STEPS),
        *(Fault("clock jump", f"{hours:+} h", _jump(hours * 3600)) for hours in (-1, 1)),
    ]


def _kill(kind: Kind) -> Callable[[Run], None]:
    def strike(run: Run) -> None:
        victim = run.any_of(kind)
        if victim is not None:
            run.kill(victim)

    return strike


def kill_a_generator() -> Fault:
    """At any moment."""
    return Fault("SIGKILL of a generator", "at any moment", _kill("generator"))


def _kill_at(kind: Kind, step: str) -> Callable[[Run], None]:
    return lambda run: run.order(kind, step, "kill")


def _stop_at(step: str) -> Callable[[Run], None]:
    return lambda run: run.order("generator", step, "stop")


def _terminate(kind: Kind, seconds: float) -> Callable[[Run], None]:
    def strike(run: Run) -> None:
        victim = run.any_of(kind)
        if victim is not None:
            run.terminate(victim, within=seconds)

    return strike


def _rolling_restart(run: Run) -> None:
    for replica in run.world.working():
        run.start(replica.kind)
        run.terminate(replica, within=60)


def _one_more(run: Run) -> None:
    more = run.start("generator")
    run.later(5.0, lambda: run.terminate(more, within=60) if more.works else None)


def _stop(kind: Kind) -> Callable[[Run], None]:
    def strike(run: Run) -> None:
        victim = run.any_of(kind)
        if victim is not None:
            run.world.stop(victim)
            run.later(run.beyond_lease(kind), lambda: run.world.resume(victim))

    return strike


def _jump(seconds: float) -> Callable[[Run], None]:
    def strike(run: Run) -> None:
        victim = run.any_of("generator")
        if victim is not None:
            run.world.set_clock(victim, seconds)

    return strike


# ------------------------------------------------------------------------------------------ Redis


def _on_redis() -> list[Fault]:
    return [
        Fault("Redis", "2 s outage", _outage),
        Fault("Redis", "restart with its data", _restart(False)),
        Fault("Redis", "restart with its data lost", _restart(True)),
        Fault("Redis", "READONLY for 3 s", _read_only),
        Fault("Redis", "connections reset in a blocking pop", _drop_connections),
        Fault("Redis", "silent for 12 s", _silent),
        Fault("nobody has room", "for two graces", _no_room),
    ]


def _on_sentinels() -> list[Fault]:
    return [
        *(Fault("Redis", "its primary killed", _fail_over) for _ in range(FAILOVERS)),
        Fault("nobody has room", "for two graces", _no_room),
    ]


def _fail_over(run: Run) -> None:
    # What the primary had confirmed and not yet copied is lost with it.
    run.interference.redis_losses.append(time.time())
    run.stack.redis.fail_over()
    run.expect_recovery("Redis: Sentinel failover")


def _no_room(run: Run) -> None:
    # All that is taken waits at the provider, and what a killed generator leaves waits for a place.
    run.stack.openai.set_mode("slow=7", times=120, for_seconds=20)
    _kill("generator")(run)


def _outage(run: Run) -> None:
    run.stack.redis.kill()
    run.wait(2.0)
    run.stack.redis.start()
    run.expect_recovery("Redis: 2 s outage")


def _restart(lose_data: bool) -> Callable[[Run], None]:
    def strike(run: Run) -> None:
        if lose_data:
            run.interference.redis_losses.append(time.time())
        run.stack.redis.restart(lose_data=lose_data)
        run.expect_recovery(f"Redis: restart {'without' if lose_data else 'with'} its data")

    return strike


def _read_only(run: Run) -> None:
    run.stack.redis.set_read_only(True)
    run.wait(3.0)
    run.stack.redis.set_read_only(False)
    run.expect_recovery("Redis: READONLY for 3 s")


def _drop_connections(run: Run) -> None:
    run.stack.redis.drop_connections()
    run.expect_recovery("Redis: connections reset")


def _silent(run: Run) -> None:
    # Longer than every socket timeout.
    run.stack.redis.pause()
    run.wait(12.0)
    run.stack.redis.resume()
    run.expect_recovery("Redis: silent for 12 s")


# ------------------------------------------------------------------------------------------ Supabase


def _on_supabase() -> list[Fault]:
    return [
        *(Fault("Supabase", f"{status} for 5 s", _supabase_status(status)) for status in (500, 503)),
        Fault("Supabase", "gateway restarted", lambda run: run.away("gateway", 1.0)),
        Fault("Supabase", "PostgREST restarted", lambda run: run.away("postgrest", 1.0)),
        Fault("Supabase", "PostgreSQL restarted", lambda run: run.away("postgres", 0.0)),
        Fault("Supabase", "renewals hang for 10 s", _hanging_renewals),
        *(_call_fault("answer lost", call, "lose_answer", times=2) for call in SUPABASE_CALLS),
        *(_call_fault("timeout", call, "hang", times=1) for call in SUPABASE_CALLS),
        *(_call_fault("503", call, "status", times=2, status=503) for call in SUPABASE_CALLS),
    ]


def _supabase_status(status: int) -> Callable[[Run], None]:
    def strike(run: Run) -> None:
        run.stack.gateway.inject("status", path="^/(rest|storage)/", status=status, times=None, for_seconds=5)
        run.later(5.0, lambda: run.measure_next("complete:answered", f"Supabase: {status} for 5 s"))

    return strike


def _hanging_renewals(run: Run) -> None:
    run.stack.gateway.inject("hang", path="/rpc/generation_renew$", times=4, for_seconds=10)


Action = Literal["status", "hang", "lose_answer"]


def _call_fault(label: str, call: str, action: Action, *, times: int, status: int = 500) -> Fault:
    method, path = SUPABASE_CALLS[call]

    def strike(run: Run) -> None:
        run.arm_gateway(
            f"Supabase: {label}: {call}", action, method=method, path=path, times=times, status=status
        )

    return Fault(f"Supabase, {label}", call, strike)


# ------------------------------------------------------------------------------------------ OpenAI


def _on_provider() -> list[Fault]:
    def mode(words: str, times: int) -> Callable[[Run], None]:
        return lambda run: run.stack.openai.set_mode(words, times=times, for_seconds=20)

    return [
        Fault("OpenAI", "burst of 429", mode("rate_limit=1", 6)),
        Fault("OpenAI", "burst of 500", mode("500", 5)),
        Fault("OpenAI", "burst of 503", mode("503", 5)),
        Fault("OpenAI", "page of HTML", mode("html_500", 2)),
        Fault("OpenAI", "hangs past the timeout", mode("hang", 3)),
        Fault("OpenAI", "connection dropped after the request", mode("drop", 4)),
        Fault("OpenAI", "connection reset after the request", mode("reset", 2)),
        Fault("OpenAI", "answer lost", _lose_picture),
        Fault("OpenAI", "broken base64", mode("bad_base64", 1)),
        Fault("OpenAI", "an answer without data", mode("no_data", 1)),
        Fault("OpenAI", "no picture", mode("bad_picture", 1)),
        Fault("OpenAI", "quota exhausted, twice", mode("insufficient_quota", 2)),
        Fault("OpenAI", "slow", mode("slow=4", 4)),
    ]


def _lose_picture(run: Run) -> None:
    run.stack.openai.inject("lose_answer", path="/v1/images/edits", times=2, for_seconds=20)


# ------------------------------------------------------------------------------------------ pictures


def _on_pictures() -> list[Fault]:
    upload = SUPABASE_CALLS["upload"][1]
    exists = {"statusCode": "409", "error": "Duplicate", "message": "The resource already exists"}

    def refuse(status: int, body: dict[str, str] | None = None) -> Callable[[Run], None]:
        return lambda run: run.arm_gateway(
            f"storage: {status}", "status", method="POST", path=upload, times=2, status=status, body=body
        )

    return [
        Fault("Storage", "upload refused (403)", refuse(403)),
        Fault("Storage", "upload refused (500)", refuse(500)),
        Fault("Storage", "object exists already", refuse(400, exists)),
        Fault("image host", "slow", _shop("delay", 6, seconds=4.0)),
        Fault("image host", "gone", _shop("reset", 8)),
        Fault("image host", "503", _shop("status", 8)),
        Fault("image host", "silent", _shop("hang", 1)),
        Fault("image host", "silent for everybody", _shop("hang", 40)),
        Fault("image host", "Storage slow", _slow_storage),
    ]


def _shop(
    action: Literal["delay", "reset", "status", "hang"], times: int, seconds: float = 0.0
) -> Callable[[Run], None]:
    def strike(run: Run) -> None:
        run.stack.gateway.inject(action, path=SHOP, times=times, for_seconds=20, status=503, seconds=seconds)

    return strike


def _slow_storage(run: Run) -> None:
    run.stack.gateway.inject("delay", method="GET", path="^/storage/", times=6, for_seconds=20, seconds=3.0)


# ------------------------------------------------------------------------------------------ the application


def _of_the_application() -> list[Fault]:
    return [
        *(Fault("the app", "its cron", lambda run: run.cron()) for _ in range(3)),
        Fault("the app", "a store uninstalled", lambda run: run.uninstall()),
        Fault("the app", "a user deleted", lambda run: run.delete_user()),
    ]


__all__ = ["Fault", "Replica", "catalogue", "kill_a_generator"]
