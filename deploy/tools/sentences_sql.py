"""Writes the error table's sentences as a migration; with --check, only says whether it is up to date.

They are those of try-ons that name no picture: where the database ends a session by itself, it writes one
into the session's row.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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


def main() -> int:
    """0, or 1 if --check found the file stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is stale")
    text = render()
    if not parser.parse_args().check:
        FILE.write_text(text)
        return 0
    if FILE.exists() and FILE.read_text() == text:
        return 0
    print(f"{FILE.name} is stale: run make generated", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
