"""One call for many things, and what becomes of it when one of them spoils it for all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")


async def in_smaller_batches(
    items: list[T],
    work: Callable[[list[T]], Awaitable[None]],
    *,
    is_spoilt: Callable[[Exception], bool],
    alone: Callable[[T], Awaitable[None]],
) -> None:
    """Do `work` on all, in ever smaller batches where `is_spoilt` says of its error that an item spoils it.

    One that spoils it by itself goes to `alone`, called while its error is handled, and holds up no other.
    Raises every other error of `work`.
    """
    if not items:
        return
    try:
        await work(items)
        return
    except Exception as error:
        if not is_spoilt(error):
            raise
        if len(items) == 1:
            await alone(items[0])
            return
        log.info("batch_split", items=len(items), reason=type(error).__name__)
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        await in_smaller_batches(half, work, is_spoilt=is_spoilt, alone=alone)
