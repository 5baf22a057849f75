"""What Redis and the database answer, as values; strangers write to both."""

from __future__ import annotations

import json
from typing import TypeAlias

Row: TypeAlias = dict[str, object]
"""A row of the database or an object of JSON whose fields others decide."""


def text(name: bytes | str) -> str:
    """A key or value of Redis; bytes that are no UTF-8 as `\\xff`."""
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")


def json_object(value: bytes | str, *, otherwise: str) -> Row:
    """The JSON object that a key holds; what else somebody set by hand, as the field `otherwise`."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {otherwise: text(value)}


def rows(data: object) -> list[Row]:
    """The rows of an answer. Raises `ValueError` for a proxy's page, which postgrest hands on as a string."""
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise ValueError("the database answered no rows")
    return data


def row(data: object) -> Row:
    """The object that a function of the database answered; raises `ValueError` if it is none."""
    if not isinstance(data, dict):
        raise ValueError("the database answered no object")
    return data
