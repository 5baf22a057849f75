"""A database as the application has it, with the ledger applied, behind a real PostgREST.

Tests ask for the fixture `ledger`.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from wearon_contracts.errors import ErrorCode, sentence
from wearon_local import downloads
from wearon_local.app.tables import AppTables, BillingMode
from wearon_local.paths import SUPABASE_DIR
from wearon_local.postgres_server import PostgresServer
from wearon_local.processes import Nursery, free_port, wait_until
from wearon_local.standins import tokens

APPLICATION_FILES: Final = sorted((SUPABASE_DIR / "dev").glob("0*.sql"))
MIGRATION_FILES: Final = sorted((SUPABASE_DIR / "migrations").glob("*.sql"))

_TABLES: Final = (
    "generation_ledger, generation_usage, generation_sessions, store_generation_sessions, user_credits,"
    " credit_transactions, stores, store_credits, store_credit_transactions, store_shopper_credits,"
    " generation_webhook_endpoints, generation_webhook_outbox, generation_lane_rules"
)

T = TypeVar("T")
Row = dict[str, Any]
_PICTURES: Final = ["https://example.com/person.jpg"]

Paying = Literal["absorb", "overage", "resell"]


class RpcRefused(Exception):
    """What PostgREST answered instead of a result; `code` is a SQLSTATE or one of its own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Session:
    """A session of either table, and whose it is."""

    channel: str
    id: UUID
    owner: UUID
    request_id: str | None
    shopper: str | None = None
    """The e-mail address of the shopper who paid; None if the owner did."""

    @property
    def named(self) -> Row:
        """The arguments by which a ledger function names it."""
        return {"p_channel": self.channel, "p_session_id": str(self.id)}

    def task(self, **changes: object) -> Row:
        """The task that the producer pushes for it."""
        owner_key = "user_id" if self.channel == "b2c" else "store_id"
        return {
            "task_id": str(uuid.uuid4()),
            "channel": self.channel,
            owner_key: str(self.owner),
            "session_id": str(self.id),
            "image_urls": _PICTURES,
            "prompt": "",
            "request_id": self.request_id or "",
            "created_at": "2026-01-01T00:00:00.000Z",
            **changes,
        }


class LedgerDatabase:
    """The database, as its superuser (`rows`, `run`) and through PostgREST as a role of the API (`rpc`)."""

    def __init__(self, server: PostgresServer, rest_url: str, jwt_secret: str) -> None:
        self.server = server
        self._secret = jwt_secret
        self._service_token = tokens.api_key(jwt_secret, "service_role")
        self.rest_url = rest_url
        self._rest = httpx.Client(base_url=rest_url, timeout=20, limits=httpx.Limits(max_connections=100))
        self._threads = ThreadPoolExecutor(4)
        self._app = AppTables(lambda query, parameters: self.rows(query, *parameters))
        self._admin = psycopg.connect(server.url, autocommit=True, row_factory=dict_row)

    def close(self) -> None:
        self._threads.shutdown()
        self._rest.close()
        self._admin.close()

    def reset(self) -> None:
        """Take back what a test left behind."""
        self.run(f"truncate {_TABLES}")

    # ------------------------------------------------------------------ SQL

    def connect(self) -> psycopg.Connection[Row]:
        """A further superuser connection, for a transaction that stays open."""
        return psycopg.connect(self.server.url, row_factory=dict_row)

    def run(self, statement: str, *parameters: object) -> None:
        self._admin.execute(statement.encode(), parameters or None)

    def rows(self, query: str, *parameters: object) -> list[Row]:
        return self._admin.execute(query.encode(), parameters or None).fetchall()

    def row(self, query: str, *parameters: object) -> Row:
        (only,) = self.rows(query, *parameters)
        return only

    def value(self, query: str, *parameters: object) -> Any:
        (value,) = self.row(query, *parameters).values()
        return value

    def migrate_again(self) -> None:
        """Apply the migrations once more, as somebody may at any time."""
        self.server.apply(MIGRATION_FILES)

    def wait_for_a_blocked_call(self, calls: int = 1) -> None:
        """Until so many calls through PostgREST wait for a lock that somebody else holds."""
        wait_until(
            lambda: self.value(
                "select count(*) >= %s from pg_stat_activity"
                " where usename = 'authenticator' and wait_event_type = 'Lock'",
                calls,
            ),
            timeout=5,
            what="a call waits for a lock",
            every=0.01,
        )

    # ------------------------------------------------------------ PostgREST

    def rpc(self, function: str, *, token: str | None = None, **parameters: object) -> Any:
        """Call a function as the service role, or as whom `token` says. Raises RpcRefused."""
        response = self._rest.post(f"/rpc/{function}", json=parameters, headers=self._headers(token))
        if response.status_code >= 400:
            raise RpcRefused(response.json()["code"], response.json()["message"])
        return response.json()

    def get(self, path: str, *, token: str | None = None) -> httpx.Response:
        return self._rest.get(path, headers=self._headers(token))

    def plan(self, path: str) -> str:
        """How PostgreSQL would answer this request of the service role."""
        headers = {**self._headers(None), "Accept": "application/vnd.pgrst.plan+text"}
        return self._rest.get(path, headers=headers).raise_for_status().text

    def patch(self, path: str, values: Row, *, token: str) -> httpx.Response:
        headers = {**self._headers(token), "Prefer": "return=representation"}
        return self._rest.patch(path, json=values, headers=headers)

    def user_token(self, user: UUID) -> str:
        return tokens.user_token(self._secret, user)

    def anon_token(self) -> str:
        return tokens.api_key(self._secret, "anon")

    @property
    def service_headers(self) -> dict[str, str]:
        """With which a client of one's own is the service role."""
        return self._headers(None)

    def _headers(self, token: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self._service_token}"}

    def in_background(self, call: Callable[[], T]) -> Future[T]:
        """Make a call in a thread of its own."""
        return self._threads.submit(call)

    # ---------------------------------------------------------- the ledger

    def hold(self, session: Session, holder: str, *, lease: int = 30, **task: object) -> Row:
        return self._answer("hold", p_task=session.task(**task), p_holder=holder, p_lease_seconds=lease)

    def claim(
        self, session: Session, holder: str, *, lease: int = 30, most: int = 5, call_begins: bool = True
    ) -> Row:
        return self._answer(
            "claim",
            **session.named,
            p_holder=holder,
            p_lease_seconds=lease,
            p_deadline_seconds=300,
            p_max_attempts=most,
            p_call_begins=call_begins,
        )

    def begin_call(self, session: Session, holder: str, attempt: int) -> Row:
        return self._answer("begin_call", **session.named, p_holder=holder, p_attempt=attempt)

    def cancel(self, session: Session, *, token: str | None = None) -> Row:
        answer: Row = self.rpc("generation_cancel", token=token, p_session_id=str(session.id))
        return answer

    def begin(self, session: Session, holder: str) -> int:
        """Hold and claim; returns the attempt."""
        assert self.hold(session, holder)["verdict"] == "held"
        claimed = self.claim(session, holder)
        assert claimed["verdict"] == "claimed"
        return int(claimed["attempt"])

    def renew(self, *holders: str, lease: int = 30) -> list[str]:
        renewed: list[str] = self.rpc("generation_renew", p_holders=holders, p_lease_seconds=lease)
        return renewed

    def release(self, session: Session, holder: str, **periods: int) -> Row:
        return self._answer("release", **session.named, p_holder=holder, **periods)

    def check(self, session: Session, holder: str, attempt: int) -> Row:
        return self._answer("check", **session.named, p_holder=holder, p_attempt=attempt)

    def requeue(
        self, session: Session, holder: str, attempt: int, *, delay: int = 10, most: int = 1, **periods: int
    ) -> Row:
        return self._answer(
            "requeue",
            **session.named,
            p_holder=holder,
            p_attempt=attempt,
            p_delay_seconds=delay,
            p_max_retries=most,
            p_error_code="rate_limited",
            **periods,
        )

    def postpone(self, session: Session, holder: str, attempt: int, **periods: int) -> Row:
        return self._answer("postpone", **session.named, p_holder=holder, p_attempt=attempt, **periods)

    def record_usage(self, session: Session, call_id: UUID, *, tokens_in: int = 100) -> Row:
        return self._answer(
            "record_usage",
            **session.named,
            p_call_id=str(call_id),
            p_attempt=1,
            p_model="gpt-image-2.6-sunburst",
            p_input_tokens=tokens_in,
            p_output_tokens=2000,
            p_cost_usd="0.064321",
        )

    def complete(self, session: Session, holder: str, attempt: int, **changes: object) -> Row:
        figures = {
            "p_object_path": f"generated/{session.owner}/{session.id}.jpg",
            "p_result_url": "https://example.com/result.jpg",
            "p_processing_time_ms": 12345,
            "p_input_tokens": 1500,
            "p_output_tokens": 2500,
            "p_cost_usd": "0.081234",
        }
        return self._answer(
            "complete", **session.named, p_holder=holder, p_attempt=attempt, **{**figures, **changes}
        )

    def fail(self, session: Session, holder: str, attempt: int, code: str = "internal_error") -> Row:
        return self._answer(
            "fail",
            **session.named,
            p_holder=holder,
            p_attempt=attempt,
            p_error_code=code,
            p_message="Something went wrong on our side. Please try again.",
        )

    def reject(self, session: Session) -> Row:
        return self._answer(
            "reject", **session.named, p_error_code="invalid_task", p_message="It could not be read."
        )

    def recover(self, *, limit: int = 100, grace: int = 60) -> list[Row]:
        found: list[Row] = self.rpc("generation_recover", p_limit=limit, p_grace_seconds=grace)
        return found

    def orphans(
        self, *, created_before: str | None = None, stuck_after: int = 300, limit: int = 100, **periods: int
    ) -> list[Row]:
        found: list[Row] = self.rpc(
            "generation_orphans",
            p_created_before=created_before,
            p_stuck_after_seconds=stuck_after,
            p_limit=limit,
            **periods,
        )
        return found

    def reap(self, *sessions: Session, stuck_after: int = 300, **periods: int) -> list[Row]:
        results: list[Row] = self.rpc(
            "generation_reap",
            p_sessions=[{"channel": s.channel, "session_id": str(s.id)} for s in sessions],
            p_stuck_after_seconds=stuck_after,
            p_error_code="stuck",
            p_message=sentence(ErrorCode.STUCK),
            **periods,
        )
        return results

    def outcome(self, session: Session, *, token: str | None = None) -> Row | None:
        answer: Row | None = self.rpc("generation_outcome", token=token, p_session_id=str(session.id))
        return answer

    def _answer(self, function: str, **parameters: Any) -> Row:
        answer: Row = self.rpc(f"generation_{function}", **parameters)
        return answer

    # ------------------------------------------- what the application does

    def user(self, *, balance: int = 10) -> UUID:
        return self._app.create_user(credits=balance)

    def store(self, mode: BillingMode = "absorb_mode", *, balance: int = 10) -> UUID:
        return self._app.create_store(credits=balance, billing_mode=mode)

    def shopper(self, store: UUID) -> str:
        """A shopper of the store, with credits; returns the e-mail address."""
        return self._app.create_shopper(store)

    def b2c(self, user: UUID | None = None, *, status: str = "queued", age: int = 0) -> Session:
        """A session that its user has paid for, made `age` seconds ago."""
        user, session = user or self.user(), uuid.uuid4()
        self._app.take_from_user(user, session)
        self._app.add_b2c_session(user, session, urls=_PICTURES, status=status, age=age)
        return Session("b2c", session, user, None)

    def b2b(
        self, paying: Paying = "absorb", *, status: str = "queued", age: int = 0, amount: int = 1
    ) -> Session:
        """A session of a new store, paid for as `paying` says."""
        store = self.store(
            "resell_mode" if paying == "resell" else "absorb_mode", balance=0 if paying == "overage" else 10
        )
        session = Session(
            "b2b",
            uuid.uuid4(),
            store,
            f"req-{uuid.uuid4()}",
            self.shopper(store) if paying == "resell" else None,
        )
        assert session.request_id
        self._app.take_from_store(
            store, session.id, session.request_id, shopper_email=session.shopper, credits=amount
        )
        email = session.shopper or f"{uuid.uuid4()}@example.com"  # rows have one, whoever pays
        return self._add_b2b(session, email=email, status=status, age=age)

    def b2b_row(
        self, store: UUID, request_id: str | None, *, email: str | None, status: str = "queued", age: int = 0
    ) -> Session:
        """A session row alone, nothing deducted."""
        session = Session("b2b", uuid.uuid4(), store, request_id)
        return self._add_b2b(session, email=email, status=status, age=age)

    def _add_b2b(self, session: Session, *, email: str | None, status: str, age: int) -> Session:
        self._app.add_b2b_session(
            session.owner,
            session.id,
            request_id=session.request_id,
            shopper_email=email,
            urls=_PICTURES,
            status=status,
            age=age,
        )
        return session

    def cron(self) -> int:
        """The application's own recovery, all in one transaction."""
        return int(self.value("select app_recover_stuck_sessions()"))

    # -------------------------------------------------------------- looking

    def session_row(self, session: Session) -> Row:
        table = "generation_sessions" if session.channel == "b2c" else "store_generation_sessions"
        return self.row(f"select * from {table} where id = %s", session.id)

    def status(self, session: Session) -> str:
        return str(self.session_row(session)["status"])

    def entry(self, session: Session) -> Row:
        """The session's row in the ledger."""
        return self.row("select * from generation_ledger where session_id = %s", session.id)

    def knows(self, session: Session) -> bool:
        return bool(
            self.value("select exists (select from generation_ledger where session_id = %s)", session.id)
        )

    def balance(self, session: Session) -> int:
        """What whoever paid for the session has now."""
        return self._app.balance(session.owner, session.shopper)

    def refunds(self, session: Session) -> int:
        """How many refunds its owner has been given."""
        table, owner = (
            ("credit_transactions", "user_id")
            if session.channel == "b2c"
            else ("store_credit_transactions", "store_id")
        )
        return int(
            self.value(f"select count(*) from {table} where {owner} = %s and type = 'refund'", session.owner)
        )

    def expire(self, session: Session) -> None:
        """Let the lease of a session have run out."""
        self.run(
            "update generation_ledger set lease_expires_at = now() - interval '5 seconds'"
            " where session_id = %s and state <> 'settled'",
            session.id,
        )

    def make_due(self, session: Session) -> None:
        """Let the wait before a retry be over."""
        self.run("update generation_ledger set due_at = now() where session_id = %s", session.id)


def all_at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Run the calls in threads of their own and return what each returned or raised."""

    def caught(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RpcRefused as refused:
            return refused

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(caught, calls))


def prepared_database(server: PostgresServer, name: str, files: list[Any]) -> psycopg.Connection[Row]:
    """A further database on the server with these files applied; returns a superuser connection to it."""
    with server.connect() as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    url = server.url.removesuffix("/postgres") + f"/{name}"
    opened = psycopg.connect(url, autocommit=True, row_factory=dict_row)
    for file in files:
        opened.execute(file.read_bytes())
    return opened


@pytest.fixture(scope="session")
def ledger_server() -> Iterator[LedgerDatabase]:
    nursery = Nursery()
    try:
        server = PostgresServer(nursery, free_port())
        server.start()
        server.apply([*APPLICATION_FILES, *MIGRATION_FILES])
        server.let_postgrest_in()
        rest_port = free_port()
        secret = secrets.token_hex(32)
        postgrest = nursery.start(
            "postgrest",
            [downloads.postgrest()],
            env={
                "PGRST_DB_URI": server.authenticator_url(),
                "PGRST_DB_SCHEMAS": "public",
                "PGRST_DB_ANON_ROLE": "anon",
                "PGRST_DB_PLAN_ENABLED": "true",
                "PGRST_DB_POOL": "30",
                "PGRST_JWT_SECRET": secret,
                "PGRST_SERVER_HOST": "127.0.0.1",
                "PGRST_SERVER_PORT": str(rest_port),
            },
        )
        database = LedgerDatabase(server, f"http://127.0.0.1:{rest_port}", secret)
        postgrest.wait_until(lambda: _answers(database), what="PostgREST answers")
        yield database
        database.close()
    finally:
        nursery.close()


@pytest.fixture
def ledger(ledger_server: LedgerDatabase) -> LedgerDatabase:
    ledger_server.reset()
    return ledger_server


def _answers(database: LedgerDatabase) -> bool:
    try:
        return bool(database.rpc("generation_schema_version"))
    except (httpx.TransportError, RpcRefused):
        return False
