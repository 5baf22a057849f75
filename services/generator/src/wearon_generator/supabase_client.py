"""The one Supabase client of the process, and what counts as Supabase being away."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import httpx
import structlog
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError
from supabase import AsyncClient, AsyncClientOptions

log = structlog.get_logger()
T = TypeVar("T")

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0


class SupabaseUnavailable(Exception):
    """Supabase did not do what it was asked for a reason that may pass; the change may have happened."""


def connect_supabase(url: str, service_role_key: str, *, connections: int) -> AsyncClient:
    """Build the client. HTTP/1.1: over HTTP/2 one GOAWAY fails every request in flight."""
    http = httpx.AsyncClient(
        timeout=httpx.Timeout(15.0, connect=5.0, pool=30.0),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        http2=False,
        trust_env=False,
    )
    options = AsyncClientOptions(
        httpx_client=http, auto_refresh_token=False, persist_session=False, postgrest_client_retry=False
    )
    return AsyncClient(url, service_role_key, options)


async def ask(call: Callable[[], Awaitable[T]]) -> T:
    """Make one call; every failure of Supabase or of the way there becomes `SupabaseUnavailable`.

    The ledger's functions answer with verdicts and raise nothing themselves, so an error is operational:
    it is said in the log, and the caller decides how long to keep trying.
    """
    try:
        return await call()
    except APIError as error:
        raise SupabaseUnavailable(f"database error {error.code}") from error
    except StorageApiError as error:
        raise SupabaseUnavailable(f"storage error {error.status} {error.code}") from error
    except httpx.HTTPError as error:
        raise SupabaseUnavailable(type(error).__name__) from error
    except ValueError as error:
        # 200 with something else than Supabase's answer: the page of a proxy, or a body that was cut off.
        raise SupabaseUnavailable("not an answer of Supabase's") from error


async def keep_asking(
    call: Callable[[], Awaitable[T]],
    *,
    what: str,
    until: float | None,
    worth_it: Callable[[], bool],
    on_failure: Callable[[], None],
) -> T:
    """Repeat `call` with growing, jittered pauses while it raises `SupabaseUnavailable`.

    `until`: monotonic time after which the last failure is raised; None: for as long as `worth_it()`.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return await ask(call)
        except SupabaseUnavailable as error:
            on_failure()
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
            out_of_time = until is not None and time.monotonic() + wait > until
            if out_of_time or not worth_it():
                raise
            log.warning("supabase_unavailable", step=what, reason=str(error), retry_in_seconds=round(wait, 2))
            await asyncio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)
