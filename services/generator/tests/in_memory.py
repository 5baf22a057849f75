"""The world around a generator in memory: database, bucket, provider, pictures, slots, breaker, dead letters.

`tests/integration/test_contract_of_doubles.py` holds database and bucket against the real ones.
"""

from __future__ import annotations

import asyncio
import io
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from PIL import Image

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.tasks import Channel, DeadLetterReason, GenerationTask, RejectedTask
from wearon_generator.ledger import SCHEMA_VERSION
from wearon_generator.prices import Usage
from wearon_generator.provider import Generated, ModelState, ModelStatus
from wearon_generator.refusals import Refusal
from wearon_generator.storage import BucketMissing, ResultRefused
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Clock


def _picture() -> bytes:
    encoded = io.BytesIO()
    Image.linear_gradient("L").resize((512, 512)).save(encoded, "JPEG")
    return encoded.getvalue()


PICTURE: Final = _picture()
"""The least that can be delivered."""
SETTLED: Final = ("completed", "failed")

Answer = dict[str, Any]


# ---------------------------------------------------------------------------------------------- faults


@dataclass(slots=True)
class Fault:
    """What happens to one call.

    `unavailable`; `lost`: done, but the answer does not arrive; `hang`: for `seconds`, then unavailable;
    `answer`: done, but it says something else; `after`: `happens` comes first.
    """

    kind: str
    seconds: float = 0.0
    answer: Any = None
    happens: Callable[[], None] | None = None


class Faults:
    """Faults by the name of a call, each for one call."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Fault]] = defaultdict(deque)
        self.calls: list[str] = []

    def add(self, call: str, kind: str, times: int = 1, **details: Any) -> None:
        """Let the next calls of that name go wrong; `details`: see `Fault`."""
        self._waiting[call] += [Fault(kind, **details) for _ in range(times)]

    async def around(self, call: str, work: Callable[[], Any]) -> Any:
        """Do `work` as one call, with what has been arranged for it."""
        self.calls.append(call)
        await asyncio.sleep(0)
        fault = self._waiting[call].popleft() if self._waiting[call] else None
        match fault:
            case None:
                return work()
            case Fault("unavailable"):
                raise SupabaseUnavailable("arranged")
            case Fault("lost"):
                work()
                raise SupabaseUnavailable("answer lost")
            case Fault("hang"):
                await asyncio.sleep(fault.seconds)
                raise SupabaseUnavailable("timed out")
            case Fault("answer"):
                work()
                return fault.answer
            case Fault("after", happens=happens) if happens is not None:
                happens()
                return work()
        raise ValueError(fault.kind)


# ---------------------------------------------------------------------------------------------- database


@dataclass(slots=True)
class SessionRow:
    """A row of either session table."""

    owner_id: str
    status: str = "queued"
    error_message: str | None = None
    url: str | None = None


@dataclass(slots=True)
class LedgerRow:
    """A row of generation_ledger, as far as the generator can tell."""

    channel: str
    session_id: str
    task: Answer | None
    lease_expires_at: float | None
    holder: str | None
    last_holder: str | None = None
    state: str = "waiting"
    attempt: int = 0
    rate_limit_retries: int = 0
    postponed: int = 0
    holders_lost: int = 0
    recovering: bool = False
    due_at: float | None = None
    call_begun: bool = False
    outcome: str | None = None
    settled_by: str | None = None
    error_code: str | None = None
    object_path: str | None = None
    refund: str | None = None
    usage: list[Answer] = field(default_factory=list)


class InMemoryDatabase:
    """The ledger's functions as `deploy/supabase/migrations` has them; every refund succeeds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.faults = Faults()
        self.sessions: dict[tuple[str, str], SessionRow] = {}
        self.rows: dict[tuple[str, str], LedgerRow] = {}
        self.usage: dict[str, Answer] = {}

    async def call(self, function: str, params: dict[str, Any]) -> object:
        """See `Database`."""
        name = function.removeprefix("generation_")
        work = getattr(self, f"_{name}")
        return await self.faults.around(
            name, lambda: work(**{key.removeprefix("p_"): value for key, value in params.items()})
        )

    async def ledger_states(self, session_ids: Sequence[str]) -> object:
        """See `Database`."""
        rows = [
            {"session_id": row.session_id, "state": row.state}
            for row in self.rows.values()
            if row.session_id in session_ids
        ]
        return await self.faults.around("ledger_states", lambda: rows)

    def row(self, task: GenerationTask) -> LedgerRow:
        """The ledger's row of the task's session."""
        return self.rows[task.channel.value, str(task.session_id)]

    def session(self, task: GenerationTask) -> SessionRow:
        """The session's row."""
        return self.sessions[task.channel.value, str(task.session_id)]

    def cancel(self, task: GenerationTask) -> str:
        """Somebody cancels the session of the task at once; the verdict."""
        return str(self._cancel(str(task.session_id))["verdict"])

    def _schema_version(self) -> int:
        return SCHEMA_VERSION

    def _backlog(self) -> dict[str, float]:
        return {"waiting": 0.0}

    def _hold(self, task: Answer, holder: str, lease_seconds: int) -> Answer:
        channel, session_id = task["channel"], task["session_id"]
        key, session = (channel, session_id), self.sessions.get((channel, session_id))
        owner = task["user_id" if channel == Channel.B2C.value else "store_id"]
        if session is not None and session.owner_id != owner:
            return {"verdict": "owner_mismatch"}
        now = self._clock()
        if session is not None and session.status not in SETTLED and key not in self.rows:
            self.rows[key] = LedgerRow(channel, session_id, task, now + lease_seconds, holder)
        row = self.rows.get(key)
        if row is None:
            if session is None:
                return {"verdict": "session_not_found"}
            return {"verdict": "settled", "outcome": session.status}
        self.settle_if_overtaken(row)
        if row.state == "settled":
            return self._answer("session_not_found" if row.settled_by == "gone" else "settled", row)
        if row.holder != holder:
            if row.holder is not None and not row.recovering and self._lease_runs(row):
                return self._answer("held_elsewhere", row)
            row.holders_lost += row.holder is not None
            row.holder, row.state, row.task = holder, "waiting", task
        row.lease_expires_at, row.recovering = now + lease_seconds, False
        return {
            **self._answer("held", row),
            "postponed": row.postponed,
            "holders_lost": row.holders_lost,
        }

    def _claim(
        self,
        channel: str,
        session_id: str,
        holder: str,
        lease_seconds: int,
        deadline_seconds: int,
        max_attempts: int,
        call_begins: bool = True,
    ) -> Answer:
        row = self.rows.get((channel, session_id))
        if row is None:
            return {"verdict": "lost"}
        self.settle_if_overtaken(row)
        now = self._clock()
        if row.state == "settled":
            return self._answer("settled", row)
        if row.holder not in (None, holder) and not row.recovering and self._lease_runs(row):
            return self._answer("lost", row)
        if not (row.holder == holder and row.state == "working"):
            if row.due_at is not None and row.due_at > now:
                return self._answer("not_due", row)
            row.state, row.attempt, row.holder, row.due_at = "working", row.attempt + 1, holder, None
            row.call_begun = row.call_begun or call_begins
            self.sessions[channel, session_id].status = "processing"
        row.lease_expires_at, row.recovering = now + lease_seconds, False
        exhausted = row.attempt - row.rate_limit_retries - row.postponed > max_attempts
        return self._answer("poison" if exhausted else "claimed", row)

    def _begin_call(self, channel: str, session_id: str, holder: str, attempt: int) -> Answer:
        row = self.rows.get((channel, session_id))
        if row is None:
            return {"verdict": "lost"}
        if self._is_current(row, holder, attempt):
            self.settle_if_overtaken(row)
        if row.state == "settled":
            return self._answer("settled", row)
        if not self._is_current(row, holder, attempt):
            return self._answer("lost", row)
        row.call_begun = True
        return self._answer("begun", row)

    def _cancel(self, session_id: str) -> Answer:
        for channel in Channel:
            session, row = self.sessions.get((channel, session_id)), self.rows.get((channel, session_id))
            if session is None:
                continue
            if row is None and session.status == "queued":
                row = LedgerRow(channel, session_id, None, self._clock(), None)
                self.rows[channel, session_id] = row
            verdict = self._cancelled(session, row)
            refund = None if row is None else row.refund
            return {
                "verdict": verdict,
                "given_back": refund == "refunded",
                "refund": None if refund is None else {"state": refund},
            }
        return {"verdict": "session_not_found", "given_back": False, "refund": None}

    def _cancelled(self, session: SessionRow, row: LedgerRow | None) -> str:
        if row is None:
            return session.status if session.status in SETTLED else "too_late"
        if row.settled_by == "cancellation":
            return "already_cancelled"
        if row.outcome is not None:
            return row.outcome
        if row.call_begun:
            return "too_late"
        self.settle_if_overtaken(row)
        if row.outcome is not None:
            return row.outcome
        self._fail_session(row, "cancellation", "cancelled", sentence(ErrorCode.CANCELLED))
        return "cancelled"

    def _renew(self, holders: list[str], lease_seconds: int) -> list[str]:
        mine = [row for row in self.rows.values() if row.holder in holders]
        for row in mine:
            row.lease_expires_at, row.recovering = self._clock() + lease_seconds, False
        return sorted(str(row.holder) for row in mine)

    def _release(self, channel: str, session_id: str, holder: str, return_seconds: int = 60) -> Answer:
        row = self.rows.get((channel, session_id))
        if row is None:
            return {"verdict": "lost"}
        if row.state == "settled":
            return self._answer("settled", row)
        if row.state == "waiting" and row.holder == holder:
            row.holder, row.last_holder, row.recovering = None, holder, False
            row.lease_expires_at = self._clock() + return_seconds
            return self._answer("released", row)
        repeated = row.state == "waiting" and row.holder is None and row.last_holder == holder
        return self._answer("released" if repeated else "lost", row)

    def _check(self, channel: str, session_id: str, holder: str, attempt: int) -> Answer:
        row = self.rows.get((channel, session_id))
        if row is None:
            return {"verdict": "lost"}
        if row.state != "settled" and not self._is_current(row, holder, attempt):
            return self._answer("lost", row)
        self.settle_if_overtaken(row)
        if row.state == "settled":
            return self._answer("gone" if row.settled_by == "gone" else "settled", row)
        return self._answer("current", row)

    def _requeue(
        self,
        channel: str,
        session_id: str,
        holder: str,
        attempt: int,
        delay_seconds: int,
        max_retries: int,
        error_code: str,
        grace_seconds: int = 30,
    ) -> Answer:
        row = self.rows.get((channel, session_id))
        if row is None:
            return {"verdict": "lost"}
        if (row.state, row.last_holder, row.attempt) == ("retrying", holder, attempt):
            return self._answer("requeued", row)
        if self._is_current(row, holder, attempt):
            self.settle_if_overtaken(row)
        elif row.state != "settled":
            return self._answer("lost", row)
        if row.state == "settled":
            return self._answer("settled", row)
        if row.rate_limit_retries >= max_retries:
            return self._answer("exhausted", row)
        row.state, row.rate_limit_retries, row.error_code = "retrying", row.rate_limit_retries + 1, error_code
        row.holder, row.last_holder = None, holder
        row.due_at = self._clock() + delay_seconds
        row.lease_expires_at = row.due_at + grace_seconds
        self.sessions[channel, session_id].status = "queued"
        return self._answer("requeued", row)

    def _postpone(
        self, channel: str, session_id: str, holder: str, attempt: int, return_seconds: int = 60
    ) -> Answer:
        row = self.rows.get((channel, session_id))
        if row is None:
            return {"verdict": "lost"}
        if self._is_current(row, holder, attempt):
            self.settle_if_overtaken(row)
        if row.state == "settled":
            return self._answer("settled", row)
        if self._is_current(row, holder, attempt):
            row.state, row.postponed = "waiting", row.postponed + 1
            row.holder, row.last_holder, row.recovering = None, holder, False
            row.lease_expires_at = self._clock() + return_seconds
            return self._answer("postponed", row)
        repeated = (row.state, row.last_holder, row.attempt) == ("waiting", holder, attempt)
        return self._answer("postponed" if repeated else "lost", row)

    def _record_usage(self, channel: str, session_id: str, call_id: str, **figures: Any) -> Answer:
        self.usage.setdefault(call_id, {"session_id": session_id, **figures})
        return {"verdict": "recorded"}

    def _complete(
        self,
        channel: str,
        session_id: str,
        holder: str,
        attempt: int,
        object_path: str,
        result_url: str,
        **figures: Any,
    ) -> Answer:
        row = self.rows.get((channel, session_id))
        if row is None:
            return {"verdict": "lost"}
        if row.state == "settled":
            return self._answer(self._repeated(row, "completed", holder, attempt), row)
        if not self._is_current(row, holder, attempt):
            return self._answer("lost", row)
        self.settle_if_overtaken(row)
        if row.state == "settled":
            return self._answer("settled", row)
        session = self.sessions[channel, session_id]
        session.status, session.url = "completed", result_url
        row.object_path = object_path
        self._close(row, "completed", "worker")
        return self._answer("completed", row)

    def _fail(
        self, channel: str, session_id: str, holder: str, attempt: int, error_code: str, message: str
    ) -> Answer:
        row = self.rows.get((channel, session_id))
        if row is None:
            return {"verdict": "lost"}
        if row.state == "settled":
            return self._answer(self._repeated(row, "failed", holder, attempt), row)
        if not self._is_current(row, holder, attempt):
            return self._answer("lost", row)
        self.settle_if_overtaken(row)
        if row.state == "settled":
            return self._answer("settled", row)
        self._fail_session(row, "worker", error_code, message)
        return self._answer("failed", row)

    def _reject(self, channel: str, session_id: str, error_code: str, message: str) -> Answer:
        session, row = self.sessions.get((channel, session_id)), self.rows.get((channel, session_id))
        if row is not None:
            verdict = "settled" if row.state == "settled" else "busy"
            return self._answer("failed" if row.settled_by == "rejection" else verdict, row)
        if session is None:
            return {"verdict": "session_not_found"}
        if session.status in SETTLED:
            return {"verdict": "settled", "outcome": session.status}
        if session.status != "queued":
            return {"verdict": "busy"}
        row = self.rows[channel, session_id] = LedgerRow(channel, session_id, None, self._clock(), None)
        self._fail_session(row, "rejection", error_code, message)
        return self._answer("failed", row)

    def _recover(self, limit: int, grace_seconds: int, margin_seconds: int) -> list[Answer]:
        found: list[Answer] = []
        for row in self.rows.values():
            if row.state == "settled" or self._lease_runs(row, margin_seconds) or len(found) == limit:
                continue
            self.settle_if_overtaken(row)
            if row.state != "settled":
                row.recovering, row.lease_expires_at = True, self._clock() + grace_seconds
                found.append(
                    {
                        "channel": row.channel,
                        "session_id": row.session_id,
                        "task": row.task,
                        "attempt": row.attempt,
                    }
                )
        return found

    def _lease_runs(self, row: LedgerRow, margin: float = 0.0) -> bool:
        return row.lease_expires_at is not None and row.lease_expires_at + margin > self._clock()

    @staticmethod
    def _is_current(row: LedgerRow, holder: str, attempt: int) -> bool:
        return (row.state, row.holder, row.attempt) == ("working", holder, attempt)

    @staticmethod
    def _repeated(row: LedgerRow, outcome: str, holder: str, attempt: int) -> str:
        mine = (row.outcome, row.settled_by, row.last_holder, row.attempt)
        return outcome if mine == (outcome, "worker", holder, attempt) else "settled"

    def settle_if_overtaken(self, row: LedgerRow) -> None:
        """Close the row if the session was settled by the application, or is gone."""
        session = self.sessions.get((row.channel, row.session_id))
        if row.state == "settled":
            return
        if session is None:
            row.refund = "none"
            self._close(row, "failed", "gone")
        elif session.status in SETTLED:
            row.refund = "none"
            self._close(row, session.status, "elsewhere")

    def _fail_session(self, row: LedgerRow, settled_by: str, code: str, message: str) -> None:
        session = self.sessions[row.channel, row.session_id]
        session.status, session.error_message = "failed", message
        row.error_code, row.refund = code, "refunded"
        self._close(row, "failed", settled_by)

    @staticmethod
    def _close(row: LedgerRow, outcome: str, settled_by: str) -> None:
        row.state, row.outcome, row.settled_by = "settled", outcome, settled_by
        row.last_holder, row.holder, row.lease_expires_at, row.task = row.holder, None, None, None

    def _answer(self, verdict: str, row: LedgerRow) -> Answer:
        return {
            "verdict": verdict,
            "attempt": row.attempt,
            "rate_limit_retries": row.rate_limit_retries,
            "due_in_seconds": None if row.due_at is None else max(row.due_at - self._clock(), 0.1),
            "outcome": row.outcome,
            "settled_by": row.settled_by,
            "refund": None if row.refund is None else {"state": row.refund},
            "flagged": False,
        }


# ---------------------------------------------------------------------------------------------- bucket


class InMemoryBucket:
    """A bucket; `refuses` makes it one that takes no such picture."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.refuses = False
        self.missing = False

    async def check(self) -> None:
        """See `Bucket`."""
        await self.faults.around("check", lambda: None)
        if self.missing:
            raise BucketMissing("bucket images does not exist")

    async def upload(self, path: str, data: bytes, mime: str) -> None:
        """See `Bucket`."""
        if self.refuses:
            raise ResultRefused("storage error 413")
        await self.faults.around("upload", lambda: self.objects.update({path: (data, mime)}))

    async def exists(self, path: str) -> bool:
        """See `Bucket`."""
        return bool(await self.faults.around("exists", lambda: path in self.objects))

    async def sign(self, path: str, ttl_seconds: int) -> str:
        """See `Bucket`."""

        def signed() -> str:
            if path not in self.objects:
                raise SupabaseUnavailable("storage error 404")
            return f"http://supabase.internal/sign/{path}?for={ttl_seconds}"

        return str(await self.faults.around("sign", signed))

    async def remove(self, paths: list[str]) -> None:
        """See `Bucket`."""

        def removed() -> None:
            for path in paths:
                self.objects.pop(path, None)

        await self.faults.around("remove", removed)


# ------------------------------------------------------------------------------ provider and pictures


class ScriptedProvider:
    """Answers in `latency` seconds: with `PICTURE`, or as `script` says, call by call."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.latency = 8.0
        self.script: deque[Exception | Callable[[], Exception | None]] = deque()
        self.status = ModelStatus("a-model", ModelState.SERVED)
        self.called_at: list[float] = []
        self.prompts: list[str] = []
        self.end_users: list[str] = []
        self.concurrent = 0
        self.most_concurrent = 0

    @property
    def model(self) -> str:
        """See `Provider`."""
        return "a-model"

    async def look_up(self) -> ModelStatus:
        """See `Provider`."""
        return self.status

    async def edit(self, pictures: Sequence[bytes], prompt: str, end_user: str) -> Generated:
        """See `Provider`."""
        self.called_at.append(self._clock())
        self.prompts.append(prompt)
        self.end_users.append(end_user)
        self.concurrent += 1
        self.most_concurrent = max(self.most_concurrent, self.concurrent)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.concurrent -= 1
        step = self.script.popleft() if self.script else None
        outcome = step() if callable(step) else step
        if outcome is not None:
            raise outcome
        return Generated(PICTURE, Usage(100, 2000), None, "a-model")


class InMemoryImages:
    """Pictures that come after `seconds`; `raises` instead of them, if it is set."""

    def __init__(self) -> None:
        self.seconds = 0.5
        self.raises: Exception | None = None
        self.prepared = 0

    async def download_and_resize(self, urls: list[str]) -> list[bytes]:
        """See `Images`."""
        await asyncio.sleep(self.seconds)
        if self.raises is not None:
            raise self.raises
        self.prepared += 1
        return [PICTURE for _ in urls]


# ------------------------------------------------------------------------------------ slots and Redis


class InMemorySlots:
    """A limit of `per_minute`, for any number of replicas."""

    def __init__(self, clock: Clock, per_minute: float = 6000) -> None:
        self._clock = clock
        self._interval = 60 / per_minute
        self._free_at = 0.0
        self.reserved = 0

    def set_limit(self, per_minute: float) -> None:
        """Change the limit."""
        self._interval = 60 / per_minute

    async def reserve(self) -> float:
        """See `SlotSource`."""
        now = self._clock()
        free = max(self._free_at, now)
        self._free_at = free + self._interval
        self.reserved += 1
        return free - now


class AlwaysThere:
    """A presence that nobody pauses."""

    paused = False

    async def start(self) -> None:
        """See `Attendance`."""

    async def stop(self) -> None:
        """See `Attendance`."""

    async def wait_until_resumed(self) -> None:
        """See `Attendance`."""


class InMemoryBreaker:
    """A breaker that opens and closes when the test says so; `fails`: whether a refused job should fail."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.fails = True
        self.closed = asyncio.Event()
        self.closed.set()
        self.events: list[str] = []

    def start(self) -> None:
        """See `ProviderGuard`."""

    async def stop(self) -> None:
        """See `ProviderGuard`."""

    async def wait_until_closed(self) -> None:
        """See `ProviderGuard`."""
        await self.closed.wait()

    def given_to(self, holder: str) -> None:
        """See `ProviderGuard`."""

    def stops(self, holder: str) -> bool:
        """See `Breaker`."""
        return self.reason is not None

    async def refused(self, refusal: Refusal) -> bool:
        """See `Breaker`."""
        self.events.append(refusal.value)
        return self.fails

    async def works(self, call_seconds: float) -> None:
        """See `Breaker`."""
        self.events.append("works")

    async def inconclusive(self, holder: str | None = None) -> None:
        """See `Breaker`."""


class InMemoryLetterBox:
    """Dead letters."""

    def __init__(self) -> None:
        self.letters: list[tuple[object, DeadLetterReason, RejectedTask | None]] = []

    async def add(
        self, message: object, reason: DeadLetterReason, detail: str, session: RejectedTask | None
    ) -> None:
        """See `LetterBox`."""
        self.letters.append((message, reason, session))


class InMemoryLanes:
    """Notes what is reported."""

    def __init__(self) -> None:
        self.reported: list[tuple[str, UUID]] = []

    def started(self, task: GenerationTask) -> None:
        self.reported.append(("started", task.session_id))

    def ended(self, task: GenerationTask) -> None:
        self.reported.append(("ended", task.session_id))


class InMemoryBroker:
    """What was published."""

    def __init__(self) -> None:
        self.published: list[Answer] = []

    def publish_again(self, task: Answer) -> None:
        """See `Broker`."""
        self.published.append(task)

    def deliver_again(self, delivery_tag: str) -> None:
        """See `Broker`."""


def new_task(channel: Channel = Channel.B2C, owner: UUID | None = None, **changes: Any) -> GenerationTask:
    """A valid task of a new session."""
    owner_key = "user_id" if channel is Channel.B2C else "store_id"
    return GenerationTask.model_validate(
        {
            "task_id": str(uuid.uuid4()),
            "channel": channel.value,
            owner_key: str(owner or uuid.uuid4()),
            "session_id": str(uuid.uuid4()),
            "image_urls": ["https://example.com/person.jpg", "https://example.com/coat.jpg"],
            "prompt": "a red coat",
            "request_id": "req-1",
            "created_at": "2026-01-01T00:00:00.000Z",
            **changes,
        }
    )
