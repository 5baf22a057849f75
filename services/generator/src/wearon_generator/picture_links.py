"""Which pictures sessions link to; within limits, since users write to their rows what they like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote

from wearon_generator.ledger import Database
from wearon_generator.pictures import path_in_bucket
from wearon_generator.supabase_client import SupabaseUnavailable

EVERY_LINK: Final = "://"
"""What every link has in it."""


class PictureLinks:
    """Links in the rows of sessions. Methods raise `SupabaseUnavailable`."""

    def __init__(self, database: Database, bucket: str) -> None:
        self._database = database
        self._bucket = bucket
        self.folder: Final = f"/{quote(bucket)}/"
        """What links into our bucket have in them; a space in its name is `%20` there."""

    async def of(self, sessions: Sequence[Any], part: str) -> list[dict[str, Any]]:
        """Of these sessions with `channel` and `session_id` the links with `part` in them, as the rows that
        `pictures_of` takes; `row` is None where there is none."""
        named = [{"channel": one["channel"], "session_id": one["session_id"]} for one in sessions]
        return await self.rows("session_links", {"p_sessions": named, "p_part": part}) if named else []

    async def needed_by(
        self, owners: Iterable[str], *, younger_than: int | None = None, paths: Iterable[str] = ()
    ) -> set[str]:
        """Objects of our bucket that unsettled sessions of these owners link to; with `younger_than` also
        those of `paths` that sessions link to which ended less than so many hours ago."""
        wanted = sorted(set(owners))
        if not wanted:
            return set()
        params = {
            "p_owners": wanted,
            "p_folder": self.folder,
            "p_hours": younger_than,
            "p_names": sorted({path.rpartition("/")[2] for path in paths}),
        }
        links = await self.rows("linked_pictures", params)
        return {path for link in links if (path := path_in_bucket(str(link), self._bucket)) is not None}

    async def rows(self, function: str, params: dict[str, Any]) -> list[Any]:
        """What a function of the database answers."""
        answer = await self._database.call(f"generation_{function}", params)
        if not isinstance(answer, list):
            raise SupabaseUnavailable(f"generation_{function} answered no list")
        return answer
