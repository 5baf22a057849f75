"""`python -m wearon_generator` with named steps, a clock that can jump, and periods divided by CHAOS_PACE.

Each call of the ledger, of Storage, of the image host and of the provider is a step before (`hold:asked`) and
after (`hold:answered`) it; so are the broker's publishing and acknowledging.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final

import celery.app.base
import celery.app.task
import kombu.transport.redis
import structlog
from openai.resources.images import AsyncImages
from tests.chaos.steps import Steps

import wearon_generator.__main__
from wearon_generator import image_processor, jobs, leases, ledger, recovery, runtime, slots, storage
from wearon_generator.ledger import Claim, Held, Session
from wearon_service_kit.images.errors import ImageUnreachable

STEPS: Final = Steps()
LEASE_UNTIL: Final[ContextVar[str | None]] = ContextVar("lease_until", default=None)
"""What the ledger's last answer to this job said: when the lease ends, by the database's clock."""
SHOP_HOST: Final = "/samples/"
"""Pictures below this path come from a host that is not ours; on loopback it has to be a trusted one."""


def _session() -> str | None:
    bound = structlog.contextvars.get_contextvars().get("session_id")
    return str(bound) if bound else None


def _named(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Session, holder and attempt that a call of the ledger is about."""
    match arguments:
        case (Claim(held=held, attempt=attempt), *_):
            return {"session": str(held.session.session_id), "holder": held.holder, "attempt": attempt}
        case (Held(session=session, holder=holder), *_):
            return {"session": str(session.session_id), "holder": holder}
        case (Session(session_id=session_id), *_):
            return {"session": str(session_id)}
        case (_, str() as holder):
            return {"session": _session(), "holder": holder}
    return {"session": _session(), "attempt": structlog.contextvars.get_contextvars().get("attempt")}


def _step(owner: Any, method: str, name: str) -> None:
    """Make steps of the beginning and the end of a coroutine method."""
    original = getattr(owner, method)

    @functools.wraps(original)
    async def traced(*arguments: Any, **options: Any) -> Any:
        about = _named(arguments[1:])
        STEPS.at(f"{name}:asked", **about)
        LEASE_UNTIL.set(None)
        try:
            answer = await original(*arguments, **options)
        except BaseException as error:
            status = getattr(error, "status_code", None)
            STEPS.at(f"{name}:raised", error=type(error).__name__, status=status, **about)
            raise
        told = getattr(answer, "attempt", None) or about.get("attempt")
        STEPS.at(
            f"{name}:answered",
            verdict=getattr(answer, "name", None),
            lease_until=LEASE_UNTIL.get(),
            **{**about, "attempt": told},
        )
        return answer

    setattr(owner, method, traced)


def _blocking_step(owner: Any, method: str, name: str, session_of: Callable[..., str | None]) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    def traced(*arguments: Any, **options: Any) -> Any:
        session = session_of(*arguments)
        STEPS.at(f"{name}:asked", session)
        try:
            return original(*arguments, **options)
        finally:
            STEPS.at(f"{name}:answered", session)

    setattr(owner, method, traced)


class JumpingDatetime(datetime):
    """`datetime` whose `now` is off by what this process is told."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + timedelta(seconds=STEPS.clock_is_off_by())


def _note_leases() -> None:
    original = ledger._verdict

    def noted(data: dict[str, Any]) -> ledger.Verdict:
        LEASE_UNTIL.set(data.get("lease_expires_at"))
        return original(data)

    ledger._verdict = noted


def _treat_shop_as_foreign() -> None:
    original = image_processor.ImageFetcher.fetch

    async def fetch(self: Any, url: str, **options: Any) -> Any:
        try:
            return await original(self, url, **options)
        except ImageUnreachable as error:
            if SHOP_HOST not in url:
                raise
            raise ImageUnreachable(
                error.code, error.detail, trusted_origin=False, retry_after=error.retry_after
            ) from error

    image_processor.ImageFetcher.fetch = fetch  # type: ignore[method-assign]


def _name_steps() -> None:
    for method in (
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
    ):
        _step(ledger.Ledger, method, method)
    for method in ("upload", "exists", "sign"):
        _step(storage.ResultStore, method, method)
    _step(image_processor.ImageProcessor, "download_and_resize", "images")
    _step(slots.SlotLine, "take", "slot")
    _step(AsyncImages, "edit", "call")
    _blocking_step(runtime, "publish_again", "publish", lambda _app, task: str(task["session_id"]))
    _blocking_step(
        celery.app.task.Task,
        "retry",
        "retry",
        lambda task: str(task.request.args[0].get("session_id")) if task.request.args else None,
    )
    _blocking_step(kombu.transport.redis.QoS, "ack", "ack", lambda *_: None)


def _hurry(pace: float) -> None:
    ledger.LEASE_SECONDS = recovery.LEASE_SECONDS = max(1, round(30 / pace))  # type: ignore[misc, attr-defined]
    leases.RENEW_SECONDS = 10.0 / pace  # type: ignore[misc]
    recovery.SWEEP_SECONDS = 10.0 / pace  # type: ignore[misc]
    recovery.RECOVERY_GRACE = max(2, round(60 / pace))  # type: ignore[misc]
    image_processor.FOREIGN_HOST_PATIENCE = 60.0 / pace  # type: ignore[misc]


def _let_clock_jump() -> None:
    for module in (jobs, recovery, celery.app.base):
        module.datetime = JumpingDatetime  # type: ignore[attr-defined]
    original = kombu.transport.redis.time
    kombu.transport.redis.time = lambda: original() + STEPS.clock_is_off_by()


if __name__ == "__main__":
    _name_steps()
    _note_leases()
    _hurry(STEPS.pace)
    _let_clock_jump()
    _treat_shop_as_foreign()
    sys.exit(wearon_generator.__main__.main([]))
