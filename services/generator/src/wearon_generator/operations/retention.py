"""Which pictures the settings let go, which are gone, and which no session knows."""

from __future__ import annotations

from typing import Final, TypedDict

from pydantic import TypeAdapter
from typing_extensions import TypedDict as ReadTypedDict

from wearon_contracts.sessions import SESSION_TABLES
from wearon_contracts.tasks import Channel
from wearon_generator.ledger import SupabaseDatabase
from wearon_generator.operations.connections import Connections
from wearon_generator.operations.values import rows
from wearon_generator.pictures import session_of_result
from wearon_generator.retention import Kind, Retention

_PAGE: Final = 500
_IN_ONE_REQUEST: Final = 100
"""Session ids go into a URL."""


class Due(ReadTypedDict):
    """How many sessions' pictures are old enough to go, and when the oldest of these sessions ended."""

    due: int
    oldest: str | None


class Gone(ReadTypedDict):
    """Of how many sessions pictures were deleted, ever."""

    results: int
    inputs: int
    last_deleted_at: str | None


class Figures(ReadTypedDict):
    """What the database tells; None for what no setting lets go."""

    results: Due | None
    inputs: Due | None
    gone: Gone


class Shown(TypedDict):
    """Figures, and the pictures of the next batches; those in `kept` are still linked to."""

    hours: dict[str, int | None]
    results: Due | None
    inputs: Due | None
    gone: Gone
    next: list[str]
    kept: list[str]


class Leftovers(TypedDict):
    """Results in Storage of which neither a session nor the ledger knows."""

    looked_at: int
    without_session: list[str]


_FIGURES: Final = TypeAdapter(Figures)


async def show(at: Connections, limit: int) -> Shown:
    """What would go now, at most `limit` sessions of each kind; deletes nothing."""
    limits = at.retention
    retention = Retention(SupabaseDatabase(at.supabase), at.bucket)
    params = {"p_result_hours": limits.results, "p_input_hours": limits.inputs}
    figures = _FIGURES.validate_python((await at.supabase.rpc("generation_retention", params).execute()).data)
    wanted: tuple[tuple[Kind, int | None], ...] = (("result", limits.results), ("input", limits.inputs))
    batches = [
        await retention.batch(kind, hours, await retention.due(kind, hours, limit=limit))
        for kind, hours in wanted
        if hours is not None
    ]
    return {
        "hours": {"results": limits.results, "inputs": limits.inputs},
        **figures,
        "next": [path for batch in batches for path in batch.paths],
        "kept": [path for batch in batches for path in batch.kept],
    }


async def leftovers(at: Connections) -> Leftovers:
    """Look through all results in Storage; one request for each user's and store's folder, and more."""
    looked_at = 0
    unknown: list[str] = []
    for folder in await _result_folders(at):
        paths = {}
        for name in await _names(at, folder):
            session_id = session_of_result(name)
            if session_id is not None:
                paths[session_id] = f"{folder}/{name}"
        looked_at += len(paths)
        known = await _known(at, sorted(paths))
        unknown += [path for session_id, path in sorted(paths.items()) if session_id not in known]
    return {"looked_at": looked_at, "without_session": unknown}


async def _result_folders(at: Connections) -> list[str]:
    users = [f"generated/{name}" for name in await _names(at, "generated")]
    return users + [f"stores/{name}/generated" for name in await _names(at, "stores")]


async def _names(at: Connections, folder: str) -> list[str]:
    bucket = at.supabase.storage.from_(at.bucket)
    found: list[str] = []
    while True:
        page = rows(await bucket.list(folder, {"limit": _PAGE, "offset": len(found)}))
        found += [str(entry["name"]) for entry in page]
        if len(page) < _PAGE:
            return found


async def _known(at: Connections, session_ids: list[str]) -> set[str]:
    known: set[str] = set()
    channels = [channel.value for channel in Channel]
    for start in range(0, len(session_ids), _IN_ONE_REQUEST):
        some = session_ids[start : start + _IN_ONE_REQUEST]
        for table in SESSION_TABLES.values():
            query = at.supabase.table(table).select("id").in_("id", some)
            known |= {str(row["id"]) for row in rows((await query.execute()).data)}
        ledger = at.supabase.table("generation_ledger").select("session_id").in_("channel", channels)
        known |= {
            str(row["session_id"]) for row in rows((await ledger.in_("session_id", some).execute()).data)
        }
    return known
