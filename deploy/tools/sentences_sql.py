"""Writes the error table's sentences as a migration; with --check, only says whether it is up to date.

They are those of try-ons that name no picture: where the database ends a session by itself, it writes one
into the session's row.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generated_file import write_or_check

from wearon_contracts.errors import TRY_ON_FAMILIES, ErrorCode, describe

FILE = Path(__file__).resolve().parents[2] / "deploy/supabase/migrations/022_sentences.sql"


def render() -> str:
    """The whole file."""
    table = [describe(code) for code in ErrorCode]
    rows = [
        f"    when {_quoted(info.code)} then {_quoted(info.sentence)}"
        for info in table
        if info.family in TRY_ON_FAMILIES and "{image}" not in info.sentence
    ]
    return "\n".join(
        [
            "-- Written by `make generated` from packages/contracts/src/wearon_contracts/errors.py.",
            "",
            "-- The sentence a shopper reads for an error code that names no picture.",
            "create or replace function generation_private.sentence(p_code text) returns text",
            "language sql immutable set search_path = ''",
            "as $$",
            "  select case p_code",
            *rows,
            "  end",
            "$$;",
            "",
        ]
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, render, description=__doc__, rule="generated"))
