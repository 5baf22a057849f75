"""`deploy/migrate` through a transaction pooler, which may give each transaction another connection."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from tests.containers.engine import BASE_IMAGE, ROOT, docker, run_detached

from wearon_local.paths import SUPABASE_DIR
from wearon_local.postgres_server import PostgresServer
from wearon_local.processes import Nursery, free_port, wait_until

pytestmark = pytest.mark.timeout(900)

IMAGE: Final = "wearon-test-pooler:dev"
LIMIT: Final = "2min"
"""The statement_timeout that the role has, as at Supabase."""


class Pooler:
    """A database as the application has it, behind a pooler with four connections to it."""

    def __init__(self, postgres: PostgresServer, port: int) -> None:
        self._postgres = postgres
        self.url = f"postgresql://postgres:{postgres.password}@127.0.0.1:{port}/postgres"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Asked of the database itself."""
        with self._postgres.connect() as connection:
            return connection.execute(query.encode()).fetchall()

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def migrate(self) -> subprocess.Popen[str]:
        path = f"{self._postgres.program('psql').parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, "DATABASE_URL": self.url}
        return subprocess.Popen([ROOT / "deploy/migrate"], env=environment, stderr=subprocess.PIPE, text=True)

    def session_settings(self) -> set[tuple[str, ...]]:
        """Of all connections that the pooler has to the database, seen by taking them all at once."""
        clients = [psycopg.connect(self.url, prepare_threshold=None) for _ in range(4)]
        try:
            return {
                tuple(
                    str(client.execute(f"show {name}".encode()).fetchone())
                    for name in ("lock_timeout", "statement_timeout", "client_min_messages")
                )
                for client in clients
            }
        finally:
            for client in clients:
                client.close()


@pytest.fixture(params=["refuses options", "ignores options"])
def pooler(engine: None, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pooler]:
    docker("build", "-q", "-t", IMAGE, "--build-arg", f"BASE={BASE_IMAGE}",
           "-f", "tests/containers/pooler.Dockerfile", ".")  # fmt: skip
    with closing(Nursery()) as nursery:
        postgres, port = PostgresServer(nursery, free_port()), free_port()
        postgres.start()
        postgres.apply(sorted((SUPABASE_DIR / "dev").glob("0*.sql")))
        with postgres.connect() as connection:
            connection.execute(f"alter role postgres set statement_timeout = '{LIMIT}'".encode())
        ini = f"""
[databases]
postgres = host=127.0.0.1 port={postgres.port} user=postgres password={postgres.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = 4
server_round_robin = 1
{"ignore_startup_parameters = options" if request.param == "ignores options" else ""}
"""
        (tmp_path / "pgbouncer.ini").write_text(ini)
        tmp_path.chmod(0o755)
        container = run_detached("--network", "host", "-v", f"{tmp_path}:/etc/pooler:ro", IMAGE)
        try:
            made = Pooler(postgres, port)
            wait_until(made.answers, timeout=30, what="pooler")
            yield made
        finally:
            docker("rm", "-f", "-v", container)


def test_migrations_through_a_transaction_pooler(pooler: Pooler) -> None:
    """All are applied, one run waits for the other, and what they set stays in no connection of others."""
    together = [pooler.migrate(), pooler.migrate()]
    said = [process.communicate(timeout=300)[1] for process in together]
    assert [process.returncode for process in together] == [0, 0], said
    assert sum("waits for another migration" in text for text in said) == 1
    assert all(f"an index that is built for longer than {LIMIT} is given up" in text for text in said)
    assert all("done, schema version" in text for text in said)
    assert pooler.rows("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]
    assert pooler.session_settings() == {("('0',)", f"('{LIMIT}',)", "('notice',)")}
    invalid = (
        "select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid where not i.indisvalid"
    )
    assert pooler.rows(invalid) == []
