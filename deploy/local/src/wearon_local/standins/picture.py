"""Draws what the OpenAI stand-in answers: the person large, the garment over the torso, a label below."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

_CACHED: Final = 64
_QUALITY: Final = 85
_LABEL_HEIGHT: Final = 56
_INSET: Final = 150

_COMMENT: Final = b"\xff\xfe"
_APP11: Final = b"\xff\xeb"
_CREDENTIALS: Final = b"JP\x00\x01\x00\x00\x00\x01\x00\x00\x00\x1ejumb\x00\x00\x00\x16jumdc2pa stand-in\x00"
"""Where real answers carry their content credentials (C2PA): a JUMBF box in this segment."""

_cache: OrderedDict[str, bytes] = OrderedDict()
_cache_lock = threading.Lock()


def draw(images: Sequence[bytes], size: tuple[int, int], output_format: str, *, mark: str) -> bytes:
    """The combination of `images` (person, garment, accessories) as JPEG, PNG or WebP.

    The same inputs give the same picture, which is drawn once; `mark` goes into a JPEG comment, so that two
    sessions with the same inputs get different bytes. A JPEG carries content credentials as real answers do.
    Raises OSError for an input that is not a picture.
    """
    digest = hashlib.sha256(repr((size, output_format)).encode())
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    key = digest.hexdigest()
    with _cache_lock:
        drawn = _cache.get(key)
        if drawn is not None:
            _cache.move_to_end(key)
    if drawn is None:
        drawn = _encode(_compose([_open(i, size) for i in images], size), output_format)
        with _cache_lock:
            _cache[key] = drawn
            if len(_cache) > _CACHED:
                _cache.popitem(last=False)
    if output_format != "jpeg":
        return drawn
    return _with_segment(_with_segment(drawn, _COMMENT, mark.encode()), _APP11, _CREDENTIALS)


def _open(data: bytes, size: tuple[int, int]) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", size)
    return image.convert("RGB")


def _compose(images: list[Image.Image], size: tuple[int, int]) -> Image.Image:
    width, height = size
    person, others = images[0], images[1:]
    canvas = Image.new("RGB", size, _edge_colour(person))
    scale = min(width / person.width, (height - _LABEL_HEIGHT) / person.height)
    shown = person.resize(
        (round(person.width * scale), round(person.height * scale)), Image.Resampling.BILINEAR
    )
    left, top = (width - shown.width) // 2, (height - _LABEL_HEIGHT - shown.height) // 2
    canvas.paste(shown, (left, top))
    if others:
        x, y, torso_width = _torso(shown)
        _overlay(canvas, others[0], centre_x=left + x, top=top + y, width=torso_width)
    for index, image in enumerate(images):
        _inset(canvas, image, index)
    _label(canvas, f"stand-in  ·  not a real try-on  ·  {len(images)} input images")
    return canvas


def _edge_colour(image: Image.Image) -> tuple[int, ...]:
    colour = image.resize((1, 1), box=(0, 0, image.width, max(1, image.height // 50))).getpixel((0, 0))
    return colour if isinstance(colour, tuple) else (128, 128, 128)


def _torso(person: Image.Image) -> tuple[int, int, int]:
    """Centre, top and width of where a garment goes, by how the figure stands out from the picture's edge."""
    small = person.resize((60, max(1, round(60 * person.height / person.width))), Image.Resampling.BOX)
    background = Image.new("RGB", small.size, _edge_colour(person))
    figure = ImageChops.difference(small, background).convert("L").point(lambda v: 255 if v > 40 else 0)
    left, top, right, bottom = figure.getbbox() or (15, 5, 45, small.height - 5)
    unit = person.width / small.width
    tall = (bottom - top) * unit
    return round((left + right) / 2 * unit), round(top * unit + 0.135 * tall), round(0.42 * tall)


def _overlay(canvas: Image.Image, garment: Image.Image, *, centre_x: int, top: int, width: int) -> None:
    # What is nearly white around a garment is its background; a soft edge hides the cut.
    distance = ImageChops.difference(garment, Image.new("RGB", garment.size, "white")).convert("L")
    mask = distance.point(lambda v: min(255, max(0, v - 8) * 12))
    box = mask.getbbox() or (0, 0, *garment.size)
    height = max(1, round(width * (box[3] - box[1]) / (box[2] - box[0])))
    cut = garment.crop(box).resize((width, height), Image.Resampling.BILINEAR)
    cut_mask = mask.crop(box).resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(cut, (centre_x - width // 2, top), cut_mask.filter(ImageFilter.GaussianBlur(1)))


def _inset(canvas: Image.Image, image: Image.Image, index: int) -> None:
    thumbnail = image.copy()
    thumbnail.thumbnail((_INSET, _INSET))
    frame = Image.new("RGB", (thumbnail.width + 8, thumbnail.height + 8), "white")
    frame.paste(thumbnail, (4, 4))
    canvas.paste(frame, (16, 16 + index * (_INSET + 24)))


def _label(canvas: Image.Image, text: str) -> None:
    pen = ImageDraw.Draw(canvas)
    width, height = canvas.size
    pen.rectangle((0, height - _LABEL_HEIGHT, width, height), fill=(20, 24, 34))
    font = ImageFont.load_default(size=26)
    pen.text((width // 2, height - _LABEL_HEIGHT // 2), text, font=font, fill="white", anchor="mm")


def _encode(image: Image.Image, output_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, output_format.upper(), quality=_QUALITY)
    return buffer.getvalue()


def _with_segment(jpeg: bytes, marker: bytes, content: bytes) -> bytes:
    segment = marker + (len(content) + 2).to_bytes(2, "big") + content
    return jpeg[:2] + segment + jpeg[2:]
