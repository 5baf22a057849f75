"""The same hostile URLs, answers and files that the pipeline refuses are refused here, with their code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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

from wearon_sizing.settings import SizingSettings

from .studio import Service, body_of, serving


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture(scope="module")
def trusting(settings_for: Callable[..., SizingSettings], hostile: HostileServer) -> Iterator[Service]:
    settings = settings_for(image_fetch_trusted_origins=hostile.origin, sizing_workers=1)
    with serving(settings) as service:
        yield service


PATHS = {"/estimate-body": b'"height_cm": 170', "/check-photo": b'"purpose": "try_on"'}


def ask(service: Service, url: str, path: str = "/estimate-body") -> tuple[int, str]:
    # Lone surrogates travel as escapes, as a browser would send them.
    content = b"{" + PATHS[path] + b', "image_url": ' + _as_json(url) + b"}"
    response = service.client.post(path, content=content, headers={"Content-Type": "application/json"})
    return response.status_code, body_of(response)["code"]


def _as_json(text: str) -> bytes:
    escaped = "".join(f"\\u{unit:04x}" for unit in _units(text))
    return f'"{escaped}"'.encode()


def _units(text: str) -> Iterator[int]:
    data = text.encode("utf-16-le", "surrogatepass")
    return (int.from_bytes(data[i : i + 2], "little") for i in range(0, len(data), 2))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", HOSTILE_URLS, ids=lambda case: case.name)
def test_urls_are_refused_without_a_connection(
    trusting: Service, hostile: HostileServer, case: HostileUrl, path: str
) -> None:
    before = len(hostile.requests)
    status, code = ask(trusting, case.url, path)
    # Too short, too long or not text: refused before anybody looks at it as a URL.
    assert (status, code) in ((400, case.code.value), (422, "request_invalid"))
    assert len(hostile.requests) == before


@pytest.mark.parametrize("case", HOSTILE_RESPONSES, ids=lambda case: case.name)
def test_hostile_answers_of_a_host_are_refused_by_code(
    trusting: Service, hostile: HostileServer, case: HostileResponse
) -> None:
    status, code = ask(trusting, hostile.url(case))
    assert (status, code) == (400, case.code.value)


@pytest.mark.parametrize("case", HOSTILE_IMAGES, ids=lambda case: case.name)
def test_hostile_pictures_are_refused_by_code(
    trusting: Service, hostile: HostileServer, case: HostileImage
) -> None:
    status, code = ask(trusting, hostile.url(case))
    assert (status, code) == (400, case.code.value)
