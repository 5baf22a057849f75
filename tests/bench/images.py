"""The resize step: time, memory and fidelity beside plain Pillow, pyvips and OpenCV on the same files."""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyvips
from PIL import Image
from tests.bench.pictures import large_photo, thin_lines
from tests.bench.report import Section, at_least, at_most, plain
from tests.bench.variants import plain_prepare

from wearon_service_kit.images.decode import prepare_jpeg

SIDE = 1024


def _shipped(data: bytes) -> bytes:
    return prepare_jpeg(data, max_side=SIDE).jpeg


def _pillow(data: bytes) -> bytes:
    return plain_prepare(data, max_side=SIDE).jpeg


def _vips(data: bytes) -> bytes:
    image = pyvips.Image.thumbnail_buffer(data, SIDE, height=SIDE, size="down")
    return bytes(image.jpegsave_buffer(Q=90, keep="none"))


def _opencv(data: bytes) -> bytes:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    scale = SIDE / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


METHODS: dict[str, Callable[[bytes], bytes]] = {
    "shipped": _shipped,
    "plain Pillow": _pillow,
    "pyvips": _vips,
    "OpenCV": _opencv,
}


def _time_all(files: list[bytes], rounds: int) -> dict[str, float]:
    """Median milliseconds per file; the methods take turns, so that noise meets them alike."""
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(rounds):
        for name, method in METHODS.items():
            for data in files:
                times[name].append(_timed(method, data))
    return {name: statistics.median(values) for name, values in times.items()}


def pyvips_ms(data: bytes, rounds: int = 9) -> float:
    """Median milliseconds that pyvips takes for the photo: how fast this machine is just now."""
    pyvips.cache_set_max(0)
    return statistics.median(_timed(_vips, data) for _ in range(rounds))


def _timed(method: Callable[[bytes], bytes], data: bytes) -> float:
    began = time.perf_counter()
    method(data)
    return (time.perf_counter() - began) * 1000


def _beside_python(data: bytes, rounds: int) -> float:
    """How many times longer a photo takes while another thread runs Python, as an event loop does."""
    alone = statistics.median(_timed(_shipped, data) for _ in range(rounds))
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    beside = statistics.median(_timed(_shipped, data) for _ in range(rounds))
    stop.set()
    thread.join()
    return beside / alone


def _peak_mb(name: str) -> float:
    """What one picture adds to the resident memory of a fresh process, at its height."""
    with tempfile.NamedTemporaryFile() as file:
        # Drawing it in the child would leave memory behind that the method then fills unseen.
        file.write(large_photo(1))
        file.flush()
        answer = subprocess.run(
            [sys.executable, "-m", "tests.bench.images", name, file.name],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent.parent,
        )
    return float(answer.stdout)


def _print_peak(name: str, file: Path) -> None:
    data = file.read_bytes()
    small = io.BytesIO()
    Image.new("RGB", (64, 64)).save(small, "JPEG")
    METHODS[name](small.getvalue())
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_kb("VmRSS")
    METHODS[name](data)
    print((_status_kb("VmHWM") - before) * 1024 / 1e6)


def _status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _psnr(ours: bytes, reference: bytes) -> float:
    one, other = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64)
        for data in (ours, reference)
    )
    return float(10 * np.log10(255**2 / np.mean((one - other) ** 2)))


def run(quick: bool) -> list[Section]:
    files = [large_photo(1), large_photo(2)]
    # All on one core: what one decoding thread of the generator has.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    pyvips.cache_set_max(0)
    cv2.setNumThreads(1)
    try:
        times = _time_all(files, 3 if quick else 15)
    finally:
        os.sched_setaffinity(0, cores)
    section = Section("Images: a 12-megapixel JPEG to 1024 px, decoded, resized, encoded, on one core")
    section.lines = [plain(f"{name}: median", value, "ms") for name, value in times.items()]
    section.lines.append(at_most("shipped ÷ pyvips", times["shipped"] / times["pyvips"], 1.3, "×"))
    section.lines.append(plain("shipped ÷ plain Pillow", times["shipped"] / times["plain Pillow"], "×"))
    beside = _beside_python(files[0], 3 if quick else 9)
    section.lines.append(at_most("shipped beside a busy Python thread ÷ alone", beside, 2.5, "×"))
    png = io.BytesIO()
    Image.open(io.BytesIO(files[0])).reduce(2).save(png, "PNG")
    beside = _beside_python(png.getvalue(), 3 if quick else 9)
    section.lines.append(at_most("… a PNG of 3 megapixels", beside, 3, "×"))
    section.lines += [plain(f"{name}: peak memory", _peak_mb(name), "MB") for name in METHODS]
    fidelity = min(_psnr(_shipped(data), _pillow(data)) for data in files)
    section.lines.append(at_least("shipped: PSNR against plain Pillow", fidelity, 40, "dB"))
    section.lines += [
        plain(f"… thin lines, {name}", _psnr(METHODS[name](thin_lines()), _pillow(thin_lines())), "dB")
        for name in ("shipped", "pyvips", "OpenCV")
    ]
    section.data = {"milliseconds": times}
    return [section]


if __name__ == "__main__":
    _print_peak(sys.argv[1], Path(sys.argv[2]))
