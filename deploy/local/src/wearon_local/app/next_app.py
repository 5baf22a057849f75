"""Does what the Next.js app does around a try-on: accounts, credits, session rows, uploads, the push.

It asks the database directly and the gateway with the header that spares it the faults tests inject.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import httpx
import psycopg
import redis
from psycopg import sql
from psycopg.rows import dict_row

from wearon_contracts.outcomes import CANCEL_FUNCTION, OUTCOME_FUNCTION, CancelAnswer
from wearon_contracts.queues import TASK_LIST
from wearon_contracts.sessions import SETTLED
from wearon_local.app.tables import AppTables, BillingMode
from wearon_local.paths import SAMPLES_DIR
from wearon_local.processes import wait_until
from wearon_local.standins import tokens

SIX_HOURS: Final = 6 * 3600

SAMPLE_PERSON: Final = SAMPLES_DIR / "person-rendered-1.jpg"
SAMPLE_GARMENT: Final = SAMPLES_DIR / "garment-drawn-tshirt.jpg"
SAMPLE_ACCESSORY: Final = SAMPLES_DIR / "accessory-drawn-cap.jpg"
SAMPLE_SHOP_PERSON: Final = SAMPLES_DIR / "person-rendered-2.jpg"
SAMPLE_SHOP_GARMENT: Final = SAMPLES_DIR / "garment-drawn-dress.jpg"


def uuid7() -> UUID:
    """A UUID of version 7, as the app's session ids are."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


@dataclass(frozen=True, slots=True)
class Job:
    """A try-on of which the row exists and the credit is deducted; `task` is what is pushed for it."""

    channel: Literal["b2c", "b2b"]
    session_id: UUID
    owner_id: UUID
    request_id: str
    task: dict[str, Any]
    shopper_email: str | None = None

    @property
    def table(self) -> str:
        return "generation_sessions" if self.channel == "b2c" else "store_generation_sessions"

    @property
    def result_path(self) -> str:
        """Where in the bucket the result belongs."""
        owner = f"generated/{self.owner_id}" if self.channel == "b2c" else f"stores/{self.owner_id}/generated"
        return f"{owner}/{self.session_id}.jpg"


@dataclass
class NextApp:
    """The app's side of one stack. Safe to use from several threads."""

    database_url: str
    redis_url: str
    gateway_url: str
    service_role_key: str
    jwt_secret: str
    bucket: str
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _connection: psycopg.Connection[dict[str, Any]] | None = None

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> NextApp:
        """What containers of docker-compose.yml are told; raises KeyError for a missing variable."""
        return cls(
            database_url=env["DATABASE_URL"],
            redis_url=env["REDIS_URL"],
            gateway_url=env["SUPABASE_URL"],
            service_role_key=env["SUPABASE_SERVICE_ROLE_KEY"],
            jwt_secret=env["SUPABASE_JWT_SECRET"],
            bucket=env.get("STORAGE_BUCKET", "images"),
        )

    def __post_init__(self) -> None:
        self._tables = AppTables(self._all)
        self._redis = _connect(self.redis_url)
        headers = {"authorization": f"Bearer {self.service_role_key}", "x-wearon-local": "direct"}
        self._http = httpx.Client(headers=headers, timeout=30, trust_env=False)

    # Accounts

    def create_user(self, *, credits: int = 10) -> UUID:
        """A user with a balance."""
        return self._tables.create_user(credits=credits)

    def delete_user(self, user_id: UUID) -> None:
        """Forget a user in the application's order: sessions, then what was paid."""
        for table in ("generation_sessions", "credit_transactions", "user_credits"):
            self.rows(f"delete from {table} where user_id = %s returning 1", user_id)

    def create_store(self, *, credits: int = 10, billing_mode: BillingMode = "absorb_mode") -> UUID:
        """A store with a balance; with none left its try-ons are overage."""
        return self._tables.create_store(credits=credits, billing_mode=billing_mode)

    def create_shopper(self, store_id: UUID, *, credits: int = 10) -> str:
        """A shopper of a store in resell_mode; returns the e-mail address."""
        return self._tables.create_shopper(store_id, credits=credits)

    def user_token(self, user_id: UUID) -> str:
        """What the user's browser sends as a bearer token."""
        return tokens.user_token(self.jwt_secret, user_id)

    def balance(self, owner_id: UUID, shopper_email: str | None = None) -> int:
        """Of a user, of a store, or of a store's shopper."""
        return self._tables.balance(owner_id, shopper_email)

    # Pictures

    def upload(self, path: str, picture: bytes | Path, *, content_type: str = "image/jpeg") -> str:
        """Store a picture in the bucket and return its path there."""
        data = picture.read_bytes() if isinstance(picture, Path) else picture
        headers = {"content-type": content_type, "x-upsert": "true"}
        url = f"{self.gateway_url}/storage/v1/object/{self.bucket}/{path}"
        self._http.post(url, content=data, headers=headers).raise_for_status()
        return path

    def sign(self, path: str, *, seconds: int = SIX_HOURS) -> str:
        """A signed URL as the app puts into image_urls; negative `seconds`: one that has expired."""
        token = tokens.object_token(self.jwt_secret, self.bucket, path, seconds=seconds)
        return f"{self.gateway_url}/storage/v1/object/sign/{self.bucket}/{path}?token={token}"

    def upload_inputs(self, user_id: UUID, pictures: Sequence[bytes | Path]) -> list[str]:
        """Upload a user's pictures and sign them."""
        return [self.sign(self.upload(f"uploads/{user_id}/{uuid4()}.jpg", p)) for p in pictures]

    def sample_url(self, picture: Path) -> str:
        """Where a shop shows a sample picture."""
        return f"{self.gateway_url}/samples/{picture.name}"

    def stored(self, job: Job) -> bytes | None:
        """The job's result object; None if there is none."""
        url = f"{self.gateway_url}/storage/v1/object/authenticated/{self.bucket}/{job.result_path}"
        answer = self._http.get(url)
        return answer.content if answer.is_success else None

    def download(self, url: str) -> httpx.Response:
        """Fetch as a browser would, without any key."""
        return httpx.get(url, timeout=30, trust_env=False, headers={"x-wearon-local": "direct"})

    # Try-ons

    def b2c_job(
        self,
        user_id: UUID,
        *,
        image_urls: Sequence[str] | None = None,
        prompt: str = "",
        request_id: str | None = None,
        **task_changes: Any,
    ) -> Job:
        """A user's try-on: deduct one credit, write the row, make the task.

        Without `image_urls` the sample person and garment are uploaded. `task_changes` are set in the task
        after that; a value of None takes the key out. Raises ValueError if the balance does not suffice.
        """
        urls = list(image_urls or self.upload_inputs(user_id, [SAMPLE_PERSON, SAMPLE_GARMENT]))
        session_id = uuid7()
        self._tables.take_from_user(user_id, session_id)
        self._tables.add_b2c_session(user_id, session_id, urls=urls, prompt=prompt)
        request_id = request_id or f"req-{uuid4()}"
        task = _task(
            channel="b2c",
            user_id=str(user_id),
            session_id=session_id,
            urls=urls,
            prompt=prompt,
            request_id=request_id,
            changes=task_changes,
        )
        return Job("b2c", session_id, user_id, request_id, task)

    def b2b_job(
        self,
        store_id: UUID,
        *,
        shopper_email: str | None = None,
        image_urls: Sequence[str] | None = None,
        prompt: str = "",
        request_id: str | None = None,
        **task_changes: Any,
    ) -> Job:
        """A store's try-on: the shopper pays if one is named, else the store (or overage); else as b2c."""
        urls = list(image_urls or map(self.sample_url, [SAMPLE_SHOP_PERSON, SAMPLE_SHOP_GARMENT]))
        session_id = uuid7()
        request_id = request_id or f"req-{uuid4()}"
        self._tables.take_from_store(store_id, session_id, request_id, shopper_email=shopper_email)
        self._tables.add_b2b_session(
            store_id,
            session_id,
            request_id=request_id,
            shopper_email=shopper_email,
            urls=urls,
            prompt=prompt,
        )
        task = _task(
            channel="b2b",
            store_id=str(store_id),
            session_id=session_id,
            urls=urls,
            prompt=prompt,
            request_id=request_id,
            changes=task_changes,
        )
        return Job("b2b", session_id, store_id, request_id, task, shopper_email)

    def push(self, *jobs: Job) -> None:
        """LPUSH the jobs' tasks, the first one first."""
        for job in jobs:
            self.push_raw(json.dumps(job.task).encode())

    def push_raw(self, element: bytes) -> None:
        """LPUSH any bytes."""
        self._redis.lpush(TASK_LIST, element)

    def session(self, job: Job) -> dict[str, Any]:
        """The session's row."""
        query = sql.SQL("select * from {} where id = %s").format(sql.Identifier(job.table))
        return self._one(query, job.session_id)

    def statuses(self, jobs: Iterable[Job]) -> dict[UUID, str]:
        """Of all these sessions at once."""
        ids = [job.session_id for job in jobs]
        query = """select id, status from generation_sessions where id = any(%(ids)s)
                   union all select id, status from store_generation_sessions where id = any(%(ids)s)"""
        return {row["id"]: row["status"] for row in self._all(query, {"ids": ids})}

    def wait_settled(self, *jobs: Job, timeout: float = 60) -> list[dict[str, Any]]:
        """Wait until all are completed or failed; their rows in the given order. Raises TimeoutError."""

        def all_settled() -> bool:
            return all(status in SETTLED for status in self.statuses(jobs).values())

        try:
            wait_until(all_settled, timeout=timeout, what="sessions settled")
        except TimeoutError as error:
            open_ones = {str(i): s for i, s in self.statuses(jobs).items() if s not in SETTLED}
            raise TimeoutError(f"{error}; still open: {open_ones}") from None
        return [self.session(job) for job in jobs]

    def transactions(self, job: Job) -> list[dict[str, Any]]:
        """What the credit books say about this try-on, oldest first: amount, type, description."""
        if job.channel == "b2c":
            query = """select amount, type, description from credit_transactions
                       where user_id = %s and description like %s order by created_at"""
            return self._all(query, (job.owner_id, f"%{job.session_id}%"))
        query = """select amount, type, description from store_credit_transactions
                   where store_id = %s and request_id = %s order by created_at"""
        return self._all(query, (job.owner_id, job.request_id))

    def outcome(self, job: Job, *, as_user: UUID | None = None) -> Any:
        """What the RPC generation_outcome tells the user, or the service role."""
        return self._ask_of_session(OUTCOME_FUNCTION, job, as_user)

    def cancel(self, job: Job, *, as_user: UUID | None = None) -> CancelAnswer:
        """Cancel it as the user, or as the service role."""
        return CancelAnswer.model_validate(self._ask_of_session(CANCEL_FUNCTION, job, as_user))

    def _ask_of_session(self, function: str, job: Job, as_user: UUID | None) -> Any:
        token = self.user_token(as_user) if as_user is not None else self.service_role_key
        answer = self._http.post(
            f"{self.gateway_url}/rest/v1/rpc/{function}",
            json={"p_session_id": str(job.session_id)},
            headers={"apikey": self.service_role_key, "authorization": f"Bearer {token}"},
        )
        return answer.raise_for_status().json()

    # The database

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Any query as the superuser, for what the methods above do not tell."""
        return self._all(query, parameters)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
        self._http.close()
        self._redis.close()

    def _one(self, query: str | sql.Composed, *parameters: Any) -> dict[str, Any]:
        rows = self._all(query, parameters)
        if len(rows) != 1:
            raise LookupError(f"{len(rows)} rows for {parameters}")
        return rows[0]

    def _all(self, query: str | sql.Composed, parameters: Any) -> list[dict[str, Any]]:
        with self._lock:
            return self._connected().execute(query, parameters).fetchall()

    def _connected(self) -> psycopg.Connection[dict[str, Any]]:
        if self._connection is None or self._connection.broken or self._connection.closed:
            self._connection = psycopg.connect(
                self.database_url, autocommit=True, row_factory=dict_row, connect_timeout=5
            )
        return self._connection


def _connect(url: str) -> redis.Redis:
    if url.startswith("sentinel://"):
        # Not installed where the studio alone runs, which has one server.
        from wearon_service_kit.redis_clients import connect  # noqa: PLC0415

        return connect(url, name="app")
    return redis.Redis.from_url(url)


def _task(
    *,
    session_id: UUID,
    urls: list[str],
    changes: dict[str, Any],
    **others: str,
) -> dict[str, Any]:
    task = {
        "task_id": str(uuid4()),
        "session_id": str(session_id),
        "image_urls": urls,
        "version": 1,
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **others,
        **changes,
    }
    return {name: value for name, value in task.items() if value is not None}
