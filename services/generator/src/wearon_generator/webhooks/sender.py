"""Sends what is in the outbox, in the one replica that is elected to sweep.

It shares nothing with the jobs but the event loop: connections of its own to Supabase, places of its own. An
endpoint that works has `PER_ENDPOINT` of them, one that fails has one, and all that fail have `FOR_FAILING`,
so that they hold up no other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol

import structlog

from wearon_generator.metrics import Metrics
from wearon_generator.supabase_client import SupabaseUnavailable
from wearon_generator.timing import Clock, Now, Timing
from wearon_generator.webhooks.client import Answer, WebhookClient
from wearon_generator.webhooks.outbox import Delivery, Outbox, Sent
from wearon_generator.webhooks.signing import body_of, signed_headers
from wearon_service_kit.background import Background, end

log = structlog.get_logger()

PLACES: Final = 64
"""Requests at once. Each is a socket and a few kB."""
PER_ENDPOINT: Final = 8
"""At once. At 200 ms an answer that is 40 events a second, as 1,200 jobs a minute make."""
FOR_FAILING: Final = PLACES // 2
"""Of the places, for all endpoints that fail: each of their requests may take the whole timeout."""
_GROWTH: Final = 3  # 5 s, 15 s, 45 s, …: the 8th try comes after an hour, some 30 in a day
_STOP_PATIENCE: Final = 2.0  # seconds for requests under way; what is not reported is sent again


class Links(Protocol):
    """Signs links to results."""

    async def link(self, path: str) -> str | None:
        """A link that works for a while, None if there is no such object."""
        ...


def pause_after(attempts: int, timing: Timing) -> float:
    """Seconds until a delivery that failed so many times is tried again, without jitter."""
    # The exponent is bounded, for the power of a float would overflow.
    return float(
        min(timing.webhook_first_pause * _GROWTH ** min(attempts - 1, 20), timing.webhook_longest_pause)
    )


class WebhookSender:
    """Looks for what is due every poll, sends it, and reports."""

    def __init__(
        self,
        outbox: Outbox,
        links: Links,
        client: WebhookClient,
        *,
        is_elected: Callable[[], bool],
        metrics: Metrics,
        timing: Timing,
        clock: Clock,
        now: Now,
    ) -> None:
        """`is_elected`: whether this replica is the one that sends."""
        self._outbox = outbox
        self._links = links
        self._client = client
        self._is_elected = is_elected
        self._metrics = metrics
        self._timing = timing
        self._clock = clock
        self._now = now
        self._batches: dict[str, asyncio.Task[None]] = {}
        self._in_flight = 0
        self._more = asyncio.Event()
        self._tidy_at = 0.0
        self._background = Background("webhooks")

    def start(self) -> None:
        """Begin to send."""
        self._background.start(self._run())

    async def stop(self) -> None:
        """Begin no more requests and end those under way."""
        await self._background.stop()
        batches = list(self._batches.values())
        if batches:
            await asyncio.wait(batches, timeout=_STOP_PATIENCE)
        for batch in batches:
            await end(batch)

    async def _run(self) -> None:
        while True:
            pause = await self._look_safely()
            self._more.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._more.wait()
            except TimeoutError:
                continue

    async def _look_safely(self) -> float:
        """Look once; seconds until the next look."""
        try:
            return await self._look()
        except SupabaseUnavailable as error:
            log.warning("webhooks_not_looked_for", reason=str(error))
        except Exception:
            log.exception("webhooks_crashed")
        return self._timing.webhook_idle_poll

    async def _look(self) -> float:
        if not self._is_elected():
            self._metrics.show_webhooks({})
            self._tidy_at = 0.0
            return self._timing.webhook_poll
        endpoints, due = await self._outbox.claim(
            PLACES - self._in_flight, PER_ENDPOINT, FOR_FAILING, self._batches
        )
        due.sort(key=attrgetter("endpoint_id"))
        for endpoint_id, deliveries in groupby(due, attrgetter("endpoint_id")):
            batch = list(deliveries)
            self._in_flight += len(batch)
            self._batches[endpoint_id] = asyncio.create_task(self._send_batch(endpoint_id, batch))
        if self._clock() >= self._tidy_at:
            self._metrics.show_webhooks(await self._outbox.tidy())
            self._tidy_at = self._clock() + self._timing.webhook_tidy
        return self._timing.webhook_poll if endpoints else self._timing.webhook_idle_poll

    async def _send_batch(self, endpoint_id: str, batch: list[Delivery]) -> None:
        try:
            sent = await asyncio.gather(*map(self._send, batch))
            await self._report(sent)
        except SupabaseUnavailable as error:
            # What was sent is sent once more: at least once is what is promised.
            log.warning("webhooks_not_reported", endpoint=endpoint_id, reason=str(error))
        except Exception:
            log.exception("webhooks_crashed", endpoint=endpoint_id)
        finally:
            del self._batches[endpoint_id]
            self._in_flight -= len(batch)
            if len(batch) == PER_ENDPOINT:
                self._more.set()

    async def _send(self, delivery: Delivery) -> Sent:
        answer = await self._try(delivery)
        retry_in = pause_after(delivery.attempts, self._timing) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        self._metrics.webhook_deliveries.labels(outcome="delivered" if answer.delivered else "failed").inc()
        said = {
            "delivery": delivery.id,
            "endpoint": delivery.endpoint_id,
            "type": delivery.type,
            "session_id": delivery.data["session_id"],
            "request_id": delivery.data["request_id"],
            "attempts": delivery.attempts,
        }
        if answer.delivered:
            log.info("webhook_delivered", status=answer.status, **said)
        else:
            log.warning("webhook_failed", reason=answer.error, retry_in_seconds=round(retry_in, 1), **said)
        return Sent(delivery, answer, retry_in)

    async def _try(self, delivery: Delivery) -> Answer:
        url = None
        if delivery.object_path is not None:
            try:
                async with asyncio.timeout(self._timing.webhook_timeout):
                    url = await self._links.link(delivery.object_path)
            except (SupabaseUnavailable, TimeoutError):
                return Answer(error="the link to the result could not be signed", asked=False)
        return await post(self._client, delivery, url, self._now)

    async def _report(self, sent: list[Sent]) -> None:
        noted = await self._outbox.report(sent)
        if noted["given_up"]:
            self._metrics.webhook_deliveries.labels(outcome="given_up").inc(noted["given_up"])
            log.error(
                "webhooks_given_up", endpoint=sent[0].delivery.endpoint_id, deliveries=noted["given_up"]
            )
        for endpoint in noted["disabled"]:
            self._tidy_at = 0.0  # the metrics show it at the next look
            log.error(
                "webhook_endpoint_disabled", endpoint=endpoint["endpoint_id"], reason=endpoint["reason"]
            )


def post(client: WebhookClient, delivery: Delivery, url: str | None, now: Now) -> Awaitable[Answer]:
    """Sign a delivery and send it; `url`: the link to the result."""
    body = body_of(delivery.type, delivery.occurred_at, delivery.data, url)
    return client.post(delivery.url, body, signed_headers(delivery.id, now(), body, delivery.secrets))
