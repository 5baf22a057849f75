"""Looks for what must never stand in a log."""

from __future__ import annotations

import re

from wearon_local.stack import Stack

_SERVICE_LOGS = ("consumer-*.log", "generator-*.log", "sizing-api-*.log")
_JWT = re.compile(r"eyJ[\w-]{5,}\.")
_SIGNED = re.compile(r"[?&]token=(?!\*\*\*)[^&\s\"]{8,}")
_KEY = re.compile(r"\bsk-(?!\*\*\*)[\w-]{6,}")


def assert_no_secret_in_logs(stack: Stack) -> None:
    """No key, token or signed URL in what any service of the stack has written."""
    known = (stack.service_role_key, stack.anon_key, stack.openai_api_key, stack.postgres.password)
    logs = [path for pattern in _SERVICE_LOGS for path in sorted(stack.logs.glob(pattern))]
    found = []
    for path in logs:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if any(secret in line for secret in known):
                found.append(f"{path.name}:{number}: a key")
            for name, pattern in (("token", _JWT), ("signed URL", _SIGNED), ("API key", _KEY)):
                if pattern.search(line):
                    found.append(f"{path.name}:{number}: {name}")
    assert not found, found
