from __future__ import annotations

import asyncio

from wearon_generator.smaller_batches import in_smaller_batches


def test_without_items_nothing_is_done() -> None:
    async def fail(items: list[str]) -> None:
        raise TimeoutError

    async def alone(item: str) -> None:
        raise AssertionError(item)

    asyncio.run(in_smaller_batches([], fail, is_spoilt=lambda _: True, alone=alone))
