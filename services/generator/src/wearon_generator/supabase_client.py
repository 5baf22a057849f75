"""The Supabase clients of the process, and what counts as Supabase being unavailable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import httpcore
import httpx
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError
from supabase import AsyncClient, AsyncClientOptions

from wearon_service_kit.connection_errors import why_unreachable
from wearon_service_kit.environment import Proxies
from wearon_service_kit.tracing import NO_TRACER, Tracer

_PAUSED: Final = "540"  # the status with which Supabase answers for a project that is paused
_LONGEST_REASON: Final = 200  # characters; a proxy's page may be long

T = TypeVar("T")
P = ParamSpec("P")

QUERY_CANCELED: Final = "57014"
"""PostgreSQL's code for a statement that took longer than it may."""
_REFUSALS: Final = ("22", "23", "54", "P0", "XX", QUERY_CANCELED)
"""How PostgreSQL's codes begin that tell of the data: unfit, against a constraint, beyond a limit, refused by
a trigger of the application's, broken, too much."""
_STORAGE_REFUSALS: Final = ("400", "413", "422")


class SupabaseUnavailable(Exception):
    """Supabase did not do what it was asked for a reason that may pass; the change may have happened."""


class StatementTimeout(SupabaseUnavailable):
    """The database ended a statement that took too long, and nothing of it happened."""


class RetryPolicy(Protocol):
    """Makes calls of Supabase, repeated or not."""

    async def call(self, step: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """What `function` returns; raises `SupabaseUnavailable` once it is not worth trying any more."""
        ...


class Once:
    """Makes each call once."""

    async def call(self, step: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """What `function` returns or raises."""
        return await function(*arguments)


def connect_supabase(
    url: str,
    service_role_key: str,
    *,
    connections: int,
    proxies: Proxies,
    timeout: float = 15.0,
    tracer: Tracer = NO_TRACER,
) -> AsyncClient:
    """Build a client, `timeout` in seconds. HTTP/1.1: over HTTP/2 one GOAWAY fails every open request."""
    http = httpx.AsyncClient(
        timeout=httpx.Timeout(timeout, connect=min(5.0, timeout), pool=2 * timeout),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        http2=False,
        trust_env=False,
        proxy=proxies.between_us_and(url),
        verify=httpcore.default_ssl_context(),
    )
    if tracer.provider is not None:
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor  # noqa: PLC0415

        HTTPXClientInstrumentor.instrument_client(http, tracer_provider=tracer.provider)
    options = AsyncClientOptions(
        httpx_client=http, auto_refresh_token=False, persist_session=False, postgrest_client_retry=False
    )
    return AsyncClient(url, service_role_key, options)


async def ask(call: Callable[P, Awaitable[T]], *arguments: P.args, **options: P.kwargs) -> T:
    """Make one call of a client; whatever it raises, but for a cancellation, becomes `SupabaseUnavailable`.

    A client raises what it meets: errors of the network and of TLS, and errors of its own when the answer
    is not of the shape it expects. None of them says that the change was not made.
    """
    try:
        return await call(*arguments, **options)
    except APIError as error:
        kind = StatementTimeout if error.code == QUERY_CANCELED else SupabaseUnavailable
        said = _said(error.code, error.message)
        # Not the error itself: its details hold the whole row, prompt and links too, and a log shows causes.
        raise kind(f"database: {said}") from APIError({"code": error.code, "message": said})
    except StorageApiError as error:
        raise SupabaseUnavailable(f"storage: {_said(error.status, error.message)}") from error
    except Exception as error:
        raise SupabaseUnavailable(why_unreachable(error)) from error


def is_refusal(error: SupabaseUnavailable) -> bool:
    """Whether Supabase works and did not do this because of the data: a smaller request may succeed."""
    match error.__cause__:
        case APIError() as refused:
            return str(refused.code).startswith(_REFUSALS) and len(str(refused.code)) == len(QUERY_CANCELED)
        case StorageApiError() as refused:
            return str(refused.status) in _STORAGE_REFUSALS
        case cause:
            return isinstance(cause, RecursionError)  # of an answer that is nested too deep to be read


def _said(code: object, message: object) -> str:
    """What Supabase said, for an operator: a refused key and a paused project look alike by their codes."""
    if str(code) == _PAUSED:
        return f"the Supabase project is paused ({code})"
    text = " ".join(str(message or "no reason given").split())[:_LONGEST_REASON]
    return text if code in (None, "") else f"{text} ({code})"
