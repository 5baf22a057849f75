"""Why nothing is sent to an address that a stranger chose."""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """Which rule a URL breaks."""

    URL = "url"
    """It is no valid http or https URL."""
    SCHEME = "scheme"
    CREDENTIALS = "credentials"
    PORT = "port"
    ADDRESS = "address"
    """Its host is not on the public internet."""


class TargetRefused(Exception):
    """Final: the same URL will be refused again. `detail` is for the log: it names a host at most, no URL."""

    def __init__(self, rule: Rule, detail: str = "") -> None:
        super().__init__(f"{rule}: {detail}" if detail else str(rule))
        self.rule = rule
        self.detail = detail
