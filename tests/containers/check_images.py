"""What is in the images, and how large they are."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import IO, Final

import pytest
from tests.containers.engine import BASE_IMAGE, IMAGES, docker, inspect, present, run_detached

pytestmark = pytest.mark.timeout(900)

_MEGABYTE: Final = 1_000_000
_LIMITS: Final = {"consumer": 20, "generator": 90, "sizing-api": 360}
"""Megabytes on top of the base image: on the 290 MB base made of Debian's packages 380 and 650 in all."""

_SECRET_NAMES: Final = re.compile(
    r"(^|/)(\.env(\..*)?|\.[a-z]*_history|\.netrc|\.npmrc|\.pypirc|\.git|id_(rsa|ed25519|ecdsa)|credentials)$"
)
_SECRET_BYTES: Final = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{200}"
    rb"|\bsk-(proj-|svcacct-)?[A-Za-z0-9]{20,}|\bghp_[A-Za-z0-9]{30}"
    rb"|\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{20,}"
)
_TEST_CODE: Final = re.compile(
    r"^(app|opt/venv/lib/python3\.11/site-packages)/(.*/)?(tests|conftest\.py|test_[^/]*\.py)$"
)
_LARGEST_SEARCHED: Final = 2_000_000


def _size(image: str) -> int:
    return int(inspect(image)["Size"])


def _own_layers(image: str, directory: Path) -> list[tuple[str, int, bytes]]:
    """Every file of the layers the image adds to its base: name, size, and content if it is not huge."""
    base_layers = set(inspect(BASE_IMAGE)["RootFS"]["Layers"])
    saved = directory / "image.tar"
    docker("save", "--output", str(saved), image)
    found: list[tuple[str, int, bytes]] = []
    with tarfile.open(saved) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest is not None
        names = json.load(manifest)[0]["Layers"]
        for digest, name in zip(inspect(image)["RootFS"]["Layers"], names, strict=True):
            if digest not in base_layers:
                layer = outer.extractfile(name)
                assert layer is not None
                found += _files(layer)
    saved.unlink()
    return found


def _files(layer: IO[bytes]) -> list[tuple[str, int, bytes]]:
    found = []
    with tarfile.open(fileobj=layer, mode="r|") as inner:
        for member in inner:
            data = b""
            if member.isfile() and member.size <= _LARGEST_SEARCHED:
                content = inner.extractfile(member)
                data = content.read() if content is not None else b""
            found.append((member.name.removeprefix("./"), member.size, data))
    return found


def test_container_that_cannot_start_is_not_left_behind(engine: None) -> None:
    before = present()
    with pytest.raises(AssertionError, match="no-such-program"):
        run_detached("--volume", "/data", "--entrypoint", "/no-such-program", IMAGES["consumer"])
    assert present() == before


@pytest.mark.parametrize("service", _LIMITS)
def test_size_on_top_of_the_base(engine: None, service: str) -> None:
    """At most the limit, in megabytes of 1,000,000 bytes, uncompressed."""
    added = (_size(IMAGES[service]) - _size(BASE_IMAGE)) / _MEGABYTE
    assert added <= _LIMITS[service]


@pytest.mark.parametrize("service", IMAGES)
def test_layers_hold_no_secret_and_no_test(engine: None, service: str, tmp_path: Path) -> None:
    """Neither by their names nor in what they contain; the history of the image neither."""
    files = _own_layers(IMAGES[service], tmp_path)
    assert len(files) > 500, "the layers were not read"
    names = [name for name, _, _ in files]
    assert [name for name in names if _SECRET_NAMES.search(name)] == []
    assert [name for name in names if _TEST_CODE.search(name)] == []
    # A package's description may show an example of a token.
    searched = [(name, data) for name, _, data in files if not name.endswith(".dist-info/METADATA")]
    assert [(name, match[0]) for name, data in searched if (match := _SECRET_BYTES.search(data))] == []
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGES[service])
    assert not re.search(r"(?i)(password|secret|token|api_key)=\S", history)


@pytest.mark.parametrize("service", IMAGES)
def test_image_has_labels_health_check_user_and_init(engine: None, service: str) -> None:
    """OCI labels, a health check of /live, a numeric user, an init that hands on signals."""
    config = inspect(IMAGES[service])["Config"]
    prefix = "org.opencontainers.image."
    for label in ("title", "description", "licenses", "version", "revision", "source", "base.name"):
        assert config["Labels"].get(prefix + label), label
    assert "'/live'" in config["Healthcheck"]["Test"][-1]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/usr/bin/tini", "--"]
    assert config["StopSignal"] == "SIGTERM"


@pytest.mark.parametrize("service", ["consumer", "generator"])
def test_missing_settings_end_it_at_once(engine: None, service: str) -> None:
    """In one line, with exit code 2."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--read-only", IMAGES[service]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "REDIS_URL" in done.stderr


def test_wearonctl_is_in_the_generators_path(engine: None) -> None:
    """`docker exec <generator> wearonctl`: in PATH, by that name, for the user the container runs as."""
    told = docker("run", "--rm", "--read-only", IMAGES["generator"], "wearonctl", "--help")
    assert told.startswith("Usage: wearonctl ")
