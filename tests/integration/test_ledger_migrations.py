"""`deploy/migrate` beside an application that goes on writing: nothing of the application's waits for it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from integration.database import APPLICATION_FILES, LedgerDatabase, prepared_database
from psycopg import sql

from wearon_local.postgres_server import PostgresServer
from wearon_local.processes import wait_until

MIGRATE: Final = Path(__file__).parents[2] / "deploy/migrate"
LONGEST_WAIT: Final = "200ms"
"""For how long a statement of the application may wait for a lock."""

INDEXES: Final = """
    select c.relname as name, i.indisvalid as valid
      from pg_index i join pg_class c on c.oid = i.indexrelid
     where c.relnamespace = 'public'::regnamespace and c.relname like '%\\_idx' order by 1
"""


class Application:
    """A database as the application has it, before there was a ledger."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.connection = prepared_database(server, name, APPLICATION_FILES)
        self.url = server.url.removesuffix("/postgres") + f"/{name}"
        self._psql = server.program("psql").parent

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.url, autocommit=True)

    def make_sessions(self, count: int) -> None:
        """So many sessions of long ago, each with its credit transaction; one in a hundred waits."""
        self.connection.execute(
            "insert into generation_sessions (user_id, status, model_image_url, prompt_system, created_at)"
            " select gen_random_uuid(), case when n %% 100 = 0 then 'queued' else 'completed' end,"
            " 'https://example.com/person.jpg', '', now() - make_interval(secs => n)"
            " from generate_series(1, %s) n",
            [count],
        )
        self.connection.execute(
            "insert into credit_transactions (user_id, amount, type, description)"
            " select user_id, -1, 'generation', 'Virtual try-on ' || id from generation_sessions"
        )

    def migrate(self) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self._psql}{os.pathsep}{os.environ['PATH']}",
            "DATABASE_URL": self.url,
        }
        return subprocess.Popen([MIGRATE], env=environment, stderr=subprocess.PIPE, text=True)

    def migrate_to_end(self) -> str:
        """Run it; returns what it said."""
        process = self.migrate()
        _, said = process.communicate(timeout=900)
        assert process.returncode == 0, said
        return said


@pytest.fixture
def application(ledger_server: LedgerDatabase, request: pytest.FixtureRequest) -> Iterator[Application]:
    name = request.node.name[:60].lower()
    made = Application(ledger_server.server, name)
    yield made
    made.connection.close()
    with ledger_server.server.connect() as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@contextmanager
def writing(application: Application) -> Iterator[Callable[[], float]]:
    """A shopper's steps, over and over: pays, makes a session, changes it. Yields the longest, in seconds.

    Raises LockNotAvailable at the end if a statement had to wait for a lock longer than `LONGEST_WAIT`.
    """
    done = threading.Event()
    took: list[float] = [0.0]
    raised: list[Exception] = []
    with application.connect() as connection:
        user = connection.execute(
            "insert into user_credits values (gen_random_uuid(), 1000000, 1000000, 0) returning user_id"
        ).fetchone()
        connection.execute(f"set lock_timeout = '{LONGEST_WAIT}'".encode())

        def write() -> None:
            assert user is not None
            while not done.wait(0.005):
                begun = time.monotonic()
                try:
                    connection.execute("select deduct_credits(%s, 1, 'try-on')", user)
                    session = connection.execute(
                        "insert into generation_sessions (user_id, model_image_url, prompt_system)"
                        " values (%s, '', '') returning id",
                        user,
                    ).fetchone()
                    connection.execute(
                        "update generation_sessions set prompt_user = 'x' where id = %s", session
                    )
                except Exception as error:
                    raised.append(error)
                    return
                took.append((time.monotonic() - begun) / 3)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield lambda: max(took)
        finally:
            done.set()
            thread.join()
    if raised:
        raise raised[0]


def indexes(application: Application) -> dict[str, bool]:
    return {row["name"]: row["valid"] for row in application.connection.execute(INDEXES.encode())}


@pytest.mark.slow
def test_the_application_writes_on_while_a_migration_waits_for_one_of_its_transactions(
    application: Application,
) -> None:
    application.make_sessions(2000)
    insert = (
        "insert into generation_sessions (user_id, model_image_url, prompt_system)"
        " values (gen_random_uuid(), '', '')"
    )
    with application.connect() as slow, writing(application):
        slow.execute("begin")
        slow.execute(insert.encode())
        slow.execute(
            "insert into credit_transactions (user_id, amount, type) values (gen_random_uuid(), 1, 'refund')"
        )
        migrating = application.migrate()
        wait_until(
            lambda: (
                application.connection.execute(
                    "select exists (select from pg_stat_activity where datname = current_database()"
                    " and query like 'create index concurrently%generation_sessions%'"
                    " and wait_event_type = 'Lock') as waits"
                ).fetchone()
                == {"waits": True}
            ),
            timeout=30,
            what="the migration waits for the open transaction",
        )
        slow.execute("commit")
        _, said = migrating.communicate(timeout=60)
        # The trigger needs a moment in which nobody writes: asked for, not waited for.
        slow.execute("drop trigger generation_session_keeps_id on generation_sessions")
        slow.execute("begin")
        slow.execute(insert.encode())
        again = application.migrate()
        assert again.stderr is not None
        while "025_session_ids.sql waits for a lock" not in (line := again.stderr.readline()):
            assert line, "it did not wait for the lock"
        slow.execute("commit")
        again.communicate(timeout=60)

    assert (migrating.returncode, again.returncode) == (0, 0), said
    assert set(indexes(application).values()) == {True}


@pytest.mark.slow
def test_history_is_entered_in_batches_and_once(application: Application) -> None:
    application.make_sessions(60_000)
    application.migrate_to_end()
    statements = application.connection.execute(
        "select count(*) as n from generation_private.history_statements()"
    ).fetchone()
    entered = "select count(*) as n from generation_ledger"

    assert statements is not None and statements["n"] > 1
    assert application.connection.execute(entered).fetchone() == {"n": 59_400}
    application.migrate_to_end()
    assert application.connection.execute(entered).fetchone() == {"n": 59_400}


@pytest.mark.slow
def test_an_index_whose_building_was_interrupted_is_built_again(application: Application) -> None:
    application.migrate_to_end()
    name = "generation_sessions_waiting_idx"
    application.connection.execute(
        "update pg_index set indisvalid = false where indexrelid = %s::regclass", [name]
    )
    assert not indexes(application)[name]

    application.migrate_to_end()

    assert indexes(application)[name]


def test_a_second_migration_waits_for_the_first(application: Application) -> None:
    with application.connect() as first:
        first.execute("select pg_advisory_lock(hashtext('wearon migrations'))")
        second = application.migrate()
        assert second.stderr is not None
        assert "waits for another migration" in second.stderr.readline()
        first.execute("select pg_advisory_unlock(hashtext('wearon migrations'))")
        said = second.communicate(timeout=60)[1]

    assert second.returncode == 0, said


def test_a_checkout_older_than_the_database_changes_nothing(application: Application) -> None:
    """As from the clone of a second operator, or from an older run of CD that is started again."""
    application.migrate_to_end()
    newer = (
        "create or replace function public.generation_schema_version() returns integer"
        " language sql stable as 'select 999'"
    )
    application.connection.execute(newer.encode())
    old = application.migrate()
    said = old.communicate(timeout=60)[1]

    assert (old.returncode, "applied" in said.replace("nothing was applied", "")) == (1, False)
    assert "schema version 999" in said


@pytest.mark.slow
def test_migrations_at_the_same_time_all_succeed(application: Application) -> None:
    application.make_sessions(2000)
    together = [application.migrate() for _ in range(3)]
    said = [process.communicate(timeout=120)[1] for process in together]

    assert [process.returncode for process in together] == [0, 0, 0], said


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_no_statement_of_the_application_waits_while_a_million_sessions_are_migrated(
    application: Application, figure: Callable[[str], None]
) -> None:
    application.make_sessions(1_000_000)
    for what in ("first", "second"):
        begun = time.monotonic()
        with writing(application) as longest:
            application.migrate_to_end()
            waited = longest()
        figure(
            f"{what} migration of 1,000,000 sessions: {time.monotonic() - begun:.1f} s,"
            f" longest statement of the application {1000 * waited:.0f} ms"
        )
        assert waited < 0.2
