"""Posts to an address that a stranger chose, over the checked network that pictures are fetched through."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import httpcore

from wearon_service_kit.checked_http.client import CheckedHttp
from wearon_service_kit.checked_http.dial import Resolve, UnknownHost
from wearon_service_kit.checked_http.errors import Rule, TargetRefused
from wearon_service_kit.checked_http.targets import Target
from wearon_service_kit.connection_errors import why_unreachable

_GONE: Final = 410
_REFUSALS: Final = {
    Rule.URL: "the URL is not valid",
    Rule.SCHEME: "the URL does not begin with https://",
    Rule.CREDENTIALS: "the URL has a user name in it",
    Rule.PORT: "the URL has another port than 443",
    Rule.ADDRESS: "the host is not on the public internet",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one try; `error`: why it counts as failed, in words without the URL."""

    status: int | None = None
    error: str | None = None
    asked: bool = True
    """False: the try failed on our side, before the endpoint was asked."""

    @property
    def delivered(self) -> bool:
        """Whether the endpoint has taken the event."""
        return self.error is None

    @property
    def gone(self) -> bool:
        """Whether the endpoint asks not to be told anything any more."""
        return self.status == _GONE


class WebhookClient:
    """Sends requests on one asyncio event loop and reads no more of an answer than its head.

    Refused, as for pictures: addresses outside the public internet (checked where they are dialled), user
    names, ports other than 443; no redirect is followed. And http://, since the body holds a link to a
    person's picture. `trusted_origins` (scheme://host[:port]) are excepted from all of these but the one on
    redirects. `timeout`: seconds for one request, from looking up the host to the head of the answer.

    `resolve`, `network`, `ssl_context`: see `CheckedHttp`.
    """

    def __init__(
        self,
        *,
        timeout: float,
        trusted_origins: Iterable[str] = (),
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = timeout
        self._http = CheckedHttp(
            trusted_origins=trusted_origins, resolve=resolve, network=network, ssl_context=ssl_context
        )

    def objection(self, url: str) -> str | None:
        """Why nothing will ever be sent to `url`, as far as it shows before its host is looked up."""
        try:
            self._target(url)
        except TargetRefused as refused:
            return _REFUSALS[refused.rule]
        return None

    async def post(self, url: str, body: str, headers: Mapping[str, str]) -> Answer:
        """Send `body` and say what came of it; raises nothing but a cancellation."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(self._target(url), body.encode(), headers)
        except TargetRefused as refused:
            return Answer(error=_REFUSALS[refused.rule])
        except UnknownHost:
            return Answer(error="the host is not known")
        except (TimeoutError, httpcore.TimeoutException):
            return Answer(error=f"no answer within {self._timeout:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return Answer(error=why_unreachable(error))

    def _target(self, url: str) -> Target:
        target = self._http.target(url)
        if target.url.scheme != b"https" and not target.trusted:
            raise TargetRefused(Rule.SCHEME)
        return target

    async def _post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        own = [
            (b"Content-Type", b"application/json"),
            (b"Content-Length", str(len(body)).encode()),
            (b"User-Agent", b"WearOn-webhooks/1"),
        ]
        signed = [(name.encode(), value.encode()) for name, value in headers.items()]
        async with self._http.request(
            "POST", target, [*own, *signed], connect_timeout=self._timeout, content=body
        ) as response:
            if 200 <= response.status < 300:
                return Answer(response.status)
            if 300 <= response.status < 400:
                return Answer(response.status, "it answered with a redirect, which is not followed")
            return Answer(response.status, f"status {response.status}")
