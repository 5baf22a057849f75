"""A Redis-compatible server for each test, and consumers on it that end with the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from wearon_contracts.queues import TASKS_AHEAD
from wearon_local.processes import Nursery, free_port
from wearon_local.redis_server import RedisServer

from .lab import NO_END, Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    nursery = Nursery()
    try:
        server = RedisServer(nursery, free_port())
        server.start()
        with redis.Redis.from_url(server.url) as client:
            client.set(TASKS_AHEAD, NO_END)
            yield Lab(nursery, server, client)
    finally:
        nursery.close()
