"""Deletes pictures that are older than the settings allow, in the one replica that is elected to sweep.

In batches, from the oldest on: what is due is read, what an unfinished session still links to is left, the
rest is deleted from Storage, and then it is noted. Killed in between, the next sweep deletes the same again,
which is no error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from wearon_contracts.results import result_path
from wearon_contracts.tasks import Channel
from wearon_generator.ledger import Database
from wearon_generator.metrics import Metrics
from wearon_generator.pictures import LINK_COLUMNS, path_in_bucket, pictures_of
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Timing
from wearon_service_kit.background import Background

log = structlog.get_logger()

BATCH: Final = 100
"""Sessions in one request; each has one result, and seldom more than four pictures of its own."""
PAUSE: Final = 0.1
"""Seconds between two batches, so that Storage is asked for ten deletions of 100 a second at most."""
EXPIRED: Final = "expired"
"""What the application writes over a link that leads nowhere any more."""

_START: Final = ("-infinity", "00000000-0000-0000-0000-000000000000")


class Objects(Protocol):
    """Deletes objects of the bucket; raises `SupabaseUnavailable`."""

    async def remove(self, paths: list[str]) -> None:
        """Delete these, at most 1,000; one that is not there is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Hours after the end of a session; None: for ever."""

    results: int | None = None
    inputs: int | None = None

    @property
    def any(self) -> bool:
        """Whether anything is to be deleted at all."""
        return self.results is not None or self.inputs is not None


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of due sessions: what goes of it, and where the next one begins."""

    sessions: list[dict[str, Any]]
    """As the database is told of them once their pictures are gone."""
    paths: list[str]
    kept: list[str]
    """Pictures that are due, but that an unfinished session (an input: or a younger one) links to."""
    next: tuple[str, str] | None
    """None after the last one."""


class Retention:
    """What is due, and what is noted. Methods raise `SupabaseUnavailable`."""

    def __init__(self, database: Database, bucket: str) -> None:
        self._database = database
        self._bucket = bucket

    async def results_due(self, hours: int, after: tuple[str, str] = _START, limit: int = BATCH) -> Batch:
        """Results of sessions that ended over `hours` ago."""
        due = await self._due("results_due", hours, after, limit)
        needed = await self._linked((row["owner_id"] for row in due), None)
        sessions, paths, kept = [], [], []
        for row in due:
            path = row["object_path"] or result_path(
                Channel(row["channel"]), UUID(row["owner_id"]), UUID(row["session_id"])
            )
            if path in needed:
                kept.append(path)
            else:
                paths.append(path)
                sessions.append({"channel": row["channel"], "session_id": row["session_id"]})
        return Batch(sessions, paths, kept, _next(due, limit))

    async def inputs_due(self, hours: int, after: tuple[str, str] = _START, limit: int = BATCH) -> Batch:
        """Input pictures in our bucket, their owner's own by the path, of sessions that ended so long ago."""
        due = await self._due("inputs_due", hours, after, limit)
        needed = await self._linked((row["owner_id"] for row in due), hours)
        sessions: list[dict[str, Any]] = []
        paths: set[str] = set()
        kept: set[str] = set()
        for row in due:
            links = row["links"] or {}
            own = self._inputs_of(Channel(row["channel"]), links)
            still_needed = own & needed
            kept |= still_needed
            if still_needed:
                continue
            paths |= own
            gone = {column: self._without(links.get(column), own) for column in LINK_COLUMNS}
            sessions.append(
                {
                    "channel": row["channel"],
                    "session_id": row["session_id"],
                    "links": {c: new for c, new in gone.items() if new != links.get(c)},
                }
            )
        return Batch(sessions, sorted(paths), sorted(kept), _next(due, limit))

    async def note_results(self, batch: Batch) -> int:
        """Take note that its results are gone; how many sessions that were."""
        return await self._note("results_deleted", batch)

    async def note_inputs(self, batch: Batch) -> int:
        """The same of its input pictures."""
        return await self._note("inputs_deleted", batch)

    def _inputs_of(self, channel: Channel, links: dict[str, Any]) -> set[str]:
        if not links:
            return set()
        own, _ = pictures_of(channel, links, self._bucket)
        # A result that was dressed once more goes with the results.
        return {path for path in own if "generated" not in path.split("/")[:-1]}

    def _without(self, value: Any, gone: set[str]) -> Any:
        """A column's value with every link to one of these objects replaced."""
        match value:
            case str() if path_in_bucket(value, self._bucket) in gone:
                return EXPIRED
            case list():
                return [self._without(item, gone) for item in value]
            case dict():
                return {key: self._without(item, gone) for key, item in value.items()}
        return value

    async def _due(
        self, function: str, hours: int, after: tuple[str, str], limit: int
    ) -> list[dict[str, Any]]:
        params = {"p_hours": hours, "p_limit": limit, "p_after": after[0], "p_after_id": after[1]}
        return await self._rows(function, params)

    async def _linked(self, owners: Iterable[str], hours: int | None) -> set[str]:
        wanted = sorted(set(owners))
        if not wanted:
            return set()
        params = {"p_owners": wanted, "p_folder": f"/{self._bucket}/", "p_hours": hours}
        links = await self._rows("linked_pictures", params)
        return {path for link in links if (path := path_in_bucket(str(link), self._bucket)) is not None}

    async def _note(self, function: str, batch: Batch) -> int:
        if not batch.sessions:
            return 0
        answer = await self._database.call(f"generation_{function}", {"p_sessions": batch.sessions})
        if not isinstance(answer, int):
            raise SupabaseUnavailable(f"generation_{function} answered no number")
        return answer

    async def _rows(self, function: str, params: dict[str, Any]) -> list[Any]:
        answer = await self._database.call(f"generation_{function}", params)
        if not isinstance(answer, list):
            raise SupabaseUnavailable(f"generation_{function} answered no list")
        return answer


class RetentionSweeper:
    """Deletes what is due every retention interval, while this replica is elected."""

    def __init__(
        self,
        retention: Retention,
        objects: Objects,
        limits: Limits,
        *,
        is_elected: Callable[[], bool],
        metrics: Metrics,
        timing: Timing,
    ) -> None:
        self._retention = retention
        self._objects = objects
        self._limits = limits
        self._is_elected = is_elected
        self._metrics = metrics
        self._timing = timing
        self._background = Background("retention")

    def start(self) -> None:
        """Begin, if anything is to be deleted at all."""
        if self._limits.any:
            self._background.start(self._run())

    async def stop(self) -> None:
        """Delete no more."""
        await self._background.stop()

    async def sweep(self) -> None:
        """Delete all that is due; ends when another replica is elected."""
        if self._limits.results is not None:
            await self._delete("result", self._limits.results)
        if self._limits.inputs is not None:
            await self._delete("input", self._limits.inputs)

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except SupabaseUnavailable as error:
                log.warning("pictures_not_deleted", reason=str(error))
            except Exception:
                log.exception("retention_crashed")
            await asyncio.sleep(self._timing.retention_interval)

    async def _delete(self, kind: str, hours: int) -> None:
        retention = self._retention
        due, note = {
            "result": (retention.results_due, retention.note_results),
            "input": (retention.inputs_due, retention.note_inputs),
        }[kind]
        after: tuple[str, str] | None = _START
        while after is not None and self._is_elected():
            batch = await due(hours, after)
            if batch.paths:
                await self._objects.remove(batch.paths)
            noted = await note(batch)
            if batch.paths:
                self._metrics.pictures_deleted.labels(kind=kind).inc(len(batch.paths))
                log.info(
                    "pictures_deleted",
                    kind=kind,
                    pictures=len(batch.paths),
                    sessions=noted,
                    kept=len(batch.kept),
                )
            after = batch.next
            if after is not None:
                await asyncio.sleep(PAUSE)


def _next(due: list[dict[str, Any]], limit: int) -> tuple[str, str] | None:
    return (due[-1]["settled_at"], due[-1]["session_id"]) if len(due) == limit else None
