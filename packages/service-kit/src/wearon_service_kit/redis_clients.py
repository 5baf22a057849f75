"""Redis clients, built in one place: time limits, names, TLS, and no command sent twice.

What redis-py 8.1 does unless told otherwise, and what is done here instead:

- A command is sent again up to 10 times when the connection breaks or times out while its answer is awaited
  (`Redis.__init__`, `retry`). The first one may have been executed: a repeated LPUSH pushes twice, a repeated
  BLMOVE moves a second element that nobody looks at. Here a command is sent once and the error is raised;
  the caller knows whether it may be repeated, and backs off on its own terms.
- A connection that died without a word (a NAT or load balancer forgot it) is noticed by TCP's keepalive after
  two hours. Here after 14 s, so that a blocking pop may be long.
- Options in the URL's query win over arguments. Here `redis_address` says which are used; the limits are not
  among them, so that no URL can undo them.
- A server that refuses CLIENT SETNAME (some proxies do) gets no connection. Here it gets one without a name.
- RESP3 with its HELLO handshake and maintenance notifications. Nothing here needs push messages, and RESP2
  works with every server and proxy.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import Any, Final

import redis
import redis.asyncio
import structlog
from pydantic import SecretStr
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel as SyncSentinel

from wearon_service_kit.redis_address import RedisAddress, parse_redis_url

_log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 5.0  # how long an answer may take; who sends a blocking command waits for it himself
CONNECT_SECONDS: Final = 5.0
SENTINEL_CONNECT_SECONDS: Final = 1.0  # Sentinels are asked one after the other, and one may be down
MAX_CONNECTIONS: Final = 1024  # redis-py raises beyond 100, fewer than a generator has jobs
HEALTH_CHECK_SECONDS: Final = 60  # a connection idle for longer is tested with a PING before it is used
KEEPALIVE: Final = {
    getattr(socket, option): value
    for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3))
    if hasattr(socket, option)
}
"""Socket options: after 5 s of silence the kernel asks the other side, after three times 3 s it gives up."""


def connect(url: str | SecretStr, *, name: str, answer_seconds: float = ANSWER_SECONDS) -> redis.Redis:
    """A client for threads; opens no connection yet, later as many as are used at once.

    `url`: what `parse_redis_url` reads; behind Sentinel each new connection asks for the primary.
    `name` shows in CLIENT LIST where the server allows that; no spaces. `answer_seconds`: how long an
    answer may take.
    Commands raise redis.ConnectionError or redis.TimeoutError; whether they were executed is then unknown.
    """
    address = parse_redis_url(_plain(url))
    _warn_of_ignored(address.ignored)

    def say_name(connection: Any) -> None:
        connection.on_connect()
        try:
            connection.send_command("CLIENT", "SETNAME", name)
            connection.read_response()
        except redis.ResponseError:
            _say_nameless(name)

    options: dict[str, Any] = {
        **address.connection_options(),
        **_limits(answer_seconds),
        "retry": Retry(NoBackoff(), 0),
        "redis_connect_func": say_name,
    }
    if address.master_name is not None:
        sentinel = SyncSentinel(address.nodes, sentinel_kwargs=_to_sentinels(address), **options)  # type: ignore[no-untyped-call]
        client: redis.Redis = sentinel.master_for(address.master_name, ssl=address.tls is not None)  # type: ignore[no-untyped-call]
        return client
    host, port = address.nodes[0]
    if address.tls is not None:
        options["connection_class"] = redis.SSLConnection
    return redis.Redis.from_pool(redis.ConnectionPool(host=host, port=port, **options))


def connect_async(url: str | SecretStr, *, name: str) -> redis.asyncio.Redis:
    """The same for one asyncio event loop; end it with `await client.aclose()`."""
    address = parse_redis_url(_plain(url))
    _warn_of_ignored(address.ignored)

    async def say_name(connection: Any) -> None:
        await connection.on_connect()
        try:
            await connection.send_command("CLIENT", "SETNAME", name)
            await connection.read_response()
        except redis.ResponseError:
            _say_nameless(name)

    options: dict[str, Any] = {
        **address.connection_options(),
        **_limits(),
        "retry": AsyncRetry(NoBackoff(), 0),
        "redis_connect_func": say_name,
    }
    if address.master_name is not None:
        sentinel = AsyncSentinel(address.nodes, sentinel_kwargs=_to_sentinels(address), **options)  # type: ignore[no-untyped-call]
        client: redis.asyncio.Redis = sentinel.master_for(address.master_name, ssl=address.tls is not None)
        return client
    host, port = address.nodes[0]
    if address.tls is not None:
        options["connection_class"] = redis.asyncio.SSLConnection
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(host=host, port=port, **options))


def _limits(answer_seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
    return {
        "socket_timeout": answer_seconds,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        "socket_keepalive_options": KEEPALIVE,
        "max_connections": MAX_CONNECTIONS,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "protocol": 2,
        "decode_responses": False,
    }


def _plain(url: str | SecretStr) -> str:
    return url.get_secret_value() if isinstance(url, SecretStr) else url


def _to_sentinels(address: RedisAddress) -> dict[str, Any]:
    return {
        **address.sentinel_options(),
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": SENTINEL_CONNECT_SECONDS,
        "protocol": 2,
    }


@lru_cache
def _warn_of_ignored(options: tuple[str, ...]) -> None:
    if options:
        _log.warning("redis_url_options_ignored", options=list(options))


@lru_cache
def _say_nameless(name: str) -> None:
    _log.info("redis_connection_without_name", name=name)
