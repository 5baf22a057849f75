"""What `deploy/migrate` says where it cannot connect; psql and getent are stand-ins."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest

MIGRATE: Final = Path(__file__).parents[2] / "deploy/migrate"
HINT: Final = (
    "the host has only IPv6 addresses; if this machine has no IPv6, take the URL of the session pooler"
)


@pytest.mark.parametrize(
    ("url", "addresses", "hinted"),
    [
        ("postgresql://postgres:p@db.example.com:5432/postgres", "2001:db8::1 STREAM", True),
        ("postgresql://postgres:p%40x@[2001:db8::1]:5432/postgres", "", True),
        ("postgresql://db.example.com/postgres", "2001:db8::1 STREAM\n2001:db8::2 STREAM", True),
        ("postgresql://postgres:p@db.example.com/postgres", "2001:db8::1 STREAM\n192.0.2.1 STREAM", False),
        ("postgresql://postgres:p@db.example.com/postgres", "192.0.2.1 STREAM", False),
        ("postgresql://postgres:p@db.example.com/postgres", "", False),
    ],
)
def test_a_host_with_nothing_but_ipv6_is_told_in_one_line(
    tmp_path: Path, url: str, addresses: str, hinted: bool
) -> None:
    refusal = 'connection to server at "db.example.com" failed: Network is unreachable'
    stand_ins = {"psql": f"echo '{refusal}' >&2; exit 2", "getent": f"printf '%s' '{addresses}'"}
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DATABASE_URL": url}
    done = subprocess.run([MIGRATE], env=environment, capture_output=True, text=True, check=False)
    hint = [f"migrate: {HINT}"] if hinted else []
    assert done.stderr.splitlines() == [*hint, f"migrate: cannot connect: {refusal}"]
    assert done.returncode == 1
