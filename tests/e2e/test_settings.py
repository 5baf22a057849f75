"""A service that cannot start says so in one line and ends with 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # starts each service anew, many times

KEYS = {"SUPABASE_SERVICE_ROLE_KEY": "service-role-key-of-a-test", "OPENAI_API_KEY": "sk-key-of-a-test"}

REQUIRED = {"REDIS_URL": "redis://localhost:6379/0", "SUPABASE_URL": "https://example.com", **KEYS}
OUT_OF_BOUNDS = {
    "STUCK_AFTER_SECONDS": "3000000000",
    "RESULT_RETENTION_HOURS": "100000000",
    "INPUT_RETENTION_HOURS": "100000000",
    "OPENAI_TIMEOUT_SECONDS": "1e-300",
    "SIGNED_URL_TTL_SECONDS": "9" * 20,
    "MEMORY_LIMIT_MB": "1" + "0" * 23,
    "STORAGE_BUCKET": "../x",
}
CONSUMERS_LIMITS = ("MAX_INVALID_IN_A_ROW", "MAX_DEAD_LETTER_MB", "STORE_SHARE")


def run(module: str, directory: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module],
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **env},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "env", "named"),
    [
        ("wearon_generator", {"REDIS_URL": "localhost:6379", **KEYS}, ["SUPABASE_URL", "REDIS_URL"]),
        (
            "wearon_generator",
            {},
            ["REDIS_URL", "SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "OPENAI_API_KEY"],
        ),
        (
            "wearon_generator",
            {
                "REDIS_URL": "http://:hunter2hunter2@localhost",
                "SUPABASE_URL": "https://example.com/rest/v1",
                "GENERATIONS_PER_MINUTE": "many",
                "OPENAI_MAX_RETRIES": "0",
                "IMAGE_FETCH_TRUSTED_ORIGINS": "http://good.example,nonsense",
                **KEYS,
            },
            ["REDIS_URL", "SUPABASE_URL", "GENERATIONS_PER_MINUTE", "OPENAI_MAX_RETRIES", "entry 2"],
        ),
        ("wearon_generator", {**REQUIRED, **OUT_OF_BOUNDS}, [f"{name} is wrong" for name in OUT_OF_BOUNDS]),
        (
            "wearon_consumer",
            {"REDIS_URL": REQUIRED["REDIS_URL"], **dict.fromkeys(CONSUMERS_LIMITS, "9" * 30)},
            [f"{name} is wrong" for name in CONSUMERS_LIMITS],
        ),
        (
            "wearon_consumer",
            {"REDIS_URL": "localhost:6379", "HEALTH_PORT": "x"},
            ["REDIS_URL", "HEALTH_PORT"],
        ),
        ("wearon_consumer", {}, ["REDIS_URL"]),
        (
            "wearon_sizing",
            {"REDIS_URL": "localhost:6379", "SUPABASE_URL": "nonsense"},
            ["SUPABASE_URL", "REDIS_URL"],
        ),
    ],
)
def test_wrong_settings_are_named_in_one_line(
    tmp_path: Path, module: str, env: dict[str, str], named: list[str]
) -> None:
    ended = run(module, tmp_path, env)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert all(name in line for name in named), line
    assert not any(secret in line for secret in (*KEYS.values(), "hunter2hunter2"))


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_URL=nonsense\nSUPABASE_URL=https://example.com\n")
    ended = run("wearon_generator", tmp_path, KEYS)
    assert ended.returncode == 2
    assert "REDIS_URL" in ended.stderr
    assert "SUPABASE_URL" not in ended.stderr
