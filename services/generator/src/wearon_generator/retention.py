"""Deletes pictures that are older than the settings allow, in the one replica that is elected to sweep.

In batches, from the oldest on: what is due is read, what an unfinished session still links to is left, the
rest is deleted from Storage, and then it is noted. Killed in between, the next sweep deletes the same again,
which is no error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias
from uuid import UUID

import structlog

from wearon_contracts.results import result_path
from wearon_contracts.tasks import Channel
from wearon_generator.ledger import Database
from wearon_generator.metrics import Metrics
from wearon_generator.picture_links import PictureLinks
from wearon_generator.pictures import LINK_COLUMNS, path_in_bucket, pictures_of
from wearon_generator.smaller_batches import in_smaller_batches
from wearon_generator.supabase_client import StatementTimeout, SupabaseUnavailable, is_refusal
from wearon_generator.timing import Timing
from wearon_service_kit.background import Background

log = structlog.get_logger()

Kind: TypeAlias = Literal["result", "input"]

BATCH: Final = 100
"""Sessions in one request; each has one result, and seldom more than four pictures of its own."""
PAUSE: Final = 0.1
"""Seconds between two batches, so that Storage is asked for ten deletions of 100 a second at most."""

_START: Final = ("-infinity", "00000000-0000-0000-0000-000000000000")


class Objects(Protocol):
    """Deletes objects of the bucket; raises `SupabaseUnavailable`."""

    async def remove(self, paths: list[str]) -> None:
        """Delete these; one that is not there is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Hours after the end of a session; None: for ever."""

    results: int | None = None
    inputs: int | None = None


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes of some due sessions."""

    sessions: list[dict[str, Any]]
    """As the database is told of them once their pictures are gone."""
    paths: list[str]
    kept: list[str]
    """Pictures that are due, but that an unfinished session (an input: or a younger one) links to."""
    untold: set[str]
    """Owners of whom the database could not tell in time what they need: their sessions are left."""


class Retention:
    """What is due, and what is noted. Methods raise `SupabaseUnavailable`."""

    def __init__(self, database: Database, bucket: str) -> None:
        self._database = database
        self._bucket = bucket
        self._links = PictureLinks(database, bucket)

    async def due(
        self, kind: Kind, hours: int, after: tuple[str, str] = _START, limit: int = BATCH
    ) -> list[dict[str, Any]]:
        """Sessions that ended over `hours` ago and whose pictures stand, oldest first, from `after` on."""
        params = {"p_hours": hours, "p_limit": limit, "p_after": after[0], "p_after_id": after[1]}
        return await self._links.rows(f"{kind}s_due", params)

    async def batch(self, kind: Kind, hours: int, due: list[dict[str, Any]]) -> Batch:
        """What goes of these."""
        return await (self._results_of(due) if kind == "result" else self._inputs_of(due, hours))

    async def note(self, kind: Kind, batch: Batch) -> int:
        """Take note that its pictures are gone; how many sessions that were."""
        if not batch.sessions:
            return 0
        function = f"generation_{kind}s_deleted"
        answer = await self._database.call(function, {"p_sessions": batch.sessions})
        if not isinstance(answer, int):
            raise SupabaseUnavailable(f"{function} answered no number")
        return answer

    async def _results_of(self, due: list[dict[str, Any]]) -> Batch:
        results = [
            row["object_path"]
            or result_path(Channel(row["channel"]), UUID(row["owner_id"]), UUID(row["session_id"]))
            for row in due
        ]
        needed, untold = await self._needed({row["owner_id"]: set() for row in due})
        sessions, paths, kept = [], [], []
        for row, path in zip(due, results, strict=True):
            if row["owner_id"] in untold:
                continue
            if path in needed:
                kept.append(path)
            else:
                paths.append(path)
                sessions.append({"channel": row["channel"], "session_id": row["session_id"]})
        return Batch(sessions, paths, kept, untold)

    async def _inputs_of(self, due: list[dict[str, Any]], hours: int) -> Batch:
        """Input pictures in our bucket, their owner's own by the path."""
        owners = {(row["channel"], row["session_id"]): row["owner_id"] for row in due}
        looked_at = []
        asked: dict[str, set[str]] = {}
        for found in await self._links.of(due, self._links.folder):
            owner = owners[found["channel"], found["session_id"]]
            own = self._own_inputs(Channel(found["channel"]), found["row"] or {})
            looked_at.append((found, owner, own))
            if own:
                asked.setdefault(owner, set()).update(own)
        needed, untold = await self._needed(asked, hours)
        sessions: list[dict[str, Any]] = []
        paths: set[str] = set()
        kept: set[str] = set()
        for found, owner, own in looked_at:
            if own and owner in untold:
                continue
            still_needed = own & needed
            kept |= still_needed
            if still_needed:
                continue
            paths |= own
            links = found["row"] or {}
            sessions.append(
                {
                    "channel": found["channel"],
                    "session_id": found["session_id"],
                    "links": sorted(
                        {
                            link
                            for column in LINK_COLUMNS
                            for link in links.get(column, [])
                            if path_in_bucket(link, self._bucket) in own
                        }
                    ),
                }
            )
        return Batch(sessions, sorted(paths), sorted(kept), untold)

    async def _needed(
        self, asked: dict[str, set[str]], younger_than: int | None = None
    ) -> tuple[set[str], set[str]]:
        """As `PictureLinks.needed_by` tells it, of the paths by owner; and the owners of whom it tells
        nothing in time. How long that takes depends on the owner, so these hold up no others."""
        needed: set[str] = set()
        untold: set[str] = set()

        async def ask(owners: list[str]) -> None:
            paths = {path for owner in owners for path in asked[owner]}
            needed.update(await self._links.needed_by(owners, younger_than=younger_than, paths=paths))

        async def leave(owner: str) -> None:
            untold.add(owner)

        def is_slow(error: Exception) -> bool:
            return isinstance(error, StatementTimeout)

        await in_smaller_batches(sorted(asked), ask, is_spoilt=is_slow, alone=leave)
        return needed, untold

    def _own_inputs(self, channel: Channel, links: dict[str, Any]) -> set[str]:
        if not links:
            return set()
        own, _ = pictures_of(channel, links, self._bucket)
        # A result that was dressed once more goes with the results.
        return {path for path in own if "generated" not in path.split("/")[:-1]}


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
        self._hours: Final[dict[Kind, int | None]] = {"result": limits.results, "input": limits.inputs}
        self._is_elected = is_elected
        self._metrics = metrics
        self._timing = timing
        self._background: Final = {kind: Background(f"retention of {kind}s") for kind in self._hours}

    def start(self) -> None:
        """Begin with each kind that is to be deleted at all; neither waits for the other."""
        for kind, hours in self._hours.items():
            if hours is not None:
                self._background[kind].start(self._run(kind))

    async def stop(self) -> None:
        """Delete no more."""
        for background in self._background.values():
            await background.stop()

    async def sweep(self, kind: Kind) -> None:
        """Delete all of this kind that is due; ends when another replica is elected."""
        hours = self._hours[kind]
        if hours is not None:
            await self._delete_due(kind, hours)

    async def _run(self, kind: Kind) -> None:
        while True:
            try:
                await self.sweep(kind)
            except SupabaseUnavailable as error:
                log.warning("pictures_not_deleted", kind=kind, reason=str(error))
            except Exception:
                log.exception("retention_crashed", kind=kind)
            await asyncio.sleep(self._timing.retention_interval)

    async def _delete_due(self, kind: Kind, hours: int) -> None:
        after = _START
        untold: set[str] = set()
        while self._is_elected():
            due = await self._retention.due(kind, hours, after)
            if due:
                await self._delete_of(kind, hours, due, untold)
            if len(due) < BATCH:
                return
            after = (due[-1]["settled_at"], due[-1]["session_id"])
            await asyncio.sleep(PAUSE)

    async def _delete_of(self, kind: Kind, hours: int, due: list[dict[str, Any]], untold: set[str]) -> None:
        """Delete the pictures of these sessions; one that cannot be done holds up no other, since users write
        to their rows what they like. Owners in `untold` are left until the next sweep; more are added."""

        async def delete(some: list[dict[str, Any]]) -> None:
            left = [session for session in some if session["owner_id"] not in untold]
            batch = await self._retention.batch(kind, hours, left)
            for owner in batch.untold:
                log.warning("pictures_of_owner_not_deleted", kind=kind, owner_id=owner, reason="too slow")
            untold.update(batch.untold)
            await self._delete_batch(kind, batch)

        async def tell(session: dict[str, Any]) -> None:
            named = {name: session[name] for name in ("channel", "session_id")}
            log.warning("pictures_of_session_not_deleted", kind=kind, **named, exc_info=True)

        def is_spoilt(error: Exception) -> bool:
            return not isinstance(error, SupabaseUnavailable) or is_refusal(error)

        await in_smaller_batches(due, delete, is_spoilt=is_spoilt, alone=tell)

    async def _delete_batch(self, kind: Kind, batch: Batch) -> None:
        if batch.paths:
            await self._objects.remove(batch.paths)
        noted = await self._retention.note(kind, batch)
        if batch.paths:
            self._metrics.pictures_deleted.labels(kind=kind).inc(len(batch.paths))
            log.info(
                "pictures_deleted",
                kind=kind,
                pictures=len(batch.paths),
                sessions=noted,
                kept=len(batch.kept),
            )
