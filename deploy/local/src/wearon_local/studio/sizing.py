"""Sizing for the studio page: the answer comes from the sizing API, the drawing from the code behind it."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any, Final, Protocol, cast

import httpx
from PIL import Image

_TIMEOUT: Final = 10.0
_TO_PIXEL: Final = 0.5


class OverlayRenderer(Protocol):
    """Finds what to draw on a photo: outline, skeleton and measured lines, in the photo's own proportions."""

    def draw(self, data: bytes, height_cm: float | None) -> dict[str, Any] | None:
        """None if there is no picture or nobody in it; without a height no measured lines."""

    def close(self) -> None:
        """Give the model's memory back."""


class SizingOverlayRenderer:
    """Uses wearon_sizing, which is loaded at the first drawing: that takes a second or two."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._landmarker: Any = None

    def draw(self, data: bytes, height_cm: float | None) -> dict[str, Any] | None:
        # Imported here, because the sizing method is heavy and in no other part of the local stack.
        import cv2  # noqa: PLC0415
        import numpy as np  # noqa: PLC0415

        from wearon_service_kit.images.errors import ImageRefused  # noqa: PLC0415
        from wearon_sizing.explain import BONES  # noqa: PLC0415
        from wearon_sizing.pose import Landmarker  # noqa: PLC0415
        from wearon_sizing.sizing import open_photo  # noqa: PLC0415

        try:
            picture = open_photo(data)
        except ImageRefused:
            return None
        with self._lock:
            if self._landmarker is None:
                self._landmarker = Landmarker(self._model)
            people = self._landmarker.detect(picture)
            if not people:
                return None
            person = people[0]
            if height_cm is not None:
                person = self._landmarker.with_parts(picture, person)
        points = person.points + _TO_PIXEL
        edges, _ = cv2.findContours(
            (person.mask > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1
        )
        lines = [] if height_cm is None else _lines(person, height_cm)
        return {
            "width": picture.shape[1],
            "height": picture.shape[0],
            "outline": [[_rounded(point[0]) for point in edge] for edge in edges],
            "bones": [[_rounded(points[a]), _rounded(points[b])] for a, b in BONES],
            "joints": [_rounded(points[joint]) for joint in sorted({j for bone in BONES for j in bone})],
            "lines": lines,
        }

    def close(self) -> None:
        with self._lock:
            if self._landmarker is not None:
                self._landmarker.close()
                self._landmarker = None


class SizingUnavailableError(Exception):
    """There is no answer of the sizing API; the text says so to the person in front of the page."""


class SizingService:
    """Sizes and checks one photo after the other through the sizing API."""

    def __init__(self, sizing_url: str | None, renderer: OverlayRenderer | None) -> None:
        """`sizing_url`: None where no sizing API runs. `renderer`: None where nothing can be drawn."""
        self._client = httpx.Client(base_url=sizing_url or "", timeout=_TIMEOUT, trust_env=False)
        self._known = sizing_url is not None
        self._renderer = renderer

    def size(self, data: bytes, image_url: str, shopper: dict[str, Any]) -> dict[str, Any]:
        """`outcome` sized (with the API's `answer`) or refused (with its `sentence` and `code`); `drawing`.

        `shopper`: the fields of `EstimateBodyRequest` beside the address.
        """
        try:
            response, answer = self._ask("/estimate-body", {"image_url": image_url, **shopper})
        except SizingUnavailableError as error:
            return _refused(str(error), None)
        result = (
            {"outcome": "sized", "answer": answer}
            if response.is_success
            else {
                **_refused(answer.get("detail", "The sizing API refused."), answer.get("code")),
                "fallback": answer.get("fallback"),
            }
        )
        height_cm = shopper["height_cm"] if response.is_success else None
        drawing = self._renderer.draw(data, height_cm) if self._renderer else None
        milliseconds = round(response.elapsed.total_seconds() * 1000)
        return {**result, "drawing": drawing, "milliseconds": milliseconds, "status": response.status_code}

    def check(self, image_url: str) -> dict[str, Any]:
        """Whether a photo will do for a try-on: `usable`, true where nobody can tell, and a `sentence`."""
        try:
            response, answer = self._ask("/check-photo", {"image_url": image_url, "purpose": "try_on"})
        except SizingUnavailableError as error:
            return {"usable": True, "sentence": str(error)}
        if response.is_success:
            return {"usable": answer["usable"], "sentence": answer["sentence"]}
        return {
            "usable": response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR,
            "sentence": answer.get("detail", "The sizing API refused."),
        }

    def _ask(self, path: str, body: dict[str, Any]) -> tuple[httpx.Response, dict[str, Any]]:
        """The answer and its JSON. Raises SizingUnavailableError."""
        if not self._known:
            raise SizingUnavailableError("No sizing API runs in this stack.")
        try:
            response = self._client.post(path, json=body)
            return response, cast(dict[str, Any], response.json())
        except (httpx.HTTPError, ValueError) as error:
            raise SizingUnavailableError("The sizing API does not answer.") from error

    def close(self) -> None:
        self._client.close()
        if self._renderer is not None:
            self._renderer.close()


def without_feet(photo: bytes) -> bytes:
    """The photo cut off above the ankles: one that is refused."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as image:
        image.crop((0, 0, image.width, round(image.height * 0.72))).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _refused(sentence: str, code: str | None) -> dict[str, Any]:
    return {"outcome": "refused", "sentence": sentence, "code": code}


def _lines(person: Any, height_cm: float) -> list[dict[str, Any]]:
    """Where the widths of the torso lie, as `explain` draws them."""
    from wearon_sizing.explain import width_lines  # noqa: PLC0415
    from wearon_sizing.inputs import read_photo  # noqa: PLC0415

    return [
        {"name": name, "ends": [_rounded(end) for end in ends], "width_cm": round(width, 1)}
        for name, ends, width in width_lines(person, read_photo(person, height_cm))
    ]


def _rounded(point: Any) -> list[float]:
    return [round(float(point[0]), 1), round(float(point[1]), 1)]
