"""The one module that talks to MediaPipe: pictures in, detected people out, and on request their parts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from wearon_sizing.parts_net import PartsNet
from wearon_sizing.silhouette import Person, lay_frame
from wearon_sizing.torso import crop_matrix, net_input

# One more than is wanted: a second one is what the gate for several people looks for.
MAX_PEOPLE = 2


_stderr = threading.Lock()


@contextmanager
def _native_log_silenced() -> Iterator[None]:
    """Nothing written to file descriptor 2 meanwhile.

    MediaPipe's library logs details of its set-up there, for each landmarker and once more with the first
    person it sees, and neither a variable nor an option of 1.2 turns that off.
    """
    with _stderr, Path(os.devnull).open("wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class ModelMissingError(Exception):
    """The landmarker's model file is not there or cannot be loaded."""


class Landmarker:
    """A pose landmarker with masks, for one thread at a time; most of what an answer takes.

    Raises ModelMissingError when `model_path` holds no model.
    """

    def __init__(self, model_path: Path) -> None:
        if not model_path.is_file():
            raise ModelMissingError(f"no pose model at {model_path}")
        # Imported here because that alone takes a second, which `--help` need not wait for.
        import mediapipe  # noqa: PLC0415
        from mediapipe.tasks.python import vision  # noqa: PLC0415
        from mediapipe.tasks.python.core.base_options import BaseOptions  # noqa: PLC0415

        self._image = mediapipe.Image
        self._rgb = mediapipe.ImageFormat.SRGB
        options = vision.PoseLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model_path), delegate=BaseOptions.Delegate.CPU),
            num_poses=MAX_PEOPLE,
            output_segmentation_masks=True,
        )
        self._seen_one = False
        self._net = PartsNet()
        try:
            with _native_log_silenced():
                self._landmarker = vision.PoseLandmarker.create_from_options(options)
        except (ValueError, RuntimeError) as error:
            raise ModelMissingError(f"{model_path} is not a pose model: {error}") from error

    def detect(self, picture: NDArray[np.uint8]) -> list[Person]:
        """Everybody in `picture` (rows, columns, RGB), at most MAX_PEOPLE."""
        rows, columns = picture.shape[:2]
        image = self._image(image_format=self._rgb, data=np.ascontiguousarray(picture))
        with nullcontext() if self._seen_one else _native_log_silenced():
            found = self._landmarker.detect(image)
        self._seen_one = self._seen_one or bool(found.pose_landmarks)
        masks = found.segmentation_masks or []
        return [
            _person(landmarks, world, mask.numpy_view().reshape(rows, columns), rows, columns)
            for landmarks, world, mask in zip(
                found.pose_landmarks, found.pose_world_landmarks, masks, strict=True
            )
        ]

    def with_parts(self, picture: NDArray[np.uint8], person: Person) -> Person:
        """The person, and which pixels around the torso are arm, and which are clothes."""
        # The crop is as tall as the body whatever its height in cm.
        matrix = crop_matrix(person, lay_frame(person, 100.0))
        return replace(person, parts=self._net.parts(net_input(picture, person, matrix)))

    def close(self) -> None:
        self._landmarker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _person(
    landmarks: list[Any], world: list[Any], mask: NDArray[np.float32], rows: int, columns: int
) -> Person:
    x, y, visibility = np.array([(p.x, p.y, p.visibility) for p in landmarks]).T
    return Person(
        # Landmarks count from the corner of the picture, mask values lie at the centres of pixels.
        points=np.stack([x * columns - 0.5, y * rows - 0.5], axis=1),
        visibility=visibility,
        world=np.array([(p.x, p.y, p.z) for p in world]),
        mask=main_body(np.array(mask, dtype=np.float32)),
    )


def main_body(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mask without the islands that are not joined to its largest part."""
    # Labels alone: counting their pixels along the way takes three times as long, and one part is usual.
    count, labels = cv2.connectedComponents((mask > 0.5).view(np.uint8), ltype=cv2.CV_16U)
    if count <= 2:
        return mask
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    # A rim of two pixels keeps the soft edge.
    keep = cv2.dilate((labels == largest).astype(np.uint8), np.ones((5, 5), np.uint8))
    body: NDArray[np.float32] = mask * keep
    return body
