"""The TypeScript functions with ioredis and supabase-js, against the real services on the local stack."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.outcomes import CancelAnswer, GenerationOutcome
from wearon_contracts.sessions import SessionUpdate
from wearon_local.app.next_app import Job, NextApp
from wearon_local.stack import Stack


def _told(job: Job, app: NextApp, *, cancel: bool) -> dict[str, Any]:
    """What the application's side is told about a job."""
    owner = "userId" if job.channel == "b2c" else "storeId"
    return {
        "cancel": cancel,
        "userToken": app.user_token(job.owner_id) if job.channel == "b2c" else None,
        "generation": {
            "channel": job.channel,
            owner: str(job.owner_id),
            "sessionId": str(job.session_id),
            "imageUrls": job.task["image_urls"],
            "requestId": job.request_id,
        },
    }


@pytest.fixture(scope="module")
def seen(typescript: Path) -> list[dict[str, Any]]:
    """What the application's side saw of a user's job, a store's job, one whose image is not there, and a
    user's and a store's that are cancelled before they are pushed."""
    with Stack(openai_latency=0.5) as stack:
        app = stack.app
        user, store = app.create_user(), app.create_store()
        broken = app.b2c_job(user, image_urls=[app.sample_url(Path("nothing-of-this-name.png"))] * 2)
        jobs = [app.b2c_job(user), app.b2b_job(store), broken]
        cancelled = [app.b2c_job(user), app.b2b_job(store)]
        stack.start_service("consumer")
        stack.start_service("generator")
        told = {
            "redisUrl": stack.redis_url,
            "supabaseUrl": stack.gateway_url,
            "anonKey": stack.anon_key,
            "serviceRoleKey": stack.service_role_key,
            "jobs": [
                *(_told(job, app, cancel=False) for job in jobs),
                *(_told(job, app, cancel=True) for job in cancelled),
            ],
        }
        ran = subprocess.run(
            # Before Node 22 a WebSocket, and so Realtime, has to be asked for.
            ["node", "--experimental-websocket", "test/stack-client.js"],
            cwd=typescript,
            env={**os.environ, "STACK": json.dumps(told)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert ran.returncode == 0, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["b2c", "b2b"])
def test_a_try_on_is_followed_to_its_picture(seen: list[dict[str, Any]], number: int) -> None:
    job = seen[number]
    assert job["steps"][0] == "queued"
    assert job["steps"][-1] == "completed"
    update = SessionUpdate.model_validate(job["last"])
    assert update.generated_image_url is not None
    assert job["resigned"] == {"status": 200, "type": "image/jpeg"}
    outcome = GenerationOutcome.model_validate(job["outcome"])
    assert (outcome.outcome, outcome.attempts, outcome.given_back) == ("completed", 1, False)


def test_a_failure_comes_with_its_reason_and_the_credit(seen: list[dict[str, Any]]) -> None:
    job = seen[2]
    assert (job["steps"][-1], job["resigned"]) == ("failed", None)
    assert job["last"]["error_message"].endswith(".")
    outcome = GenerationOutcome.model_validate(job["outcome"])
    assert (outcome.error_code, outcome.given_back) == ("image_http_error", True)
    assert outcome.refund is not None and outcome.refund.amount == 1


@pytest.mark.parametrize("number", [3, 4], ids=["b2c", "b2b"])
def test_a_cancelled_try_on_is_told_so_and_its_credit_is_back(
    seen: list[dict[str, Any]], number: int
) -> None:
    job = seen[number]
    assert job["steps"] == ["queued", "failed"]
    assert job["last"]["error_message"] == sentence(ErrorCode.CANCELLED)
    outcome = GenerationOutcome.model_validate(job["outcome"])
    assert (outcome.error_code, outcome.given_back) == (ErrorCode.CANCELLED, True)
    again = CancelAnswer.model_validate(job["cancelled"])
    assert (again.verdict, again.given_back) == ("already_cancelled", True)


def test_a_try_on_that_has_ended_cannot_be_cancelled(seen: list[dict[str, Any]]) -> None:
    answers = [CancelAnswer.model_validate(job["cancelled"]) for job in seen[:3]]
    assert [answer.verdict for answer in answers] == ["completed", "completed", "failed"]
