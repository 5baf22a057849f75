"""Redis clients, built in one place: time limits, names, TLS, and no command sent twice.

What redis-py 8.1 does unless told otherwise, and what is done here instead:

- A command is sent again up to 10 times when the connection breaks or times out while its answer is awaited
  (`Redis.__init__`, `retry`). The first one may have been executed: a repeated LPUSH pushes twice, a repeated
  BLMOVE moves a second element that nobody looks at. Here a command is sent once and the error is raised;
  the caller knows whether it may be repeated, and backs off on its own terms.
- `socket_timeout` is 5 s, so a blocking pop of 5 s or more raises instead of returning None and may lose the
  element. Here it is always `block_seconds` plus 5 s.
- Options in the URL's query win over arguments. Here the limits win, so that no URL can undo them.
- RESP3 with its HELLO handshake and maintenance notifications. Nothing here needs push messages, and RESP2
  works with every server and proxy.
"""

from __future__ import annotations

from typing import Any, Final

import redis
import redis.asyncio
from pydantic import SecretStr
from redis.asyncio.connection import parse_url as parse_url_async
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

ANSWER_SECONDS: Final = 5.0  # how long an answer may take beyond the time the command itself may block
CONNECT_SECONDS: Final = 5.0
MAX_CONNECTIONS: Final = 1024  # redis-py raises beyond 100, fewer than a generator has jobs
HEALTH_CHECK_SECONDS: Final = 15  # a connection idle for longer is tested with a PING before it is used


def connect(url: str | SecretStr, *, name: str, block_seconds: float = 0) -> redis.Redis:
    """A client for threads; opens no connection yet, later as many as are used at once.

    `url`: redis:// or rediss:// (certificate and host name are verified). `name` shows in CLIENT LIST; no
    spaces.
    `block_seconds`: the longest time any blocking command of this client asks for; 0 when it sends none.
    Commands raise redis.ConnectionError or redis.TimeoutError; whether they were executed is then unknown.
    """
    options: dict[str, Any] = {
        **parse_url(_plain(url)),  # type: ignore[no-untyped-call]
        **_limits(name, block_seconds),
        "retry": Retry(NoBackoff(), 0),
    }
    return redis.Redis.from_pool(redis.ConnectionPool(**options))


def connect_async(url: str | SecretStr, *, name: str, block_seconds: float = 0) -> redis.asyncio.Redis:
    """The same for one asyncio event loop; end it with `await client.aclose()`."""
    options: dict[str, Any] = {
        **parse_url_async(_plain(url)),
        **_limits(name, block_seconds),
        "retry": AsyncRetry(NoBackoff(), 0),
    }
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**options))


def _limits(name: str, block_seconds: float) -> dict[str, Any]:
    return {
        "client_name": name,
        "socket_timeout": block_seconds + ANSWER_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        "max_connections": MAX_CONNECTIONS,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "protocol": 2,
        "decode_responses": False,
    }


def _plain(url: str | SecretStr) -> str:
    return url.get_secret_value() if isinstance(url, SecretStr) else url
