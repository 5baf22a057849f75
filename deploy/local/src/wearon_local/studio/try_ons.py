"""A try-on as the studio page follows it: what the session's row and its ledger row say, as timed steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from wearon_contracts.sessions import SETTLED
from wearon_local.app.next_app import Job, NextApp

StepName = Literal["queued", "held", "working", "storing", "retrying", "lost", "completed", "failed"]

PROMPTS: Final = {
    "normal": "",
    "slow": "[[standin:slow=8]]",
    "rate_limited_once": "[[standin:rate_limit_once=3]]",
    "rate_limited": "[[standin:rate_limit=3]]",
    "blocked": "[[standin:moderation_blocked]]",
    "broken": "[[standin:500]]",
}
"""What is said to the OpenAI stand-in, by the name of the page's button."""

_NO_PICTURE: Final = "https://shop.example/lost.jpg"

_QUERY: Final = """
    select s.status, s.created_at, s.completed_at, s.error_message, s.processing_time_ms,
           s.input_tokens, s.output_tokens, s.estimated_cost_usd,
           l.state, coalesce(l.attempt, 0) as attempt, l.holder, l.recovering, l.lease_expires_at, l.held_at,
           l.claimed_at, l.due_at, l.settled_at, l.error_code, l.refund_state,
           (select max(u.created_at) from generation_usage u where u.session_id = s.id) as answered_at,
           clock_timestamp() as now
      from generation_sessions s
      left join generation_ledger l on l.channel = 'b2c' and l.session_id = s.id
     where s.id = %s"""


@dataclass(frozen=True, slots=True)
class Step:
    """What a try-on is at from `began_at` to `ended_at`; the last one of a settled try-on takes no time."""

    name: StepName
    began_at: datetime
    ended_at: datetime | None
    seconds: float


@dataclass
class Timeline:
    """Collects the moments at which a try-on changed from what its rows say at each look.

    The database's own times serve where it keeps them; the rest counts from the look that saw it.
    """

    _moments: dict[tuple[StepName, object], datetime] = field(default_factory=dict)

    def look(self, row: dict[str, Any]) -> list[Step]:
        """Take in one row of the query above; all steps so far, oldest first."""
        for name, key, at in _moments(row):
            self._moments.setdefault((name, key), at)
        begun = sorted(self._moments.items(), key=lambda item: item[1])
        settled = row["status"] in SETTLED
        steps = []
        for index, ((name, _), began_at) in enumerate(begun):
            last = index == len(begun) - 1
            ended_at = begun[index + 1][1] if not last else began_at if settled else None
            seconds = ((ended_at or row["now"]) - began_at).total_seconds()
            steps.append(Step(name, began_at, ended_at, max(0.0, seconds)))
        return steps


def _moments(row: dict[str, Any]) -> Iterator[tuple[StepName, object, datetime]]:
    now = row["now"]
    yield "queued", None, row["created_at"]
    if row["held_at"] is not None:
        yield "held", None, row["held_at"]
    if row["claimed_at"] is not None:
        yield "working", row["attempt"], row["claimed_at"]
    answered = row["answered_at"]
    if answered is not None and row["claimed_at"] is not None and answered >= row["claimed_at"]:
        yield "storing", answered, answered
    if row["status"] in SETTLED:
        yield row["status"], None, row["settled_at"] or row["completed_at"] or now
    elif row["state"] == "retrying":
        yield "retrying", row["due_at"], now
    elif row["recovering"] or (row["lease_expires_at"] is not None and row["lease_expires_at"] < now):
        yield "lost", row["attempt"], now
    elif row["state"] == "waiting" and row["claimed_at"] is not None:
        # Taken over from a worker that is gone; held_at stays that of the first one.
        yield "held", row["holder"], now


class TryOns:
    """The try-ons of one user, made for the page, whose credits they cost."""

    def __init__(self, app: NextApp, *, credits: int) -> None:
        self._app = app
        self._user_id = app.create_user(credits=credits)
        self._jobs: dict[UUID, tuple[Job, Timeline]] = {}

    @property
    def balance(self) -> int:
        return self._app.balance(self._user_id)

    def add_credits(self, amount: int) -> None:
        """As if the user had bought some."""
        self._app.rows(
            "update user_credits set balance = balance + %s, total_earned = total_earned + %s"
            " where user_id = %s returning balance",
            amount,
            amount,
            self._user_id,
        )

    def start(self, pictures: list[tuple[bytes, str]], behaviour: str) -> UUID:
        """Upload (data, content type) pairs, person first, deduct, write the row, push.

        Raises ValueError without a credit left.
        """
        urls = [self.upload(data, content_type) for data, content_type in pictures]
        # What strikes the first call only must not have struck for an earlier try-on of the same pictures.
        prompt = PROMPTS[behaviour] and f"{PROMPTS[behaviour]} {uuid4()}"
        job = self._app.b2c_job(self._user_id, image_urls=urls, prompt=prompt)
        self._jobs[job.session_id] = (job, Timeline())
        self._app.push(job)
        return job.session_id

    def upload(self, data: bytes, content_type: str) -> str:
        """Put a picture into the user's folder and sign it, as the app does."""
        path = f"uploads/{self._user_id}/{hashlib.sha256(data).hexdigest()}"
        return self._app.sign(self._app.upload(path, data, content_type=content_type))

    def push_invalid(self) -> None:
        """A task that lost its pictures on the way; its session fails and its credit comes back."""
        self.add_credits(1)
        job = self._app.b2c_job(self._user_id, image_urls=[_NO_PICTURE])
        self._app.push_raw(json.dumps({**job.task, "image_urls": "lost"}).encode())

    def view(self, session_id: UUID) -> dict[str, Any]:
        """What the page shows of a try-on. Raises KeyError for one that was not started here."""
        job, timeline = self._jobs[session_id]
        [row] = self._app.rows(_QUERY, session_id)
        steps = timeline.look(row)
        moved = [(t["type"], t["amount"]) for t in self._app.transactions(job)]
        return {
            "id": str(session_id),
            "request_id": job.request_id,
            "status": row["status"],
            "settled": row["status"] in SETTLED,
            "attempts": row["attempt"],
            "steps": [
                {"name": s.name, "seconds": round(s.seconds, 3), "open": s.ended_at is None} for s in steps
            ],
            "seconds": round(sum(s.seconds for s in steps), 3),
            "error": {"code": row["error_code"], "sentence": row["error_message"]}
            if row["status"] == "failed"
            else None,
            "given_back": any(kind == "refund" for kind, _ in moved),
            "balance": self.balance,
            "tokens": [row["input_tokens"], row["output_tokens"]],
            "cost_usd": None if row["estimated_cost_usd"] is None else float(row["estimated_cost_usd"]),
        }

    def cancel(self, session_id: UUID) -> bool:
        """As the user; whether it was in time. Raises KeyError for one that was not started here."""
        job, _ = self._jobs[session_id]
        answer = self._app.cancel(job, as_user=self._user_id)
        return answer.verdict in ("cancelled", "already_cancelled")

    def picture(self, session_id: UUID) -> bytes | None:
        """The finished picture. Raises KeyError for a try-on that was not started here."""
        return self._app.stored(self._jobs[session_id][0])
