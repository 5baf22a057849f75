"""What is left after a run: database, storage, the stand-in's record, traces, dead letters."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tests.chaos.realtime import Listener
from tests.chaos.workload import Accounts, Pushed
from tests.chaos.world import Pace, Replica, Step, World

from wearon_contracts.outcomes import CancelVerdict
from wearon_contracts.queues import DEAD_LETTER_LIST
from wearon_contracts.tasks import DeadLetter
from wearon_local.app.webhook_receiver import Received, WebhookReceiver

Row = dict[str, Any]


@dataclass(slots=True)
class Interference:
    """What the run did that the services cannot prevent. Times are the machine's."""

    redis_losses: list[float] = field(default_factory=list)
    cron_refunds: dict[str, float] = field(default_factory=dict)
    """By session: when the application's cron had given the credit back."""
    cron_failures: dict[str, float] = field(default_factory=dict)
    """By session: when the cron had written `failed` into the row."""
    cancellations: dict[str, list[CancelVerdict]] = field(default_factory=lambda: defaultdict(list))
    """By session: what each who cancelled it was told, oldest first."""


@dataclass
class Evidence:
    """Everything the laws are checked against."""

    pushed: list[Pushed]
    accounts: Accounts
    interference: Interference
    pace: Pace
    replicas: list[Replica]
    steps: list[Step]
    sessions: dict[str, Row]
    ledger: dict[str, Row]
    money: dict[str, list[Row]]
    """By session: what the credit books say about it, oldest first."""
    balances: dict[tuple[UUID, str | None], int]
    calls: dict[str, list[Row]]
    """By session: what the stand-in was asked, oldest first."""
    objects: list[Row]
    downloads: dict[str, str | None]
    """By completed session: the sha256 of what its link leads to, None if it leads nowhere."""
    dead_letters: list[bytes]
    statuses: dict[str, list[str]]
    unexpected_ends: list[str]
    webhooks: dict[str, list[Received]] | None
    """By session: what the receiver was sent; None if there was no endpoint."""
    by_session: dict[str, list[Step]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for step in self.steps:
            if step.session is not None:
                self.by_session[step.session].append(step)

    @property
    def jobs(self) -> dict[str, Pushed]:
        """One element for each session that was pushed and still exists."""
        return {p.session: p for p in reversed(self.pushed) if p.session in self.sessions}

    @property
    def gone(self) -> dict[str, Pushed]:
        """One element for each session that was pushed and whose user was deleted."""
        return {
            p.session: p
            for p in self.pushed
            if p.session is not None and p.job is not None and p.job.owner_id in self.accounts.deleted
        }


def collect(
    world: World,
    listener: Listener,
    pushed: Sequence[Pushed],
    accounts: Accounts,
    interference: Interference,
    receiver: WebhookReceiver | None = None,
) -> Evidence:
    """Look at everything once nothing moves any more; `receiver`: of an endpoint that was told of all."""
    app = world.stack.app
    listener.read()
    jobs = {p.session: p.job for p in pushed if p.job is not None and p.session is not None}
    sessions: dict[str, Row] = {}
    for table, channel in (("generation_sessions", "b2c"), ("store_generation_sessions", "b2b")):
        for row in app.rows(f"select * from {table}"):
            sessions[str(row["id"])] = {**row, "channel": channel}
    calls_by_prompt: dict[str, list[Row]] = defaultdict(list)
    for call in world.stack.openai.calls():
        calls_by_prompt[call["prompt"]].append(call)
    return Evidence(
        pushed=list(pushed),
        accounts=accounts,
        interference=interference,
        pace=world.pace,
        replicas=world.replicas,
        steps=world.traces(),
        sessions=sessions,
        ledger={str(row["session_id"]): row for row in app.rows("select * from generation_ledger")},
        money={session: _money(app, job) for session, job in jobs.items()},
        balances=_balances(app),
        calls={
            session: sorted(calls_by_prompt.get(job.task["prompt"], []), key=lambda call: call["started_at"])
            for session, job in jobs.items()
        },
        objects=[o for o in world.stack.gateway.objects() if not o["name"].startswith("uploads/")],
        downloads={
            session: _download(app, row["generated_image_url"])
            for session, row in sessions.items()
            if row["status"] == "completed"
        },
        dead_letters=_dead_letters(world),
        statuses=dict(listener.statuses),
        unexpected_ends=world.unexpected_ends(),
        webhooks=None if receiver is None else _webhooks(receiver),
    )


def _webhooks(receiver: WebhookReceiver) -> dict[str, list[Received]]:
    found: dict[str, list[Received]] = defaultdict(list)
    for received in receiver.received():
        found[received.event["data"]["session_id"]].append(received)
    return dict(found)


def _money(app: Any, job: Any) -> list[Row]:
    if job.channel == "b2c":
        return list(
            app.rows(
                "select amount, type, description, created_at from credit_transactions"
                " where user_id = %s and description like %s order by created_at",
                job.owner_id,
                f"%{job.session_id}%",
            )
        )
    return list(
        app.rows(
            "select amount, type, description, created_at from store_credit_transactions"
            " where store_id = %s and request_id = %s order by created_at",
            job.owner_id,
            job.request_id,
        )
    )


def _balances(app: Any) -> dict[tuple[UUID, str | None], int]:
    rows = app.rows(
        """select user_id as owner, null as shopper, balance from user_credits
           union all select store_id, null, balance from store_credits
           union all select store_id, shopper_email, balance from store_shopper_credits"""
    )
    return {(row["owner"], row["shopper"]): row["balance"] for row in rows}


def _download(app: Any, url: str | None) -> str | None:
    answer = app.download(url) if url else None
    return hashlib.sha256(answer.content).hexdigest() if answer is not None and answer.is_success else None


def _dead_letters(world: World) -> list[bytes]:
    letters = [DeadLetter.model_validate_json(raw) for raw in world.redis.lrange(DEAD_LETTER_LIST, 0, -1)]
    return [
        base64.b64decode(letter.raw) if letter.encoding == "base64" else letter.raw.encode()
        for letter in letters
    ]


def moment(text: str) -> float:
    """Seconds since 1970 of an ISO time."""
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def same_json(one: bytes, other: bytes) -> bool:
    """Whether both hold the same value; a generator writes a dead letter anew, a consumer keeps the bytes."""
    if one == other:
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False
