"""The first try-on of somebody who has nothing but docker-compose.yml."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from wearon_local.app.try_on import show
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # starts a stack for each test


def test_try_on_command_says_how_the_session_ends_and_where_the_picture_is(stack: Stack) -> None:
    stack.start_service("consumer")
    stack.start_service("generator")
    variables = {
        "DATABASE_URL": stack.database_url,
        "REDIS_URL": stack.redis_url,
        "SUPABASE_URL": stack.gateway_url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_role_key,
        "SUPABASE_JWT_SECRET": stack.app.jwt_secret,
    }
    command = [sys.executable, "-m", "wearon_local.app.try_on"]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    first, *changes, credit, link = done.stdout.splitlines()
    stack.stop_services()
    assert first.startswith("session ")
    assert changes[-1].endswith("completed")
    assert credit == "credits  10 -> 9"
    assert stack.app.download(link).headers["content-type"] == "image/jpeg"


def test_try_on_command_prints_the_sentence_of_a_failure(stack: Stack) -> None:
    stack.start_service("consumer")
    stack.start_service("generator")
    stack.openai.set_mode("moderation_blocked")
    said = io.StringIO()
    assert show(stack.app, said) == 1
    stack.stop_services()
    assert "credits  10 -> 10" in said.getvalue()
    assert said.getvalue().splitlines()[-1].endswith(".")


def test_try_on_command_says_where_to_look_when_nobody_takes_the_task(stack: Stack) -> None:
    said = io.StringIO()
    assert show(stack.app, said, patience=0.3) == 1
    assert said.getvalue().splitlines()[-1].startswith("still queued: docker compose ps")
