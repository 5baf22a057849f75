"""The in-memory database and bucket of the unit tests answer as the real ones do, call by call."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from integration.database import LedgerDatabase, Session
from postgrest import AsyncPostgrestClient
from services.generator.tests.in_memory import InMemoryBucket, InMemoryDatabase, SessionRow

from wearon_generator.ledger import Database, MigrationsMissing, SupabaseDatabase
from wearon_generator.storage import Bucket, BucketMissing, SupabaseBucket
from wearon_generator.supabase_client import SupabaseUnavailable, connect_supabase
from wearon_local.stack import Stack
from wearon_service_kit.environment import Proxies

LEASE = 30
COMPARED = ("verdict", "attempt", "rate_limit_retries", "outcome", "holders_lost", "postponed")


class Books:
    """A database, whichever: its functions as the generator calls them, and what else happens."""

    def __init__(self, database: Database, real: LedgerDatabase) -> None:
        self._database = database
        self._real = real
        self.memory = database if isinstance(database, InMemoryDatabase) else None
        self.answers: list[Any] = []

    def new(self) -> Session:
        session = self._real.b2c()
        if self.memory is not None:
            self.memory.sessions["b2c", str(session.id)] = SessionRow(str(session.owner))
        return session

    async def call(self, function: str, session: Session, **params: Any) -> str:
        """The verdict; the whole answer is compared at the end."""
        answer: Any = await self._database.call(
            f"generation_{function}", {**session.named, **{f"p_{key}": v for key, v in params.items()}}
        )
        self.answers.append((function, {key: answer.get(key) or None for key in COMPARED}))
        refund = answer.get("refund")
        self.answers.append((function, (refund or {}).get("state")))
        return str(answer["verdict"])

    async def hold(self, session: Session, holder: str) -> str:
        answer: Any = await self._database.call(
            "generation_hold",
            {"p_task": session.task(), "p_holder": holder, "p_lease_seconds": LEASE},
        )
        self.answers.append(("hold", {key: answer.get(key) or None for key in COMPARED}))
        return str(answer["verdict"])

    async def claim(self, session: Session, holder: str, most: int = 5, *, call_begins: bool = True) -> str:
        return await self.call(
            "claim",
            session,
            holder=holder,
            lease_seconds=LEASE,
            deadline_seconds=300,
            max_attempts=most,
            call_begins=call_begins,
        )

    async def cancel(self, session: Session) -> str:
        answer: Any = await self._database.call("generation_cancel", {"p_session_id": str(session.id)})
        refund = (answer["refund"] or {}).get("state")
        self.answers.append(("cancel", answer["verdict"], answer["given_back"], refund))
        return str(answer["verdict"])

    async def complete(self, session: Session, holder: str, attempt: int) -> str:
        figures = {"processing_time_ms": 1, "input_tokens": 1, "output_tokens": 1, "cost_usd": "0.1"}
        return await self.call(
            "complete",
            session,
            holder=holder,
            attempt=attempt,
            object_path="a.jpg",
            result_url="https://example.com/a.jpg",
            **figures,
        )

    async def fail(self, session: Session, holder: str, attempt: int) -> str:
        return await self.call(
            "fail",
            session,
            holder=holder,
            attempt=attempt,
            error_code="internal_error",
            message="It went wrong.",
        )

    async def requeue(self, session: Session, holder: str, attempt: int) -> str:
        return await self.call(
            "requeue",
            session,
            holder=holder,
            attempt=attempt,
            delay_seconds=10,
            max_retries=1,
            error_code="rate_limited",
        )

    async def attempt(self, function: str, session: Session, holder: str, attempt: int) -> str:
        return await self.call(function, session, holder=holder, attempt=attempt)

    async def renew(self, *holders: str) -> None:
        params = {"p_holders": list(holders), "p_lease_seconds": LEASE}
        self.answers.append(("renew", await self._database.call("generation_renew", params)))

    async def recover(self) -> None:
        params = {"p_limit": 10, "p_grace_seconds": 60, "p_margin_seconds": 0}
        found: Any = await self._database.call("generation_recover", params)
        self.answers.append(("recover", [(row["attempt"], bool(row["task"])) for row in found]))

    def expire(self, session: Session) -> None:
        if self.memory is None:
            self._real.expire(session)
        else:
            self.memory.rows["b2c", str(session.id)].lease_expires_at = -1.0

    def make_due(self, session: Session) -> None:
        if self.memory is None:
            self._real.make_due(session)
        else:
            self.memory.rows["b2c", str(session.id)].due_at = -1.0

    def settle_elsewhere(self, session: Session, status: str) -> None:
        if self.memory is None:
            self._real.run("update generation_sessions set status = %s where id = %s", status, session.id)
        else:
            self.memory.sessions["b2c", str(session.id)].status = status

    def delete(self, session: Session) -> None:
        if self.memory is None:
            self._real.run("delete from generation_sessions where id = %s", session.id)
        else:
            del self.memory.sessions["b2c", str(session.id)]


async def life(books: Books) -> None:
    """Held by two, given back, taken over, worked on twice, completed, and asked again."""
    session = books.new()
    await books.attempt("check", session, "a", 1)
    await books.claim(session, "a")
    await books.hold(session, "a")
    await books.hold(session, "a")
    await books.hold(session, "b")
    await books.claim(session, "b")
    await books.call("release", session, holder="b")
    await books.call("release", session, holder="a")
    await books.call("release", session, holder="a")
    await books.hold(session, "b")
    await books.claim(session, "b")
    await books.claim(session, "b")
    await books.attempt("check", session, "b", 1)
    await books.call("release", session, holder="b")
    await books.renew("a", "b")
    books.expire(session)
    await books.recover()
    await books.recover()
    await books.hold(session, "c")
    for function in ("check", "postpone"):
        await books.attempt(function, session, "b", 1)
    await books.complete(session, "b", 1)
    await books.fail(session, "b", 1)
    await books.requeue(session, "b", 1)
    await books.claim(session, "c")
    await books.complete(session, "c", 1)
    await books.complete(session, "c", 2)
    await books.complete(session, "c", 2)
    await books.fail(session, "c", 2)
    for function in ("check", "postpone"):
        await books.attempt(function, session, "c", 2)
    await books.call("release", session, holder="c")
    await books.hold(session, "d")
    await books.claim(session, "d")
    await books.renew("c", "d")


async def rate_limits_and_pauses(books: Books) -> None:
    """Put off twice, postponed, failed, and asked again."""
    session = books.new()
    await books.hold(session, "a")
    await books.claim(session, "a")
    await books.requeue(session, "a", 1)
    await books.requeue(session, "a", 1)
    await books.hold(session, "b")
    await books.claim(session, "b")
    books.make_due(session)
    await books.claim(session, "b")
    await books.requeue(session, "b", 2)
    await books.attempt("postpone", session, "b", 2)
    await books.attempt("postpone", session, "b", 2)
    await books.hold(session, "c")
    await books.claim(session, "c", most=1)
    await books.fail(session, "c", 3)
    await books.fail(session, "c", 3)
    await books.requeue(session, "c", 3)


async def poisoned(books: Books) -> None:
    """Begun more often than is allowed."""
    session = books.new()
    for holder in ("a", "b", "c"):
        await books.hold(session, holder)
        await books.claim(session, holder, most=2)
        books.expire(session)


async def overtaken(books: Books) -> None:
    """Settled by the application, or deleted, while somebody holds it or works on it."""
    for status in ("completed", "failed", None):
        for function in ("hold", "claim", "check", "complete", "fail", "requeue", "postpone"):
            session = books.new()
            await books.hold(session, "a")
            if function not in ("hold", "claim"):
                await books.claim(session, "a")
            books.delete(session) if status is None else books.settle_elsewhere(session, status)
            match function:
                case "hold":
                    await books.hold(session, "b")
                case "claim" | "complete" | "fail" | "requeue":
                    arguments = () if function == "claim" else (1,)
                    await getattr(books, function)(session, "a", *arguments)
                case _:
                    await books.attempt(function, session, "a", 1)


async def rejected(books: Books) -> None:
    """Rejected before anybody held it, while somebody does, and after."""
    params = {"error_code": "invalid_task", "message": "It could not be read."}
    for held in (False, True):
        session = books.new()
        if held:
            await books.hold(session, "a")
        await books.call("reject", session, **params)
        await books.call("reject", session, **params)
        await books.hold(session, "b")
    unknown = Session("b2c", uuid.uuid4(), UUID(int=1), None)
    await books.call("reject", unknown, **params)
    await books.hold(unknown, "a")
    settled = books.new()
    books.settle_elsewhere(settled, "completed")
    await books.call("reject", settled, **params)
    await books.hold(settled, "a")


async def cancelled(books: Books) -> None:
    """Cancelled before anybody held it, while it is held or worked on, too late, and by nobody's leave."""
    for begun in ("nothing", "hold", "claim", "begin_call"):
        session = books.new()
        if begun != "nothing":
            await books.hold(session, "a")
        if begun in ("claim", "begin_call"):
            await books.claim(session, "a", call_begins=False)
        if begun == "begin_call":
            await books.attempt("begin_call", session, "b", 1)
            await books.attempt("begin_call", session, "a", 1)
        await books.cancel(session)
        await books.cancel(session)
        await books.attempt("check", session, "a", 0)
        await books.attempt("begin_call", session, "a", 1)
        await books.renew("a")
        await books.fail(session, "a", 1)
        await books.cancel(session)
        await books.hold(session, "b")
        await books.claim(session, "b")
    called = books.new()
    await books.hold(called, "a")
    await books.claim(called, "a")
    await books.requeue(called, "a", 1)
    await books.cancel(called)
    for status in ("completed", "failed", "processing", None):
        for held in (False, True):
            session = books.new()
            if held:
                await books.hold(session, "a")
            books.delete(session) if status is None else books.settle_elsewhere(session, status)
            await books.cancel(session)
            await books.cancel(session)
    await books.attempt("begin_call", books.new(), "a", 1)
    gone = books.new()
    await books.hold(gone, "a")
    await books.claim(gone, "a", call_begins=False)
    books.delete(gone)
    await books.attempt("begin_call", gone, "a", 1)


@pytest.mark.parametrize("story", [life, rate_limits_and_pauses, poisoned, overtaken, rejected, cancelled])
def test_in_memory_database_decides_as_the_real_one(
    ledger: LedgerDatabase, story: Callable[[Books], Awaitable[None]]
) -> None:
    async def test() -> None:
        async with httpx.AsyncClient(timeout=20) as http:
            client: Any = AsyncPostgrestClient(
                ledger.rest_url, headers=ledger.service_headers, http_client=http
            )
            real = Books(SupabaseDatabase(client), ledger)
            await story(real)
        memory = Books(InMemoryDatabase(asyncio.get_running_loop().time), ledger)
        await story(memory)
        for number, (expected, found) in enumerate(zip(real.answers, memory.answers, strict=True)):
            assert found == expected, f"call {number}"

    asyncio.run(test())


def test_missing_function_is_told_from_an_unavailable_database(ledger: LedgerDatabase) -> None:
    async def test() -> None:
        async with httpx.AsyncClient(timeout=20) as http:
            client: Any = AsyncPostgrestClient(
                ledger.rest_url, headers=ledger.service_headers, http_client=http
            )
            with pytest.raises(MigrationsMissing, match="generation_nothing"):
                await SupabaseDatabase(client).call("generation_nothing", {})
            with pytest.raises(SupabaseUnavailable, match="22P02"):
                await SupabaseDatabase(client).call(
                    "generation_release",
                    {
                        "p_channel": "b2c",
                        "p_session_id": "no uuid",
                        "p_holder": "a",
                    },
                )

    asyncio.run(test())


async def a_bucket(bucket: Bucket) -> list[Any]:
    """What a bucket says to whoever stores, looks and signs."""
    path = f"generated/{uuid.uuid4()}/a.jpg"
    seen: list[Any] = [await bucket.exists(path)]
    for data in (b"\xff\xd8\xff one", b"\xff\xd8\xff two"):
        await bucket.upload(path, data, "image/jpeg")
        seen.append(await bucket.exists(path))
    seen.append("/sign/" in await bucket.sign(path, 60))
    try:
        await bucket.sign(f"{path}.missing", 60)
    except SupabaseUnavailable:
        seen.append("not signed")
    await bucket.check()
    return seen


def test_in_memory_bucket_behaves_as_the_real_one(stack: Stack) -> None:
    async def test() -> None:
        env = stack.env_for("generator")
        client = connect_supabase(
            env["SUPABASE_URL"], env["SUPABASE_SERVICE_ROLE_KEY"], connections=2, proxies=Proxies()
        )
        assert await a_bucket(SupabaseBucket(client, "images")) == await a_bucket(InMemoryBucket())
        missing = InMemoryBucket()
        missing.missing = True
        for bucket in (SupabaseBucket(client, "no-such-bucket"), missing):
            with pytest.raises(BucketMissing):
                await bucket.check()

    asyncio.run(test())
