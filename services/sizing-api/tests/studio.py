"""What the tests work with: rendered people, a web server for their pictures, the service on loopback."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from wearon_sizing.app import create_app
from wearon_sizing.settings import SizingSettings
from wearon_sizing.silhouette import (
    ELBOW_L,
    ELBOW_R,
    HIP_L,
    HIP_R,
    WRIST_L,
    WRIST_R,
    Person,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
MODEL = ROOT / ".local" / "models" / "pose_landmarker_full.task"


@dataclass(frozen=True)
class Sitter:
    """A rendered person, lengths in cm, weight in kg, measured on the mesh."""

    file: str
    female: bool
    height: float
    weight: float
    truth: dict[str, float]

    @property
    def jpeg(self) -> bytes:
        return (HERE / "fixtures" / self.file).read_bytes()

    @property
    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.jpeg)).convert("RGB")


def _sitter(file: str, sex: str, height: float, weight: float, *girths: float) -> Sitter:
    names = ("chest_cm", "waist_cm", "hip_cm", "shoulder_cm")
    return Sitter(file, sex == "F", height, weight, dict(zip(names, girths, strict=True)))


SITTERS = (
    _sitter("b001_typical.jpg", "F", 165.3, 46.9, 81.4, 63.2, 83.38, 38.3),
    _sitter("b050_cam.jpg", "F", 161.0, 61.7, 90.6, 83.0, 100.88, 36.3),
    _sitter("b150_typical.jpg", "M", 172.5, 66.0, 90.1, 77.7, 89.9, 37.8),
    _sitter("b250_cam.jpg", "M", 174.8, 90.6, 109.19, 100.4, 104.78, 42.5),
)


# One person at home, arms hanging, and the same in profile; another one in a skirt down to the ankles.
PAIR = _sitter("d004_front_tight_home.jpg", "F", 158.9, 68.6, 97.4, 91.4, 103.9, 37.4)
DRESS = _sitter("d016_front_loose.jpg", "F", 167.1, 80.1, 95.9, 95.4, 112.2, 36.4)
PAIR_SIDE = Image.open(HERE / "fixtures" / "d004_side_tight.jpg").convert("RGB")


def with_forearm_turned(picture: Image.Image, person: Person, side: int, degrees: float) -> Image.Image:
    """The forearm (0 the left one, 1 the right) cut out and turned inwards around its elbow, the background
    filled in where it hung. `person` was found in the picture at this size."""
    elbow, wrist = (person.points[pair[side]] for pair in ((ELBOW_L, ELBOW_R), (WRIST_L, WRIST_R)))
    seen = pixels(picture)
    rows, columns = seen.shape[:2]
    length = float(np.linalg.norm(wrist - elbow))
    down = (wrist - elbow) / length
    away = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) - elbow
    along, beside = away @ down, np.abs(away @ np.array([-down[1], down[0]]))
    # From the elbow to the finger tips, as wide as a third of the forearm to either side.
    reached = (along > -0.05 * length) & (along < 1.9 * length) & (beside < 0.32 * length)
    piece = (reached & (person.mask > 0.5)).astype(np.uint8)
    hole = cv2.dilate(piece * (along > 0.1 * length).astype(np.uint8), np.ones((7, 7), np.uint8))
    behind = cv2.inpaint(seen, hole, 5, cv2.INPAINT_TELEA)
    inwards = 1 if elbow[0] < person.points[[HIP_L, HIP_R], 0].mean() else -1
    turn = cv2.getRotationMatrix2D((float(elbow[0]), float(elbow[1])), inwards * degrees, 1.0)
    share = cv2.warpAffine(piece.astype(np.float32), turn, (columns, rows))[..., None]
    turned = cv2.warpAffine(seen, turn, (columns, rows))
    return Image.fromarray((behind * (1 - share) + turned * share).astype(np.uint8))


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture.convert("RGB"))


class ImageHost:
    """A web server on loopback. What is put in `files` is served; `gates` hold an answer back until set."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.gates: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if self.path in outer.gates:
                    outer.gates[self.path].wait(30)
                data = outer.files.get(self.path)
                self.send_response(200 if data else 404)
                self.send_header("Content-Type", "image/png" if self.path.endswith(".png") else "image/jpeg")
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_arguments: Any) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, *_arguments: Any) -> None:
                """A client that hangs up is what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, name: str, data: bytes) -> str:
        """Serve `data`; returns its URL."""
        self.files[f"/{name}"] = data
        return f"{self.origin}/{name}"

    def close(self) -> None:
        for gate in self.gates.values():
            gate.set()
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Service:
    """The service under test, listening on loopback."""

    url: str
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def estimate(self, image_url: str, height_cm: float = 170.0, **more: Any) -> httpx.Response:
        return self.client.post(
            "/estimate-body", json={"image_url": image_url, "height_cm": height_cm, **more}
        )

    def counter(self, name: str) -> float:
        """The value of one line of /metrics, 0 when it is not there."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0


@contextmanager
def serving(settings: SizingSettings) -> Iterator[Service]:
    """The whole service in a thread of this process, on a free port."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), 60)
    port = server.servers[0].sockets[0].getsockname()[1]
    service = Service(f"http://127.0.0.1:{port}")
    try:
        yield service
    finally:
        service.client.close()
        server.should_exit = True
        thread.join(20)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def body_of(response: httpx.Response) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(response.content)
    return document
