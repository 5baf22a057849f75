"""The one module that runs the network that tells arms, the rest of the body and clothes (`parts.onnx`)."""

from __future__ import annotations

from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

from wearon_sizing.torso import whole_parts


class PartsNet:
    """For one thread at a time; a fifth of what finding the person takes. tools/train_parts.py writes it."""

    def __init__(self) -> None:
        model = np.frombuffer(files("wearon_sizing").joinpath("parts.onnx").read_bytes(), np.uint8)
        self._net = cv2.dnn.readNetFromONNX(model)

    def parts(self, layers: NDArray[np.float32]) -> NDArray[np.float32]:
        """(PARTS, CROP, CROP) 0 to 1: how much of each pixel is arm, the rest of the body, and under clothes.
        `layers`: `torso.net_input`."""
        self._net.setInput(layers[None])
        return whole_parts(np.asarray(self._net.forward()[0], np.float32))
