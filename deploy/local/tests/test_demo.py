"""`python -m wearon_local demo` shows the main job and says the truth about it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON
from wearon_local.processes import free_port, listens, wait_until

pytestmark = pytest.mark.slow  # runs the whole demo


def demo(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wearon_local", "demo", "--output", str(output), "--latency", "0.2"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)


def table(printed: str) -> dict[str, list[str]]:
    rows = [line.split() for line in printed.split("-----\n", 1)[-1].splitlines()]
    return {row[0]: row for row in rows if "->" in row}


def test_the_demo_leaves_pictures_and_a_balance_that_adds_up(tmp_path: Path) -> None:
    shown = demo(tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    rows = table(shown.stdout)
    assert {name: row[2] for name, row in rows.items()} == {
        "b2c": "completed",
        "b2b": "completed",
        "blocked": "failed",
        "invalid": "failed",
    }
    assert [rows[name][-5] for name in ("b2c", "b2b", "blocked", "invalid")] == [
        "spent",
        "spent",
        "refunded",
        "refunded",
    ]
    assert {"10 -> 9"} == {" ".join(row[-3:]) for row in rows.values()}
    assert "b2c      completed" in shown.stdout
    told = (
        "webhooks received and verified: 2 generation.completed, 2 generation.failed, 3 generation.processing"
    )
    assert told in shown.stdout
    assert re.search(r"lanes: a user's try-on, pushed behind 90 .* is completed while \d+", shown.stdout)
    assert "cancelled: the user's second try-on (cancelled)" in shown.stdout
    for result in ("b2c-result.jpg", "b2b-result.jpg"):
        [picture] = tmp_path.glob(f"*/{result}")
        with Image.open(picture) as image:
            assert (image.format, image.size) == ("JPEG", (1024, 1536))
        assert picture.read_bytes() not in {SAMPLE_PERSON.read_bytes(), SAMPLE_GARMENT.read_bytes()}
    assert re.search(r"the sample person, 161\.3 cm tall, wears (XS|S|M|L|XL|XXL);", shown.stdout)
    [explained] = tmp_path.glob("*/sizing-explained.png")
    with Image.open(explained) as image:
        assert image.format == "PNG" and min(image.size) >= 800


def test_the_demo_fails_when_a_picture_cannot_be_made(tmp_path: Path) -> None:
    shown = demo(tmp_path, "--mode", "bad_base64")
    assert shown.returncode == 1, shown.stdout + shown.stderr
    assert "WRONG: b2c is failed, not completed" in shown.stdout
    assert "WRONG: credits: 10 - 1 completed is not 10" in shown.stdout


def test_up_serves_on_the_given_port_until_ctrl_c(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "wearon_local", "up", "--sizing-apis", "0", "--gateway-port", str(port)]
    printed = tmp_path / "printed"
    with printed.open("w") as out:
        up = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: "Ctrl-C" in printed.read_text(), timeout=60, what="everything runs")
        assert f"export SUPABASE_URL=http://127.0.0.1:{port}\n" in printed.read_text()
        assert listens(port)
        [studio] = re.findall(r"^studio page +(\S+)$", printed.read_text(), re.MULTILINE)
        assert "development tool" in httpx.get(studio, trust_env=False).text
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0
    finally:
        up.kill()
    assert not listens(port)


def test_help_names_the_commands() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "wearon_local", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("up", "demo", "download"):
        assert command in shown.stdout
