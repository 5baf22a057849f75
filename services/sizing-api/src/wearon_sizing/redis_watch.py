"""Keeps an eye on Redis, so that /health can say at once whether it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from pydantic import SecretStr
from redis.exceptions import RedisError

from wearon_service_kit.background import Background
from wearon_service_kit.redis_clients import connect_async

CHECK_EVERY_SECONDS: Final = 2.0  # /health may be that old
ANSWER_WITHIN_SECONDS: Final = 0.5  # later counts as unavailable


class RedisWatch:
    """`connected` is at most about CHECK_EVERY_SECONDS old; without a URL it is never true."""

    def __init__(self, url: SecretStr | None) -> None:
        self._url = url
        self.connected = False

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Check now, then again and again while the context lasts."""
        if self._url is None:
            yield
            return
        client = connect_async(self._url, name="wearon-sizing")

        async def check() -> None:
            try:
                async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
                    self.connected = bool(await client.ping())
            except (RedisError, OSError, TimeoutError):
                self.connected = False

        async def keep_checking() -> None:
            try:
                while True:
                    await asyncio.sleep(CHECK_EVERY_SECONDS)
                    await check()
            finally:
                self.connected = False

        await check()
        background = Background("redis-watch")
        background.start(keep_checking())
        try:
            yield
        finally:
            await background.stop()
            await client.aclose()
