"""A real Redis-compatible server, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wearon_local.processes import Nursery, free_port
from wearon_local.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    nursery = Nursery()
    try:
        server = RedisServer(nursery, free_port())
        server.start()
        yield server
    finally:
        nursery.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url
