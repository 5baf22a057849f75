"""Real landmarker, real renders, the real service on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wearon_sizing.measuring import Method, load_method
from wearon_sizing.pose import Landmarker
from wearon_sizing.settings import SizingSettings

from .studio import HERE, MODEL, SITTERS, ImageHost, Service, Sitter, serving


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The pose model, fetched the way everything else fetches it."""
    command = [sys.executable, str(HERE.parent / "fetch_model.py"), str(MODEL)]
    subprocess.run(command, check=True, capture_output=True)
    return MODEL


@pytest.fixture(scope="session")
def landmarker(model_path: Path) -> Iterator[Landmarker]:
    with Landmarker(model_path) as landmarker:
        yield landmarker


@pytest.fixture(scope="session")
def method() -> Method:
    return load_method()


@pytest.fixture(params=SITTERS, ids=lambda sitter: sitter.file.removesuffix(".jpg"))
def sitter(request: pytest.FixtureRequest) -> Sitter:
    sitter: Sitter = request.param
    return sitter


@pytest.fixture(scope="session")
def image_host() -> Iterator[ImageHost]:
    host = ImageHost()
    yield host
    host.close()


@pytest.fixture(scope="session")
def settings_for(model_path: Path, image_host: ImageHost) -> Callable[..., SizingSettings]:
    """Settings that trust the image host; more can be given by name."""

    def make(**more: Any) -> SizingSettings:
        base = {"mediapipe_model_path": model_path, "image_fetch_trusted_origins": image_host.origin}
        return SizingSettings(_env_file=None, **{**base, **more})

    return make


@pytest.fixture(scope="session")
def service(settings_for: Callable[..., SizingSettings]) -> Iterator[Service]:
    with serving(settings_for()) as service:
        yield service
