"""Why a picture could not be had."""

from __future__ import annotations

from wearon_contracts.errors import ErrorCode


class ImageError(Exception):
    """`code` is for the shopper and for counting, `detail` for the log: it names a host at most, no URL."""

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else str(code))
        self.code = code
        self.detail = detail


class ImageRefused(ImageError):
    """Final: the same URL or the same bytes will be refused again."""


class ImageUnreachable(ImageError):
    """Perhaps later: the server, the network or the time limit was the problem.

    `trusted_origin`: it was a server of our own (Supabase), so this is our outage and not the shopper's URL.
    `retry_after`: seconds the server asked to wait, 0 to 3600, or None. `seconds`: how long the try took from
    when it had its place.
    """

    def __init__(
        self, code: ErrorCode, detail: str = "", *, trusted_origin: bool, retry_after: float | None = None
    ) -> None:
        super().__init__(code, detail)
        self.trusted_origin = trusted_origin
        self.retry_after = retry_after
        self.seconds = 0.0
