"""Memory is shared out and never given twice; a heavy picture ends at most its own process."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest
from hostile import HOSTILE_IMAGES, photo
from hostile.images import png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.child import prepare_in_child
from wearon_service_kit.images.decode import ImageRefused, memory_needed, prepare_jpeg
from wearon_service_kit.memory import LEAST_BYTES, MB, PROCESS_BYTES, ByteBudget, MemoryBudget, memory_limit

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
V2, V1 = "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({V2: "1073741824\n"}, 1024 * MB),
        ({V2: "max\n"}, MACHINE),
        ({V1: "1073741824\n"}, 1024 * MB),
        ({V1: "9223372036854771712\n"}, MACHINE),
        ({V2: "max\n", V1: "536870912"}, 512 * MB),
        ({V2: str(10**15)}, MACHINE),
        ({}, MACHINE),
    ],
)
def test_limit_is_read_from_the_container(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path) == expected


@pytest.mark.parametrize("limit", [1, LEAST_BYTES, 1024 * MB, 16 * 1024 * MB])
def test_shares_leave_an_eighth_and_the_process_itself_within_the_limit(limit: int) -> None:
    budget = MemoryBudget.of(limit)
    free = max(limit, LEAST_BYTES) - PROCESS_BYTES
    downloads = budget.downloads, budget.downloads_of_strangers
    shares = [share.limit for share in (*downloads, budget.decodes)]
    assert free * 7 // 8 - 3 <= sum(shares) <= free * 7 // 8
    assert all(share.limit >= 10 * MB for share in downloads), "the largest download fits"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 3), st.booleans()), max_size=30))
def test_never_more_is_held_than_there_is_and_everybody_gets_their_turn(
    holders: list[tuple[int, int, bool]],
) -> None:
    """Each holder asks for a size, keeps it for some turns of the loop, and may be cancelled meanwhile."""

    async def scenario() -> None:
        budget = ByteBudget(100)
        order: list[int] = []

        async def hold(number: int, size: int, turns: int) -> None:
            async with budget.hold(size):
                order.append(number)
                for _ in range(turns + 1):
                    assert 0 <= budget.held <= 100
                    await asyncio.sleep(0)

        tasks = [
            asyncio.create_task(hold(number, size, turns)) for number, (size, turns, _) in enumerate(holders)
        ]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, holders, strict=True):
            if cancelled:
                task.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert order == sorted(order), "in the order they asked"
        assert budget.held == 0
        async with budget.hold(100):
            pass

    asyncio.run(scenario())


def encoded(format_: str, size: tuple[int, int], **options: object) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", size, "white").save(output, format_, **options)
    return output.getvalue()


@pytest.mark.parametrize(
    ("data", "bytes_a_pixel"),
    [
        (encoded("JPEG", (2000, 1000)), 1),
        (encoded("JPEG", (2000, 1000), progressive=True), 6),
        (encoded("PNG", (2000, 1000)), 6),
        (encoded("WEBP", (2000, 1000)), 13),
        (encoded("AVIF", (2000, 1000), speed=10), 17),
    ],
)
def test_needed_memory_is_told_from_the_header(data: bytes, bytes_a_pixel: int) -> None:
    beside = memory_needed(data) - 2_000_000 * bytes_a_pixel
    assert beside == 48 * MB + 2 * len(data)


@pytest.mark.parametrize("case", HOSTILE_IMAGES, ids=lambda case: case.name)
def test_needed_memory_of_hostile_pictures_is_bounded(case: object) -> None:
    data = case.build()  # type: ignore[attr-defined]
    assert 0 <= memory_needed(data) < 1024 * MB


def test_child_makes_the_same_picture() -> None:
    data = photo("WEBP", (640, 480))
    assert prepare_in_child(data, max_side=256, memory=200 * MB) == prepare_jpeg(data, max_side=256).jpeg


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (photo()[:5000], ErrorCode.IMAGE_DAMAGED),
        (b"<html>", ErrorCode.IMAGE_WEB_PAGE),
        (b"", ErrorCode.IMAGE_EMPTY),
        (png(9000, 9000), ErrorCode.IMAGE_TOO_MANY_PIXELS),
    ],
)
def test_child_refuses_for_the_same_reasons(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(ImageRefused) as caught:
        prepare_in_child(data, max_side=256, memory=200 * MB)
    assert caught.value.code == code


def test_picture_that_takes_more_memory_than_it_may_ends_only_the_child() -> None:
    """RLIMIT_AS stands for the container's limit: 36 megapixels of PNG take 144 MB at least."""
    rows = (b"\0" + bytes(6000 * 4)) * 6000
    data = png(6000, 6000, colour=6, pixels=rows)
    with pytest.raises(ImageRefused) as caught:
        prepare_in_child(data, max_side=256, memory=-300 * MB)
    assert caught.value.code == ErrorCode.IMAGE_TOO_HEAVY
