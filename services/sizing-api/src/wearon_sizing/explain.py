"""A picture for people: what the service saw in a photo and what it made of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wearon_sizing.inputs import Reading
from wearon_sizing.population import LENGTHS, PosteriorLength
from wearon_sizing.silhouette import (
    ANKLE_L,
    ANKLE_R,
    ELBOW_L,
    ELBOW_R,
    HIP_L,
    HIP_R,
    KNEE_L,
    KNEE_R,
    SHOULDER_L,
    SHOULDER_R,
    WRIST_L,
    WRIST_R,
    Frame,
    Person,
    middle,
)
from wearon_sizing.sizes import SIZES, likelihoods
from wearon_sizing.sizing import Assessment, Estimate, Shopper
from wearon_sizing.torso import ARM, ROWS, crop_matrix

HEIGHT: Final = 1000
MOST_WIDTH: Final = 2000  # of the photo; a strip of one row would become a million pixels wide
PANEL: Final = 520
MARGIN: Final = 40
SMALL, PLAIN, LARGE, HUGE = 17, 21, 30, 96
INK, SOFT, PAPER, RULE = (28, 30, 38), (110, 114, 128), (250, 250, 252), (222, 224, 232)
OUTLINE, BONE, JOINT = (255, 214, 10), (255, 255, 255), (20, 110, 245)
ARM_COLOUR, ARM_OPACITY = (20, 110, 245), 0.45
COLOURS: Final = {
    "chest_cm": (233, 69, 96),
    "waist_cm": (22, 160, 133),
    "hip_cm": (142, 68, 173),
    "shoulder_cm": (20, 110, 245),
    "inseam_cm": (214, 137, 16),
}
# Shares of the way from the shoulder line to the hip line where chest, waist and hip lie: the middle of 60
# renders in tight clothes, whose rows are known, to the nearest row that is read.
LEVELS: Final = {"chest": 0.30, "waist": 0.70, "hip": 1.0}
BONES: Final = (
    (SHOULDER_L, SHOULDER_R),
    (HIP_L, HIP_R),
    (SHOULDER_L, HIP_L),
    (SHOULDER_R, HIP_R),
    (SHOULDER_L, ELBOW_L),
    (SHOULDER_R, ELBOW_R),
    (ELBOW_L, WRIST_L),
    (ELBOW_R, WRIST_R),
    (HIP_L, KNEE_L),
    (HIP_R, KNEE_R),
    (KNEE_L, ANKLE_L),
    (KNEE_R, ANKLE_R),
)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def explain(
    picture: NDArray[np.uint8], person: Person, assessment: Assessment, shopper: Shopper
) -> Image.Image:
    """The photo with outline, arms, skeleton and measured widths, beside a panel with the numbers."""
    photo, zoom = _enlarged(picture)
    reading = assessment.reading
    photo = _with_arms(_outlined(photo, person), person, reading.silhouette.frame, zoom)
    draw = ImageDraw.Draw(photo)
    _draw_skeleton(draw, person, zoom)
    _draw_widths(draw, person, reading, zoom)
    return _beside(photo, assessment, shopper)


def explain_refusal(
    picture: NDArray[np.uint8],
    people: Sequence[Person],
    sentence: str,
    fallback: Estimate,
    shopper: Shopper,
) -> Image.Image:
    """The photo with whoever was found in it, beside why it is not measured and what is said without it."""
    photo, zoom = _enlarged(picture)
    for person in people:
        photo = _outlined(photo, person)
        _draw_skeleton(ImageDraw.Draw(photo), person, zoom)
    return _beside(photo, fallback, shopper, refusal=sentence)


def _enlarged(picture: NDArray[np.uint8]) -> tuple[Image.Image, float]:
    """The photo at the sheet's height, or as wide as may be, and how many times larger it is."""
    rows, columns = picture.shape[:2]
    zoom = min(HEIGHT / rows, MOST_WIDTH / columns)
    size = (max(round(columns * zoom), 1), max(round(rows * zoom), 1))
    return Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), zoom


def _beside(
    photo: Image.Image, estimate: Estimate, shopper: Shopper, refusal: str | None = None
) -> Image.Image:
    """The photo with a panel to its right that says everything, as high as it has to be."""
    sheet = Image.new("RGB", (photo.width + PANEL, 2 * HEIGHT), PAPER)
    sheet.paste(photo, (0, 0))
    end = _draw_panel(ImageDraw.Draw(sheet), photo.width + MARGIN, estimate, shopper, refusal)
    return sheet.crop((0, 0, sheet.width, max(HEIGHT, end + MARGIN)))


def _outlined(photo: Image.Image, person: Person) -> Image.Image:
    """Everything but the person a little paler, the edge of the mask as a line."""
    mask = cv2.resize(person.mask, photo.size, interpolation=cv2.INTER_LINEAR)
    pixels = np.asarray(photo).astype(np.float32)
    pale = pixels * 0.55 + 255 * 0.45
    shown = np.where(mask[..., None] > 0.5, pixels, pale).astype(np.uint8)
    edges, _ = cv2.findContours((mask > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return Image.fromarray(cv2.drawContours(shown, edges, -1, OUTLINE, 2, cv2.LINE_AA))


def _with_arms(photo: Image.Image, person: Person, frame: Frame, zoom: float) -> Image.Image:
    """What the network took for arms in their own colour; the widths of the torso leave it out."""
    if person.parts is None:
        return photo
    rows, columns = person.mask.shape
    to_crop = crop_matrix(person, frame)
    arms = cv2.warpAffine(
        person.parts[ARM], to_crop, (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    share = cv2.resize(arms, photo.size, interpolation=cv2.INTER_LINEAR)[..., None] * ARM_OPACITY
    pixels = np.asarray(photo).astype(np.float32)
    return Image.fromarray((pixels * (1 - share) + np.array(ARM_COLOUR) * share).astype(np.uint8))


def _draw_skeleton(draw: ImageDraw.ImageDraw, person: Person, zoom: float) -> None:
    points = (person.points + 0.5) * zoom
    for a, b in BONES:
        draw.line([*points[a], *points[b]], fill=BONE, width=3)
    for joint in sorted({joint for bone in BONES for joint in bone}):
        x, y = points[joint]
        draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=JOINT, outline=BONE, width=2)


def width_lines(person: Person, reading: Reading) -> list[tuple[str, NDArray[np.float64], float]]:
    """Lines across the torso without the arms, as the network cut them off, at three levels: name, left and
    right end (2, 2) in pixels of the picture, width in cm."""
    frame, torso = reading.silhouette.frame, reading.torso
    hips = float(frame.place(middle(person.points, HIP_L, HIP_R)[None])[0, 0])
    lines = []
    for name, level in LEVELS.items():
        row = int(np.argmin(np.abs(ROWS - level)))
        along = frame.origin + ROWS[row] * frame.torso * frame.down
        ends = [along + (hips / 2 + edge / frame.cm) * frame.across + 0.5 for edge in torso.edges[row]]
        lines.append((name, np.array(ends), float(torso.widths[row])))
    return lines


def _draw_widths(draw: ImageDraw.ImageDraw, person: Person, reading: Reading, zoom: float) -> None:
    font = _font(SMALL)
    for name, ends, width_cm in width_lines(person, reading):
        left, right = ends * zoom
        colour = COLOURS[f"{name}_cm"]
        draw.line([*left, *right], fill=colour, width=5)
        for x, y in (left, right):
            draw.line([x, y - 9, x, y + 9], fill=colour, width=3)
        label = f"{name} {width_cm:.0f} cm wide"
        box = draw.textbbox((0, 0), label, font=font)
        x, y = (left + right) / 2
        x, y = x - box[2] / 2, y + 7
        draw.rounded_rectangle([x - 6, y - 1, x + box[2] + 6, y + box[3] + 5], 5, fill=colour)
        draw.text((x, y), label, font=font, fill=BONE)


def _draw_panel(
    draw: ImageDraw.ImageDraw, left: int, estimate: Estimate, shopper: Shopper, refusal: str | None
) -> int:
    """Everything that is said, from the top down; returns the row below it. `left`: where the text begins."""
    ends = left, left + PANEL - 2 * MARGIN
    _draw_size(draw, left, estimate, shopper)
    y = _draw_chances(draw, ends, estimate, shopper)
    y = _draw_lengths(draw, ends, y + 22, estimate)
    return _draw_notes(draw, ends, y, estimate, refusal)


def _draw_size(draw: ImageDraw.ImageDraw, left: int, estimate: Estimate, shopper: Shopper) -> None:
    advice = estimate.advice
    told = f"Height {shopper.height_cm:g} cm"
    if shopper.weight_kg is not None:
        told += f", weight {shopper.weight_kg:g} kg"
    if shopper.gender is not None:
        told += f", {shopper.gender.value}"
    draw.text((left, 44), told, font=_font(PLAIN), fill=SOFT)
    draw.text((left - 4, 76), advice.size.value, font=_font(HUGE), fill=INK)
    size_right = left + draw.textlength(advice.size.value, font=_font(HUGE)) + 28
    draw.text((size_right, 104), f"{advice.confidence:.0%} sure", font=_font(LARGE), fill=INK)
    span = (
        advice.lower.value
        if advice.lower is advice.upper
        else f"{advice.lower.value} to {advice.upper.value}"
    )
    draw.text((size_right, 146), f"most likely {span}", font=_font(PLAIN), fill=SOFT)


def _draw_chances(
    draw: ImageDraw.ImageDraw, ends: tuple[int, int], estimate: Estimate, shopper: Shopper
) -> int:
    """A bar for each size between two `ends`; returns the row below them."""
    left, right = ends
    y = 232
    chances = likelihoods(PosteriorLength(estimate.body, "chest_cm"), shopper.gender)
    for size, chance in zip(SIZES, chances, strict=True):
        draw.text((left, y), size.value, font=_font(PLAIN), fill=INK)
        draw.rounded_rectangle([left + 60, y + 4, right - 70, y + 22], 5, fill=RULE)
        if chance >= 0.005:
            end = left + 60 + max((right - 130 - left) * chance, 10)
            colour = JOINT if size is estimate.advice.size else SOFT
            draw.rounded_rectangle([left + 60, y + 4, end, y + 22], 5, fill=colour)
        draw.text((right, y), f"{chance:.0%}", font=_font(PLAIN), fill=SOFT, anchor="ra")
        y += 36
    return y


def _draw_lengths(draw: ImageDraw.ImageDraw, ends: tuple[int, int], y: int, estimate: Estimate) -> int:
    """A table from row `y` on between two `ends`; returns the row below it."""
    left, right = ends
    draw.text((left, y), "Measurement", font=_font(SMALL), fill=SOFT)
    draw.text((right, y), "four times out of five within", font=_font(SMALL), fill=SOFT, anchor="ra")
    y += 32
    for name in LENGTHS:
        lower, upper = estimate.body.interval(name)
        draw.line([left, y - 6, right, y - 6], fill=RULE, width=2)
        draw.rectangle([left, y + 6, left + 10, y + 34], fill=COLOURS[name])
        draw.text((left + 26, y + 6), name.removesuffix("_cm").capitalize(), font=_font(PLAIN), fill=INK)
        draw.text(
            (left + 250, y), f"{estimate.body.value(name):.1f} cm", font=_font(LARGE), fill=INK, anchor="ra"
        )
        draw.text((right, y + 6), f"{lower:.1f} to {upper:.1f}", font=_font(PLAIN), fill=SOFT, anchor="ra")
        y += 52
    draw.line([left, y - 6, right, y - 6], fill=RULE, width=2)
    return y


def _draw_notes(
    draw: ImageDraw.ImageDraw, ends: tuple[int, int], y: int, estimate: Estimate, refusal: str | None
) -> int:
    """Build and trust, why a photo was refused, and the warnings, from row `y` on, between two `ends`;
    returns the row below it."""
    left, right = ends
    draw.text((left, y + 12), f"Build: {estimate.body_type.value}", font=_font(PLAIN), fill=INK)
    trust = f"Trust in the photo: {estimate.photo_trust:.0%}" if refusal is None else "Without the photo"
    draw.text((right, y + 12), trust, font=_font(PLAIN), fill=INK, anchor="ra")
    y += 54
    if refusal is not None:
        for line in _wrapped(draw, f"Not measured: {refusal}", _font(PLAIN), right - left):
            draw.text((left, y), line, font=_font(PLAIN), fill=COLOURS["chest_cm"])
            y += 28
        y += 6
    for warning in estimate.warnings:
        for line in _wrapped(draw, warning, _font(SMALL), right - left):
            draw.text((left, y), line, font=_font(SMALL), fill=SOFT)
            y += 24
        y += 6
    return y


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
