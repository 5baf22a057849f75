"""Pictures of the size phones and the provider make, drawn anew each time so that none has to be kept."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageDraw


@functools.cache
def large_photo(seed: int) -> bytes:
    """A 12-megapixel JPEG (3000 × 4000) of 3 to 4 MB: soft shapes with the grain of a sensor."""
    random = np.random.default_rng(seed)
    coarse = random.integers(40, 215, (40, 30, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((3000, 4000), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.normal(0, 7, (4000, 3000, 1)).astype(np.int16)
    return _jpeg(np.clip(soft + grain, 0, 255).astype(np.uint8), 90)


@functools.cache
def thin_lines() -> bytes:
    """A 12-megapixel JPEG of lines 1 to 7 pixels wide: the sharp edges that `large_photo` lacks."""
    random = np.random.default_rng(5)
    image = Image.new("RGB", (3000, 4000), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(3000):
        x, y = random.integers(0, 3000), random.integers(0, 4000)
        end = (x + random.normal(0, 200), y + random.normal(0, 200))
        colour = tuple(int(value) for value in random.integers(0, 255, 3))
        draw.line((x, y, *end), fill=colour, width=int(random.integers(1, 8)))
    return _jpeg(np.asarray(image), 92)


@functools.cache
def result_picture() -> bytes:
    """A 1024 × 1536 JPEG of about 1.5 MB, as the provider answers."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 255, (96, 64, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((1024, 1536), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.normal(0, 18, (1536, 1024, 3)).astype(np.int16)
    return _jpeg(np.clip(soft + grain, 0, 255).astype(np.uint8), 97)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()
