"""Every hostile URL, response and picture is refused with its own code, quickly and in little memory."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpcore
import pytest
from hostile import (
    HOSTILE_IMAGES,
    HOSTILE_RESPONSES,
    HOSTILE_URLS,
    HostileImage,
    HostileResponse,
    HostileServer,
    HostileUrl,
)

from wearon_service_kit.images.decode import open_rgb
from wearon_service_kit.images.fetch import ImageError, ImageFetcher, ImageRefused, ImageUnreachable

SECONDS = 2.0  # for what is refused as soon as it shows
DEADLINE = 0.5  # for what ends only by a time limit
MEGABYTES = 64  # the largest body is 10 MB, held twice for a moment
CONTEXT = ssl.create_default_context()  # shared: loading the authorities takes longer than a test
UNREACHABLE = ("image_unreachable", "image_timeout", "image_host_unknown")


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as playing:
        yield playing


class NoNetwork(httpcore.AsyncNetworkBackend):
    async def connect_tcp(
        self, host: str, port: int, *_: object, **__: object
    ) -> httpcore.AsyncNetworkStream:
        raise AssertionError(f"dialled {host}:{port}")


def outcome(url: str, origin: str | None) -> ImageError:
    async def download() -> bytes:
        if origin is None:
            images = ImageFetcher(network=NoNetwork(), ssl_context=CONTEXT)
        else:
            images = ImageFetcher(trusted_origins=[origin], total_timeout=DEADLINE, ssl_context=CONTEXT)
        return (await images.fetch(url)).data

    with pytest.raises(ImageError) as caught:
        open_rgb(asyncio.run(download()), max_side=1024)
    return caught.value


def test_there_are_enough_of_them_and_none_twice() -> None:
    cases = [*HOSTILE_URLS, *HOSTILE_RESPONSES, *HOSTILE_IMAGES]
    assert len(cases) >= 40
    for kind in (HOSTILE_URLS, HOSTILE_RESPONSES, HOSTILE_IMAGES):
        assert len({case.name for case in kind}) == len(kind)


@pytest.mark.parametrize("case", HOSTILE_URLS, ids=lambda case: case.name)
def test_hostile_urls_are_refused_by_code_and_in_time(case: HostileUrl) -> None:
    started = time.monotonic()
    error = outcome(case.url, None)
    assert error.code == case.code
    assert isinstance(error, ImageRefused)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("case", HOSTILE_RESPONSES, ids=lambda case: case.name)
def test_hostile_responses_are_refused_by_code_and_in_time(
    server: HostileServer, case: HostileResponse
) -> None:
    started = time.monotonic()
    error = outcome(server.url(case), server.origin)
    assert error.code == case.code
    assert isinstance(error, ImageUnreachable) == (case.code in UNREACHABLE)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("case", HOSTILE_IMAGES, ids=lambda case: case.name)
def test_hostile_images_are_refused_by_code_and_in_time(case: HostileImage) -> None:
    data = case.build()
    started = time.monotonic()
    with pytest.raises(ImageRefused) as caught:
        open_rgb(data, max_side=1024)
    assert caught.value.code == case.code
    assert time.monotonic() - started < SECONDS


_PROBE = """
import asyncio, json, sys
from wearon_service_kit.images.decode import open_rgb, prepare_jpeg
from wearon_service_kit.images.fetch import ImageError, ImageFetcher

def peak():
    # ru_maxrss starts with the peak of the process that started this one, VmHWM does not.
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

async def main(origin, urls):
    images = ImageFetcher(trusted_origins=[origin], total_timeout=0.5)
    prepare_jpeg((await images.fetch(origin + "/photo.jpg")).data)
    before, grown = peak(), {}
    for url in urls:
        try:
            open_rgb((await images.fetch(url)).data, max_side=1024)
        except ImageError:
            pass
        grown[url] = peak() - before
    print(json.dumps(grown))

asyncio.run(main(sys.argv[1], json.load(sys.stdin)))
"""


@pytest.mark.slow
def test_all_of_them_together_take_little_memory(server: HostileServer, tmp_path: Path) -> None:
    """In a process of its own, so that neither the server's nor other tests' memory counts."""
    urls = [*map(server.url, HOSTILE_RESPONSES), *map(server.url, HOSTILE_IMAGES)]
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, server.origin],
        input=json.dumps(urls),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown: dict[str, float] = json.loads(done.stdout)
    assert len(grown) == len(urls)
    print(f"memory grew by {max(grown.values()):.0f} MB over {len(urls)} hostile answers")
    assert max(grown.values()) < MEGABYTES, max(grown.items(), key=lambda item: item[1])
