"""Whose picture an object in the bucket is, as its path says.

The owner of a row can write any link into it, also one to a shared picture or to somebody else's, so the row
does not tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

from wearon_contracts.results import result_path
from wearon_contracts.tasks import Channel

OWNER_COLUMN: Final = {Channel.B2C: "user_id", Channel.B2B: "store_id"}
LINK_COLUMNS: Final = (
    "model_image_url",
    "outfit_image_url",
    "stitched_image_url",
    "accessories",
    "generated_image_url",
)
_OBJECT_PATH: Final = "/storage/v1/object/"
_RESULT_FOLDERS: Final = ("generated", "stores")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DEEPEST: Final = 100
"""Levels of lists and objects that are shown; users nest what they like."""
TOO_DEEP: Final = "(nested too deep to be shown)"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def pictures_of(channel: Channel, session: Mapping[str, Any], bucket: str) -> tuple[set[str], set[str]]:
    """Objects that are the row's owner's own, and whatever else the row links to.

    `session`: the row with a list of links in each of its columns, as `generation_session_links` answers it.
    """
    owner, session_id = UUID(session[OWNER_COLUMN[channel]]), UUID(session["id"])
    own, linked = {result_path(channel, owner, session_id)}, set()
    for column in LINK_COLUMNS:
        for link in session.get(column, []):
            if not link.startswith(("http://", "https://")):
                continue
            path = path_in_bucket(link, bucket)
            if path is None:
                linked.add(link)
            elif _belongs(path, channel, owner, column):
                own.add(path)
            else:
                linked.add(path)
    return own, linked


def session_of_result(name: str) -> str | None:
    """The session whose result has this name (`<session id>.jpg`); None for any other name."""
    stem = name.rpartition(".")[0]
    return stem if _UUID.fullmatch(stem) else None


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


def path_in_bucket(link: str, bucket: str) -> str | None:
    """Path of an object of ours that a signed or public link leads to; None for any other link."""
    try:
        path = unquote(urlsplit(link).path)
    except ValueError:  # http://[
        return None
    # No name in Storage has control characters, and a request with a NUL in it is refused as a whole.
    if not path.startswith(_OBJECT_PATH) or _CONTROL.search(path):
        return None
    kind, _, rest = path.removeprefix(_OBJECT_PATH).partition("/")
    if kind not in ("sign", "public", "authenticated") or not rest.startswith(f"{bucket}/"):
        return None
    return rest.removeprefix(f"{bucket}/")


def without_token(value: object, levels: int = _DEEPEST) -> object:
    """A link without its query, which is what lets anybody open it; links in lists and objects too."""
    match value:
        case str() if value.startswith(("http://", "https://")):
            return value.partition("?")[0]
        case list() | dict() if levels == 0:
            return TOO_DEEP
        case list():
            return [without_token(item, levels - 1) for item in value]
        case dict():
            return {str(without_token(key)): without_token(item, levels - 1) for key, item in value.items()}
    return value
