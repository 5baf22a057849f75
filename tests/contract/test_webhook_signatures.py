"""What the generator signs, the npm package and the reference library verify; what was changed, neither."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from wearon_contracts.webhooks import WebhookEvent
from wearon_generator.timing import utc_now
from wearon_generator.webhooks.signing import body_of, new_secret, signed_headers

OLD, NEW = new_secret(), new_secret()
DATA: dict[str, Any] = {
    "session_id": "0196f0a4-7c1e-7b3a-9d52-3f6a1c0e8b11",
    "channel": "b2b",
    "user_id": None,
    "store_id": "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
    "request_id": "Größe “M” \U0001f455 / 服",
    "code": "moderation_blocked",
    "attempts": 2,
    "given_back": True,
}
BODY = body_of("generation.failed", "2026-11-23T21:00:42.123456+00:00", DATA, None)

_VERIFY = """
import { readFileSync } from "node:fs";
const { verifyWebhook } = await import(process.argv[1]);
const { body, headers, secret } = JSON.parse(readFileSync(0, "utf8"));
try {
  console.log(JSON.stringify(verifyWebhook(body, headers, secret)));
} catch (error) {
  console.log(JSON.stringify({ refused: error.name }));
}
"""


def verified_by_npm(typescript: Path, body: str, headers: Mapping[str, str], secret: object) -> Any:
    """What `verifyWebhook` gives back, or the name of what it throws."""
    asked = json.dumps({"body": body, "headers": headers, "secret": secret})
    command = ["node", "--input-type=module", "-e", _VERIFY, str(typescript / "dist/esm/index.js")]
    answered = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    return json.loads(answered.stdout)


def test_both_verify_what_the_generator_signs(typescript: Path) -> None:
    headers = signed_headers("an-id", utc_now(), BODY, [NEW])

    by_npm = verified_by_npm(typescript, BODY, headers, NEW)
    by_reference = Webhook(NEW).verify(BODY, headers)

    assert by_npm == {"id": "an-id", "event": by_reference}
    assert WebhookEvent.model_validate(by_reference).data.request_id == DATA["request_id"]


@pytest.mark.parametrize("known", [OLD, NEW, [OLD, NEW]], ids=["old", "new", "both"])
def test_a_receiver_with_either_secret_verifies_while_one_replaces_the_other(
    typescript: Path, known: object
) -> None:
    headers = signed_headers("an-id", utc_now(), BODY, [NEW, OLD])

    assert verified_by_npm(typescript, BODY, headers, known)["id"] == "an-id"


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp", "secret"])
def test_neither_verifies_what_was_changed(typescript: Path, changed: str) -> None:
    headers = signed_headers("an-id", utc_now(), BODY, [NEW])
    body = BODY.replace("moderation_blocked", "internal_error") if changed == "body" else BODY
    secret = OLD if changed == "secret" else NEW
    if changed == "webhook-id":
        headers[changed] = "another"
    if changed == "webhook-timestamp":
        headers[changed] = str(int(headers[changed]) + 1)

    assert verified_by_npm(typescript, body, headers, secret) == {"refused": "WebhookError"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)
