"""What each service costs before it has done anything: seconds to ready, memory at rest, what it imports."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.processes import rss_mb
from tests.bench.report import Line, Section, at_most, plain
from tests.containers.engine import IMAGES, inspect

from wearon_local.stack import ServiceName, Stack

TOP = Path(__file__).parent.parent.parent
# Seconds to ready and MB at rest that the issue asks for.
LIMITS: dict[ServiceName, tuple[float, float]] = {
    "consumer": (1, 55),
    "generator": (3, 120),
    "sizing-api": (3, 450),
}
MODULES: dict[ServiceName, str] = {
    "consumer": "wearon_consumer",
    "generator": "wearon_generator",
    "sizing-api": "wearon_sizing",
}
# Libraries that only the service named first needs.
OTHERS: dict[ServiceName, list[str]] = {
    "consumer": ["celery", "openai", "supabase", "PIL", "mediapipe", "fastapi", "numpy", "httpx"],
    "generator": ["mediapipe", "cv2", "fastapi", "uvicorn", "matplotlib"],
    "sizing-api": ["celery", "kombu", "openai", "supabase"],
}


def run(quick: bool) -> list[Section]:
    section = Section("Start and weight")
    with Stack() as stack:
        for service, (seconds, megabytes) in LIMITS.items():
            starts, sizes = [], []
            for _ in range(1 if quick else 3):
                began = time.monotonic()
                started = stack.start_service(service)
                starts.append(time.monotonic() - began)
                time.sleep(2)
                sizes.append(rss_mb(started.process.pid))
                started.terminate()
            note = f"median of {len(starts)}"
            section.lines += [
                at_most(f"{service}: ready after", statistics.median(starts), seconds, "s", note),
                at_most(f"{service}: RSS at rest", statistics.median(sizes), megabytes, "MB", note),
                plain(f"{service}: installed packages", _locked(service), ""),
                at_most(f"{service}: imports of others' libraries", _foreign(service), 0, ""),
                *_image(service),
            ]
    return [section]


def _image(service: ServiceName) -> list[Line]:
    """The image's size, base image included; nothing where `make images` did not run."""
    try:
        size = int(inspect(IMAGES[service])["Size"])
    except (AssertionError, OSError):
        print(f"no image of {service} here, so no size of it: see make images", file=sys.stderr)
        return []
    return [plain(f"{service}: image", size / 1e6, "MB", "base image included")]


def _locked(service: ServiceName) -> int:
    lock = (TOP / "services" / service / "requirements.lock").read_text()
    return len(re.findall(r"^[a-z0-9][^\s=]*==", lock, re.MULTILINE))


def _foreign(service: ServiceName) -> int:
    program = f"import sys, {MODULES[service]}.__main__; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in answer.stdout.split()}
    return len(loaded & set(OTHERS[service]))
