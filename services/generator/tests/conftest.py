"""A real Redis-compatible server, emptied before each test."""

from __future__ import annotations

import pytest

from wearon_local.redis_server import RedisServer


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url
