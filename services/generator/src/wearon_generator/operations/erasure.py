"""Deletes the pictures of a session or of a user, and the links to them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict
from uuid import UUID

from wearon_contracts.queues import TASKS_KEPT
from wearon_contracts.results import result_path
from wearon_contracts.sessions import SESSION_TABLES, SETTLED
from wearon_contracts.tasks import Channel
from wearon_generator.ledger import SupabaseDatabase
from wearon_generator.operations import dead_letters
from wearon_generator.operations.connections import Connections
from wearon_generator.operations.sessions import ledger_entry, no_session, session_row
from wearon_generator.operations.values import Row, rows
from wearon_generator.picture_links import EVERY_LINK, PictureLinks
from wearon_generator.pictures import OWNER_COLUMN, pictures_of, session_of_result
from wearon_generator.storage import SupabaseBucket

_PAGE: Final = 500
_IN_ONE_REQUEST: Final = 100
"""Session ids go into a URL."""


class ErasedSession(TypedDict):
    """A settled session whose pictures and links go."""

    channel: str
    session_id: str


class Erased(TypedDict):
    """How many of each were erased."""

    sessions: int
    objects: int
    dead_letters: int


class Erasure(TypedDict):
    """What is found, and what was erased of it; None if nothing was to be."""

    sessions: list[ErasedSession]
    unsettled_and_left_alone: list[str]
    objects: list[str]
    needed_by_unsettled_and_kept: list[str]
    """The owner's own pictures that unsettled sessions link to; they go when this is done again after those
    have ended, and until then the links of the sessions that lead to them stay as well."""
    linked_and_kept: list[str]
    """Pictures that the rows link to and that are not their owner's alone."""
    erased: Erased | None


@dataclass(frozen=True, slots=True)
class _Subject:
    """Whose pictures go."""

    sessions: list[tuple[Channel, Row]]
    unsettled: set[str]
    results: set[str] = field(default_factory=set)
    """Results that are known of without these rows."""
    owners: set[str] = field(default_factory=set)
    """Owners who are known without these rows."""
    without_row: set[str] = field(default_factory=set)
    """Settled sessions that have no row any more."""
    of_user: UUID | None = None


async def erase_session(at: Connections, session_id: UUID, *, only_look: bool) -> Erasure:
    """Those of one session; the ledger finds the result of one without a row.

    Raises `Refused` if there is neither row nor entry.
    """
    found = await session_row(at, session_id, "id, status")
    if found is not None:
        return await _erase(at, _Subject([found], await _unsettled(at, [found])), only_look)
    entry = await ledger_entry(at, session_id)
    if entry is None:
        raise no_session(session_id)
    channel, row = entry
    owner = str(row["owner_id"])
    result = result_path(channel, UUID(owner), session_id)
    without_row = {str(session_id)} if row["state"] == "settled" else set()
    return await _erase(at, _Subject([], set(), {result}, {owner}, without_row), only_look)


async def erase_user(at: Connections, user_id: UUID, *, only_look: bool) -> Erasure:
    """Those of all of a user's sessions; the user's folder tells of results without a row."""
    sessions = [(Channel.B2C, row) for row in await _sessions_of(at, user_id)]
    unsettled = await _unsettled(at, sessions)
    results = await _results_of(at, user_id, besides=unsettled)
    return await _erase(
        at, _Subject(sessions, unsettled, results, {str(user_id)}, of_user=user_id), only_look
    )


async def _sessions_of(at: Connections, user_id: UUID) -> list[Row]:
    table = at.supabase.table(SESSION_TABLES[Channel.B2C])
    found: list[Row] = []
    while True:
        query = table.select("id, status").eq("user_id", str(user_id)).order("id")
        page = rows((await query.range(len(found), len(found) + _PAGE - 1).execute()).data)
        found += page
        if len(page) < _PAGE:
            return found


async def _unsettled(at: Connections, sessions: list[tuple[Channel, Row]]) -> set[str]:
    """Those that have not ended. Its owner writes a row's status: what the ledger has settled has ended."""
    waiting = [(channel, str(row["id"])) for channel, row in sessions if row["status"] not in SETTLED]
    unsettled = {session_id for _, session_id in waiting}
    for channel in Channel:
        ids = [session_id for its, session_id in waiting if its is channel]
        for start in range(0, len(ids), _IN_ONE_REQUEST):
            query = at.supabase.table("generation_ledger").select("session_id").eq("channel", channel.value)
            query = query.eq("state", "settled").in_("session_id", ids[start : start + _IN_ONE_REQUEST])
            unsettled -= {str(entry["session_id"]) for entry in rows((await query.execute()).data)}
    return unsettled


async def _results_of(at: Connections, user_id: UUID, *, besides: set[str]) -> set[str]:
    """Every result in a user's folder, but for those of the sessions `besides`."""
    folder = f"generated/{user_id}"
    bucket = at.supabase.storage.from_(at.bucket)
    found: set[str] = set()
    offset = 0
    while True:
        page = rows(await bucket.list(folder, {"limit": _PAGE, "offset": offset}))
        for name in (str(entry["name"]) for entry in page):
            session_id = session_of_result(name)
            if session_id is not None and session_id not in besides:
                found.add(f"{folder}/{name}")
        offset += len(page)
        if len(page) < _PAGE:
            return found


async def _erase(at: Connections, subject: _Subject, only_look: bool) -> Erasure:
    settled: list[ErasedSession] = [
        {"channel": channel.value, "session_id": str(row["id"])}
        for channel, row in subject.sessions
        if str(row["id"]) not in subject.unsettled
    ]
    links = PictureLinks(SupabaseDatabase(at.supabase), at.bucket)
    found = [one for one in await _links_of(links, settled) if one["row"] is not None]
    owners = {str(one["row"][OWNER_COLUMN[Channel(one["channel"])]]) for one in found}
    needed = await links.needed_by(owners | subject.owners)
    objects = set(subject.results)
    linked: set[str] = set()
    waiting: set[str] = set()
    for one in found:
        own, others = pictures_of(Channel(one["channel"]), one["row"], at.bucket)
        objects |= own
        linked |= others
        if own & needed:
            waiting.add(one["session_id"])
    paths = sorted(objects - needed)
    emptied = [one for one in settled if one["session_id"] not in waiting]
    return {
        "sessions": settled,
        "unsettled_and_left_alone": [
            str(row["id"]) for _, row in subject.sessions if str(row["id"]) in subject.unsettled
        ],
        "objects": paths,
        "needed_by_unsettled_and_kept": sorted(objects & needed),
        "linked_and_kept": sorted(linked - objects),
        "erased": None if only_look else await _delete(at, subject, emptied, paths),
    }


async def _links_of(links: PictureLinks, sessions: list[ErasedSession]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for start in range(0, len(sessions), _IN_ONE_REQUEST):
        found += await links.of(sessions[start : start + _IN_ONE_REQUEST], EVERY_LINK)
    return found


async def _delete(
    at: Connections, subject: _Subject, sessions: list[ErasedSession], paths: list[str]
) -> Erased:
    """Delete the objects, the links to them, and what Redis keeps: dead letters and tasks in lanes."""
    await SupabaseBucket(at.supabase, at.bucket).remove(paths)
    for channel in Channel:
        await _empty_links(at, channel, [one["session_id"] for one in sessions if one["channel"] == channel])
    wanted = {one["session_id"] for one in sessions}
    if wanted:
        # Of one that was cancelled while it waited: its turn comes to nothing then.
        await at.redis.hdel(TASKS_KEPT, *wanted)
    wanted |= subject.without_row
    kept = {str(row["id"]) for _, row in subject.sessions} - wanted
    letters = []
    async for one in dead_letters.every(at):
        session_id = str(one.letter.session_id)
        if session_id in wanted or (session_id not in kept and _is_of(one, subject.of_user)):
            letters.append(one)
    for letter in letters:
        await dead_letters.drop(at, letter)
    return {"sessions": len(sessions), "objects": len(paths), "dead_letters": len(letters)}


def _is_of(letter: dead_letters.Letter, user_id: UUID | None) -> bool:
    """Whether a user's b2c task is in the letter, as far as it can be read."""
    try:
        task = json.loads(letter.letter.raw)
    except (ValueError, RecursionError):
        return False
    return (
        user_id is not None
        and isinstance(task, dict)
        and task.get("channel") == Channel.B2C.value
        and str(task.get("user_id")).lower() == str(user_id)
    )


async def _empty_links(at: Connections, channel: Channel, session_ids: list[str]) -> None:
    emptied: Row = {
        "generated_image_url": None,
        "model_image_url": "",
        "outfit_image_url": None,
        "prompt_user": None,
    }
    if channel is Channel.B2C:
        emptied |= {"accessories": None, "stitched_image_url": None}
    for start in range(0, len(session_ids), _IN_ONE_REQUEST):
        update = at.supabase.table(SESSION_TABLES[channel]).update(emptied)
        rows((await update.in_("id", session_ids[start : start + _IN_ONE_REQUEST]).execute()).data)
