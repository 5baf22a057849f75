"""What a listener on the publication `supabase_realtime` sees: every row update, from a replication slot."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

SLOT: Final = "wearon_chaos"
_SETTINGS: Final = "'proto_version', '1', 'publication_names', 'supabase_realtime'"


@dataclass
class Listener:
    """Collects the statuses of all sessions in the order in which they were committed."""

    database_url: str
    statuses: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By session id: the status of the inserted row, then of each update."""
    _columns: dict[int, list[str]] = field(default_factory=dict)

    def start(self) -> None:
        """From here on every change is kept until it was read, whatever becomes of connections."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (SLOT,))

    def stop(self) -> None:
        """Keep no more changes."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("select pg_drop_replication_slot(%s)", (SLOT,))

    def read(self) -> None:
        """Take over all changes since the last time."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            changes = connection.execute(
                f"select data from pg_logical_slot_get_binary_changes(%s, null, null, {_SETTINGS})", (SLOT,)
            ).fetchall()
        for (data,) in changes:
            self._take(bytes(data))

    def _take(self, message: bytes) -> None:
        # https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
        match message[:1]:
            case b"R":
                relation, columns = _relation(message)
                self._columns[relation] = columns
            case b"I":
                self._row(message, 6)
            case b"U":
                # The tables identify rows by primary key, so an old tuple comes only if the key changed.
                start = 6 if message[5:6] == b"N" else _end_of_tuple(message, 6) + 1
                self._row(message, start)

    def _row(self, message: bytes, start: int) -> None:
        (relation,) = struct.unpack_from(">I", message, 1)
        row = dict(zip(self._columns[relation], _values(message, start), strict=True))
        self.statuses[str(row["id"])].append(str(row["status"]))


def _relation(message: bytes) -> tuple[int, list[str]]:
    (relation,) = struct.unpack_from(">I", message, 1)
    at = message.index(b"\0", 5) + 1  # the schema's name
    at = message.index(b"\0", at) + 1  # the table's name
    (count,) = struct.unpack_from(">H", message, at + 1)  # after the replica identity
    at += 3
    columns = []
    for _ in range(count):
        end = message.index(b"\0", at + 1)  # after the flags
        columns.append(message[at + 1 : end].decode())
        at = end + 9  # the type and its modifier
    return relation, columns


def _tuple(message: bytes, start: int) -> tuple[list[str | None], int]:
    (count,) = struct.unpack_from(">H", message, start)
    at = start + 2
    values: list[str | None] = []
    for _ in range(count):
        kind = message[at : at + 1]
        at += 1
        if kind == b"t":
            (length,) = struct.unpack_from(">I", message, at)
            values.append(message[at + 4 : at + 4 + length].decode())
            at += 4 + length
        else:  # null, or a long value that did not change
            values.append(None)
    return values, at


def _values(message: bytes, start: int) -> list[Any]:
    return _tuple(message, start)[0]


def _end_of_tuple(message: bytes, start: int) -> int:
    return _tuple(message, start)[1]
