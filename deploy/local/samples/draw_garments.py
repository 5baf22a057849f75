"""Draws the garments of this folder: `python draw_garments.py` writes them anew. Needs Pillow."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

HERE = Path(__file__).parent
SIDE = 640
ZOOM = 3
Point = tuple[float, float]


def curve(start: Point, control: Point, end: Point, steps: int = 24) -> list[Point]:
    """Points of a quadratic Bézier curve."""
    points = []
    for i in range(steps + 1):
        t = i / steps
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        points.append(
            (
                a * start[0] + b * control[0] + c * end[0],
                a * start[1] + b * control[1] + c * end[1],
            )
        )
    return points


def mirrored(half: list[Point]) -> list[Point]:
    """The outline of which `half` is the left side, from the neck down to the hem."""
    return half + [(SIDE - x, y) for x, y in reversed(half)]


def cloth(outline: list[Point], colour: tuple[int, int, int]) -> Image.Image:
    """The outline filled with softly folded cloth on white."""
    size = (SIDE * ZOOM, SIDE * ZOOM)
    scaled = [(x * ZOOM, y * ZOOM) for x, y in outline]
    shade = Image.linear_gradient("L").rotate(90).resize(size)
    folds = shade.point(lambda v: round(40 + 30 * math.sin(v / 255 * math.pi) + 8 * math.sin(v / 255 * 40)))
    light = Image.merge("RGB", [folds.point(lambda v, c=c: min(255, round(c * v / 64))) for c in colour])
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).polygon(scaled, fill=255)
    picture = Image.new("RGB", size, "white")
    picture.paste(light, (0, 0), mask)
    ImageDraw.Draw(picture).line([*scaled, scaled[0]], fill=tuple(c // 2 for c in colour), width=2 * ZOOM)
    return picture


def finish(picture: Image.Image, name: str) -> None:
    """Smooth the edges and save."""
    small = picture.filter(ImageFilter.GaussianBlur(ZOOM / 3)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(HERE / name, quality=88, optimize=True)


def line(picture: Image.Image, points: list[Point], colour: tuple[int, int, int], width: int) -> None:
    """A seam or stripe."""
    ImageDraw.Draw(picture).line(
        [(x * ZOOM, y * ZOOM) for x, y in points], fill=colour, width=width * ZOOM, joint="curve"
    )


def tshirt() -> None:
    """A short-sleeved shirt with a stripe across the chest."""
    half = [
        *curve((320, 108), (276, 108), (250, 70)),
        (222, 76),
        *curve((222, 76), (120, 100), (40, 250)),
        (132, 300),
        *curve((132, 300), (160, 262), (176, 244)),
        *curve((176, 244), (186, 400), (172, 580)),
        *curve((172, 580), (240, 594), (320, 594)),
    ]
    shirt = cloth(mirrored(half), (226, 84, 52))
    line(shirt, curve((181, 330), (320, 344), (459, 330)), (240, 190, 84), 26)
    line(shirt, curve((250, 74), (320, 152), (390, 74)), (150, 50, 30), 5)
    for side in (1, -1):
        x = 320 - side * 145
        line(shirt, curve((x, 246), (x - side * 8, 160), (320 - side * 98, 76)), (170, 58, 36), 3)
    finish(shirt, "garment-drawn-tshirt.jpg")


def dress() -> None:
    """A sleeveless dress with a belt and a row of dots above the hem."""
    half = [
        *curve((320, 112), (284, 110), (268, 40)),
        *curve((236, 40), (250, 120), (206, 160)),
        *curve((206, 160), (236, 220), (238, 270)),
        *curve((238, 270), (190, 420), (132, 590)),
        *curve((132, 590), (220, 622), (320, 622)),
    ]
    gown = cloth(mirrored(half), (38, 110, 138))
    line(gown, curve((238, 272), (320, 288), (402, 272)), (196, 150, 60), 16)
    line(
        gown,
        curve((268, 42), (284, 112), (320, 114)) + curve((320, 114), (356, 112), (372, 42)),
        (20, 60, 78),
        4,
    )
    pen = ImageDraw.Draw(gown)
    for i in range(11):
        x, y = 172 + i * 29.6, 548 + 22 * math.sin(i / 10 * math.pi)
        pen.ellipse([(v + d) * ZOOM for d in (-7, 7) for v in (x, y)], fill=(214, 172, 84))
    finish(gown, "garment-drawn-dress.jpg")


def cap() -> None:
    """A baseball cap, as an accessory."""
    crown = [
        (120, 400),
        *curve((120, 400), (130, 170), (320, 165)),
        *curve((320, 165), (510, 170), (520, 400)),
    ]
    picture = cloth(crown, (70, 128, 74))
    peak = [*curve((110, 400), (320, 330), (530, 400)), *curve((530, 400), (600, 500), (320, 480))]
    peak += curve((320, 480), (40, 500), (110, 400))
    ImageDraw.Draw(picture).polygon([(x * ZOOM, y * ZOOM) for x, y in peak], fill=(48, 92, 52))
    line(picture, [*peak, peak[0]], (30, 60, 34), 3)
    for x in (220, 420):
        line(picture, curve((320, 167), (x, 220), (x, 384)), (44, 84, 48), 3)
    finish(picture, "accessory-drawn-cap.jpg")


if __name__ == "__main__":
    tshirt()
    dress()
    cap()
