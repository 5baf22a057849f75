"""What an operator can ask and do, as functions that return plain data; `ctl.py` is their command line."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

from pydantic import ValidationError
from redis.asyncio import Redis
from supabase import AsyncClient

from wearon_contracts.errors import ErrorCode
from wearon_contracts.queues import (
    CELERY_AGAIN_QUEUE,
    CELERY_QUEUE,
    DEAD_LETTER_LIST,
    INFLIGHT_PREFIX,
    INTAKE_STOPPED,
    INVALID_IN_A_ROW,
    SWEEPER_KEY,
    TASK_LIST,
    UNACKED_HASH,
    consumer_heartbeat,
)
from wearon_contracts.results import result_path
from wearon_contracts.sessions import SESSION_TABLES, SETTLED
from wearon_contracts.tasks import Channel, DeadLetter, DeadLetterReason, raw_and_encoding
from wearon_generator.lane_operations import LaneOperations
from wearon_generator.ledger import Ledger, Session, SupabaseDatabase
from wearon_generator.presence import PAUSED_KEY, REPLICA_PREFIX
from wearon_generator.queue_scan import QueueScan
from wearon_generator.recovery import ScanBudget, fail_orphans, find_orphans
from wearon_generator.timing import Timing

_OWNER_COLUMN: Final = {Channel.B2C: "user_id", Channel.B2B: "store_id"}
_SHORT: Final = 12
_PAGE: Final = 500
_ALL: Final = 2**31
_OBJECT_PATH: Final = "/storage/v1/object/"
_RESULT_FOLDERS: Final = ("generated", "stores")
_LINK_COLUMNS: Final = (
    "model_image_url",
    "outfit_image_url",
    "stitched_image_url",
    "accessories",
    "generated_image_url",
)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_IDS_IN_ONE_QUERY: Final = 100

# KEYS from, to; ARGV element, what to push for it. Returns 0 if the element is gone.
_MOVE: Final = """
local found = redis.call('LREM', KEYS[1], 1, ARGV[1])
if found == 1 then redis.call('LPUSH', KEYS[2], ARGV[2]) end
return found
"""


class Refused(Exception):
    """The operator asked for something that would do harm, or for something that is not there."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter and the element of the list it was read from; `id` is short for the element."""

    id: str
    element: bytes
    letter: DeadLetter

    def raw(self) -> bytes:
        """The element as the producer pushed it; raises `Refused` if the letter does not hold it readably."""
        if self.letter.encoding == "utf-8":
            return self.letter.raw.encode()
        try:
            return base64.b64decode(self.letter.raw, validate=True)
        except ValueError as error:
            raise Refused(
                f"dead letter {self.id} says it holds base64 and does not, so what was pushed cannot be told:"
                f" look at it with `dead show {self.id} --raw`, then `dead drop {self.id}`"
            ) from error

    def summary(self) -> dict[str, Any]:
        """What a list shows: everything but the element itself."""
        return {"id": self.id, **self.letter.model_dump(mode="json", exclude={"raw"})}


class Operations:
    """Works with Redis and Supabase alone; needs no running service."""

    def __init__(self, redis: Redis, supabase: AsyncClient, bucket: str, stuck_after: int) -> None:
        self._redis = redis
        self._supabase = supabase
        self._bucket = bucket
        self._stuck_after = stuck_after
        self._ledger = Ledger(SupabaseDatabase(supabase), Timing())
        self._queues = QueueScan(redis)
        self.lanes: Final = LaneOperations(redis)

    # ------------------------------------------------------------------ queues and workers

    async def status(self) -> dict[str, Any]:
        """Depths and ages of all queues, who lives, whether jobs are paused, what the ledger counts."""
        oldest = await self._queues.oldest()
        names = (TASK_LIST, CELERY_AGAIN_QUEUE, CELERY_QUEUE, DEAD_LETTER_LIST)
        paused = await self._redis.get(PAUSED_KEY)
        sweeper = await self._redis.get(SWEEPER_KEY)
        return {
            "queues": {name: await self._redis.llen(name) for name in names},
            "taken_by_workers": await self._redis.hlen(UNACKED_HASH),
            "oldest_task_seconds": (
                None if oldest is None else round((datetime.now(UTC) - oldest).total_seconds(), 1)
            ),
            "consumers": await self._consumers(),
            "generators": await self._generators(),
            "sweeper": None if sweeper is None else _text(sweeper),
            "paused": None if paused is None else _told(paused, otherwise="reason"),
            **await self.intake(),
            "ledger": await self._ledger.backlog(),
        }

    async def _consumers(self) -> list[dict[str, Any]]:
        found = []
        async for name in self._redis.scan_iter(f"{INFLIGHT_PREFIX}*"):
            consumer = _text(name).removeprefix(INFLIGHT_PREFIX)
            alive = bool(await self._redis.exists(consumer_heartbeat(consumer)))
            found.append({"id": consumer, "alive": alive, "in_flight": await self._redis.llen(name)})
        with_list = {consumer["id"] for consumer in found}
        prefix = consumer_heartbeat("")
        async for name in self._redis.scan_iter(f"{prefix}*"):
            consumer = _text(name).removeprefix(prefix)
            if consumer not in with_list:
                found.append({"id": consumer, "alive": True, "in_flight": 0})
        return sorted(found, key=lambda consumer: str(consumer["id"]))

    async def _generators(self) -> list[dict[str, Any]]:
        found = []
        async for name in self._redis.scan_iter(f"{REPLICA_PREFIX}*"):
            if _text(name) == PAUSED_KEY:
                continue
            told = await self._redis.get(name)
            if told is not None:
                replica = _text(name).removeprefix(REPLICA_PREFIX)
                found.append({"id": replica, **_told(told, otherwise="unreadable")})
        return sorted(found, key=lambda replica: str(replica["id"]))

    async def pause(self, reason: str) -> dict[str, Any]:
        """Let no generator start a job until `resume`; those in work go on, and the rest keeps waiting."""
        paused = {"since": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason}
        await self._redis.set(PAUSED_KEY, json.dumps(paused))
        return {"paused": paused}

    async def resume(self) -> dict[str, Any]:
        """Let generators start jobs again."""
        return {"paused": None, "was_paused": bool(await self._redis.delete(PAUSED_KEY))}

    async def intake(self) -> dict[str, Any]:
        """Whether the consumers take elements, and if not, why; how near they are to stopping."""
        stopped = await self._redis.get(INTAKE_STOPPED)
        return {
            "intake_stopped": None if stopped is None else _told(stopped, otherwise="reason"),
            "invalid_in_a_row": int(await self._redis.get(INVALID_IN_A_ROW) or 0),
        }

    async def resume_intake(self) -> dict[str, Any]:
        """Let the consumers take elements again, and count invalid ones from zero."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(INTAKE_STOPPED)
            pipe.delete(INVALID_IN_A_ROW)
            was_stopped, _ = await pipe.execute()
        return {"intake_stopped": None, "was_stopped": bool(was_stopped)}

    # ------------------------------------------------------------------ dead letters

    async def dead_letters(self, limit: int) -> list[Letter]:
        """The newest dead letters first."""
        elements = await self._redis.lrange(DEAD_LETTER_LIST, 0, limit - 1)
        return [_letter(element) for element in elements if isinstance(element, bytes)]

    async def dead_letter(self, letter_id: str) -> Letter:
        """The one whose id is, or begins with, `letter_id`; raises `Refused` unless it is exactly one."""
        found: dict[str, Letter] = {}
        start = 0
        while elements := await self._redis.lrange(DEAD_LETTER_LIST, start, start + _PAGE - 1):
            for element in elements:
                if isinstance(element, bytes):
                    letter = _letter(element)
                    if letter_id and letter.id.startswith(letter_id):
                        found[letter.id] = letter
            start += len(elements)
        if len(found) != 1:
            raise Refused(f"{len(found)} dead letters have an id that begins with {letter_id!r}")
        return next(iter(found.values()))

    async def requeue_dead_letter(self, letter: Letter) -> dict[str, Any]:
        """Put the element back on the producer's list, unless its session is settled already."""
        raw = letter.raw()
        if letter.letter.session_id is not None:
            session = await self._settled(letter.letter.session_id)
            if session is not None:
                refund = (session.get("refund") or {}).get("state")
                raise Refused(
                    f"session {letter.letter.session_id} is {session['status']} already"
                    + (f" and its credit was given back (refund {refund})" if refund else "")
                    + "; the shopper has to start a new try-on"
                )
        arguments: list[Any] = [letter.element, raw]
        if not await self._redis.eval(_MOVE, 2, DEAD_LETTER_LIST, TASK_LIST, *arguments):
            raise Refused(f"dead letter {letter.id} is there no more")
        return {"requeued": letter.id}

    async def _settled(self, session_id: UUID) -> dict[str, Any] | None:
        outcome = (
            await self._supabase.rpc("generation_outcome", {"p_session_id": str(session_id)}).execute()
        ).data
        if outcome is None:
            return None
        if not isinstance(outcome, dict):
            raise ValueError("generation_outcome answered no object")
        settled = outcome.get("outcome") or outcome.get("status") in SETTLED
        return outcome if settled else None

    async def drop_dead_letter(self, letter: Letter) -> dict[str, Any]:
        """Delete the element for good."""
        element: Any = letter.element  # bytes go as they are; a foreign element need not be UTF-8
        removed = await self._redis.lrem(DEAD_LETTER_LIST, 1, element)
        return {"dropped": letter.id if removed else None}

    # ------------------------------------------------------------------ sessions

    async def story(self, session_id: UUID) -> dict[str, Any]:
        """Everything known of one session: row, ledger, answers paid for, money moved, where its task is."""
        channel, row = await self._row(session_id)
        ledger = await self._of_session("generation_ledger", channel, session_id)
        for entry in ledger:
            entry.pop("task", None)
        answers = await self._of_session("generation_usage", channel, session_id)
        waiting = await self._queues.sessions_among({str(session_id)})
        return {
            "session_id": str(session_id),
            "channel": channel.value,
            "row": {key: _without_token(value) for key, value in row.items()},
            "ledger": ledger[0] if ledger else None,
            "provider_answers": answers,
            "money": await self._money(channel, row, session_id),
            "task_in_redis": bool(waiting),
        }

    async def _row(self, session_id: UUID) -> tuple[Channel, dict[str, Any]]:
        for channel, table in SESSION_TABLES.items():
            answer = await self._supabase.table(table).select("*").eq("id", str(session_id)).execute()
            rows = _rows(answer.data)
            if rows:
                return channel, rows[0]
        raise Refused(f"no session has the id {session_id}")

    async def _of_session(self, table: str, channel: Channel, session_id: UUID) -> list[dict[str, Any]]:
        # The indexes begin with the channel.
        query = self._supabase.table(table).select("*").eq("channel", channel.value)
        return _rows((await query.eq("session_id", str(session_id)).execute()).data)

    async def _money(self, channel: Channel, row: dict[str, Any], session_id: UUID) -> list[dict[str, Any]]:
        if channel is Channel.B2C:
            query = (
                self._supabase.table("credit_transactions")
                .select("*")
                .eq("user_id", row["user_id"])
                .like("description", f"%{session_id}%")
            )
        elif row["request_id"] is None:
            return []
        else:
            query = (
                self._supabase.table("store_credit_transactions")
                .select("*")
                .eq("store_id", row["store_id"])
                .eq("request_id", row["request_id"])
            )
        return _rows((await query.execute()).data)

    async def flagged(self, limit: int) -> list[dict[str, Any]]:
        """Sessions a person should look at, and why."""
        answer = await self._supabase.rpc("generation_flagged", {"p_limit": limit}).execute()
        return _rows(answer.data)

    async def looked_at(self, session_id: UUID, note: str) -> dict[str, Any]:
        """Take a session off the list of flagged ones; raises `Refused` if it cannot be flagged.

        One that was set aside because it could not be settled goes back to the sweep.
        """
        params = {"p_session_id": str(session_id), "p_note": note}
        answer = (await self._supabase.rpc("generation_looked_at", params).execute()).data
        if not isinstance(answer, dict):
            raise ValueError("generation_looked_at answered no object")
        if answer["verdict"] == "session_not_found":
            raise Refused(f"no session that is settled or set aside has the id {session_id}")
        return {
            "session_id": str(session_id),
            "note": note,
            "tried_again": answer["verdict"] == "tried_again",
        }

    async def costs(self, days: int) -> list[dict[str, Any]]:
        """What the provider's answers cost, by day, channel and model."""
        answer = await self._supabase.rpc("generation_costs", {"p_days": days}).execute()
        return _rows(answer.data)

    async def stuck(self) -> list[Session]:
        """Sessions the next sweep of a generator would fail and refund."""
        budget = ScanBudget(time.monotonic)
        return await find_orphans(self._ledger, self._queues, self._stuck_after, budget)

    async def reap(self, sessions: list[Session]) -> list[dict[str, Any]]:
        """Fail and refund these, at most 100."""
        return await fail_orphans(self._ledger, sessions, self._stuck_after, ErrorCode.STUCK)

    # ------------------------------------------------------------------ erasing

    async def erasable(self, *, session_id: UUID | None, user_id: UUID | None) -> dict[str, Any]:
        """What `erase` would delete for one session, or for all sessions of a user.

        A result whose row the application has deleted already is found too: that of one session by the
        ledger, which keeps its owner, those of a user by the name of the folder.
        """
        objects: set[str] = set()
        rows: list[tuple[Channel, dict[str, Any]]]
        if session_id is not None:
            try:
                rows = [await self._row(session_id)]
            except Refused:
                rows = []
                objects.add(await self._result_without_row(session_id))
        else:
            rows = [(Channel.B2C, row) for row in await self._sessions_of(user_id)]
            running = {row["id"] for _, row in rows if row["status"] not in SETTLED}
            objects |= await self._results_of(user_id, besides=running)
        settled = [(channel, row) for channel, row in rows if row["status"] in SETTLED]
        others: set[str] = set()
        for channel, row in settled:
            own, linked = self._pictures(channel, row)
            objects |= own
            others |= linked
        return {
            "sessions": [{"channel": channel.value, "session_id": row["id"]} for channel, row in settled],
            "unsettled_and_left_alone": [row["id"] for _, row in rows if row["status"] not in SETTLED],
            "objects": sorted(objects),
            "linked_and_kept": sorted(others - objects),
        }

    async def _result_without_row(self, session_id: UUID) -> str:
        """Where the result of a session without a row is; raises `Refused` if the ledger never knew it."""
        for channel in Channel:
            for entry in await self._of_session("generation_ledger", channel, session_id):
                return result_path(channel, UUID(entry["owner_id"]), session_id)
        raise Refused(f"no session has the id {session_id}")

    async def _results_of(self, user_id: UUID | None, *, besides: set[str]) -> set[str]:
        """Every result in a user's folder, but for those of the sessions `besides`."""
        folder = f"generated/{user_id}"
        bucket = self._supabase.storage.from_(self._bucket)
        found: set[str] = set()
        offset = 0
        while True:
            page = _rows(await bucket.list(folder, {"limit": _PAGE, "offset": offset}))
            names = [str(entry["name"]) for entry in page]
            found |= {
                f"{folder}/{name}"
                for name in names
                if _UUID.fullmatch(name.rpartition(".")[0]) and name.rpartition(".")[0] not in besides
            }
            offset += len(page)
            if len(page) < _PAGE:
                return found

    async def _sessions_of(self, user_id: UUID | None) -> list[dict[str, Any]]:
        table = self._supabase.table(SESSION_TABLES[Channel.B2C])
        rows: list[dict[str, Any]] = []
        while True:
            query = table.select("*").eq("user_id", str(user_id)).order("id")
            page = _rows((await query.range(len(rows), len(rows) + _PAGE - 1).execute()).data)
            rows += page
            if len(page) < _PAGE:
                return rows

    def _pictures(self, channel: Channel, row: dict[str, Any]) -> tuple[set[str], set[str]]:
        """Objects that are the row's owner's own, and whatever else the row links to.

        The owner of a row can write any link into it, also one to a shared picture or to somebody else's, so
        it is the path that has to say whose a picture is.
        """
        owner, session_id = UUID(row[_OWNER_COLUMN[channel]]), UUID(row["id"])
        own, linked = {result_path(channel, owner, session_id)}, set()
        for column in _LINK_COLUMNS:
            for link in _links(row.get(column)):
                path = _path_in_bucket(link, self._bucket)
                if path is None:
                    linked.add(_without_token(link))
                elif _belongs(path, channel, owner, column):
                    own.add(path)
                else:
                    linked.add(path)
        return own, linked

    async def erase(self, found: dict[str, Any]) -> dict[str, Any]:
        """Delete the pictures that `erasable` found, the links to them, and the sessions' dead letters."""
        bucket = self._supabase.storage.from_(self._bucket)
        for start in range(0, len(found["objects"]), 100):
            await bucket.remove(found["objects"][start : start + 100])
        for channel, table in SESSION_TABLES.items():
            emptied: dict[str, Any] = {
                "generated_image_url": None,
                "model_image_url": "",
                "outfit_image_url": None,
                "prompt_user": None,
            }
            if channel is Channel.B2C:
                emptied |= {"accessories": None, "stitched_image_url": None}
            ids = [entry["session_id"] for entry in found["sessions"] if entry["channel"] == channel.value]
            for start in range(0, len(ids), _IDS_IN_ONE_QUERY):
                update = self._supabase.table(table).update(emptied)
                _rows((await update.in_("id", ids[start : start + _IDS_IN_ONE_QUERY]).execute()).data)
        wanted = {entry["session_id"] for entry in found["sessions"]}
        letters = [letter for letter in await self.dead_letters(_ALL) if _session_of(letter) in wanted]
        for letter in letters:
            await self.drop_dead_letter(letter)
        return {
            "sessions": len(found["sessions"]),
            "objects": len(found["objects"]),
            "dead_letters": len(letters),
        }


def _letter(element: bytes) -> Letter:
    try:
        letter = DeadLetter.model_validate_json(element)
    except ValidationError:
        raw, encoding = raw_and_encoding(element)
        letter = DeadLetter(
            reason=DeadLetterReason.INVALID_TASK,
            detail="not written by this project",
            raw=raw,
            encoding=encoding,
            set_aside_at=datetime.fromtimestamp(0, UTC),
            set_aside_by="unknown",
        )
    return Letter(hashlib.sha256(element).hexdigest()[:_SHORT], element, letter)


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")


def _told(value: bytes | str, *, otherwise: str) -> dict[str, Any]:
    """The JSON object that a key holds; what else somebody set by hand, as `otherwise`."""
    try:
        told = json.loads(value)
    except (ValueError, RecursionError):
        told = None
    return told if isinstance(told, dict) else {otherwise: _text(value)}


def _rows(data: Any) -> list[dict[str, Any]]:
    """The rows of an answer; postgrest hands on a page of a proxy's as a string."""
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise ValueError("the database answered no rows")
    return data


def _session_of(letter: Letter) -> str | None:
    return str(letter.letter.session_id) if letter.letter.session_id else None


def _without_token(value: Any) -> Any:
    """A link without its query, which is what lets anybody open it."""
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return value.partition("?")[0]
    if isinstance(value, list):
        return [_without_token(item) for item in value]
    return value


def _links(value: Any) -> Iterator[str]:
    """Every link in a column, however deep."""
    if isinstance(value, str):
        if value.startswith(("http://", "https://")):
            yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _links(item)


def _belongs(path: str, channel: Channel, owner: UUID, column: str) -> bool:
    """Whether an object that a row links to is a picture of its owner's and of nobody else's."""
    *folders, name = path.split("/")
    if not name or any(folder in ("", ".", "..") for folder in (*folders, name)):
        return False
    ids = [folder for folder in folders if _UUID.fullmatch(folder.lower())]
    if not ids or ids[0].lower() != str(owner):
        return False
    if channel is Channel.B2B:
        # A store owns the rows of all its shoppers: of what is the store's, only the photo is this one's.
        return column == "model_image_url" and "generated" not in folders
    return folders[0] not in _RESULT_FOLDERS or folders == ["generated", ids[0]]


def _path_in_bucket(link: str, bucket: str) -> str | None:
    """Path of an object of ours that a signed or public link leads to; None for any other link."""
    try:
        path = unquote(urlsplit(link).path)
    except ValueError:  # http://[
        return None
    if not path.startswith(_OBJECT_PATH):
        return None
    kind, _, rest = path.removeprefix(_OBJECT_PATH).partition("/")
    if kind not in ("sign", "public", "authenticated") or not rest.startswith(f"{bucket}/"):
        return None
    return rest.removeprefix(f"{bucket}/")
