"""Whether a Redis server can do what the services ask of it: looked at once, when a process starts."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

import redis

from wearon_service_kit.redis_address import NO_CLUSTER

OLDEST: Final = (6, 2)  # the first with BLMOVE, which takes a task without losing it


def why_unsuitable(client: redis.Redis) -> str | None:
    """One sentence for the operator; None if it is suitable, or if INFO is forbidden.

    Raises redis.ConnectionError or redis.TimeoutError while it cannot be reached.
    """
    try:
        told: dict[str, Any] = {**client.info("server"), **client.info("cluster")}
    except redis.ResponseError:
        return None
    if told.get("cluster_enabled") == 1:
        return f"REDIS_URL leads to a Redis Cluster, {NO_CLUSTER}"
    version = str(told.get("redis_version", ""))
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"REDIS_URL leads to Redis {version}; {oldest} or newer is needed"
    return None


def refuse_unsuitable(client: redis.Redis) -> None:
    """End the process with one line and exit code 2 if the server is unsuitable.

    A server that cannot be reached just now is let pass: services start before what they need.
    """
    try:
        reason = why_unsuitable(client)
    except (redis.ConnectionError, redis.TimeoutError):
        return
    if reason is not None:
        print(f"Configuration error: {reason}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


def takes_client_names(client: redis.Redis) -> bool:
    """Whether CLIENT SETNAME is allowed; true also while the server cannot be reached."""
    try:
        client.execute_command("CLIENT", "SETNAME", "wearon-start")  # type: ignore[no-untyped-call]
    except redis.ResponseError:
        return False
    except (redis.ConnectionError, redis.TimeoutError):
        return True
    return True
