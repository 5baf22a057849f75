# mypy: ignore-errors
"""Trains the network that tells arms, the rest of the body and clothes; writes src/wearon_sizing/parts.onnx.

    python services/sizing-api/tools/train_parts.py --renders FOLDER

FOLDER holds train.csv with its pictures and parts/train/NAME.png, which part of the body each pixel is and
whether clothes cover it. Needs `pip install torch==2.13.0 onnx` beside the development environment: PyTorch
is in no lock of this repository, because only this tool uses it. About thirty minutes of two cores that have
nothing else to do. Colours, light, backgrounds, sharpness and masks are varied strongly, so that photographs
are not foreign. After it, fit the method again (`make calibrate`).
"""
# ruff: noqa: T201 - printing is part of what this is for

from __future__ import annotations

import argparse
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from readings import look
from renders import Render, detect_all, read_renders
from torch import nn
from torch.nn import functional

from wearon_sizing.gates import by_size
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import lay_frame
from wearon_sizing.torso import (
    ARM,
    BODY,
    COVERED,
    CROP,
    LAYERS,
    PARTS,
    crop_matrix,
    face_colour,
    layers_of,
)

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "wearon_sizing" / "parts.onnx"
ROUNDS, BATCH = 36, 16
STRIP = 8
"""Columns beside the crop that carry the face's colour."""
MARGIN = 14
"""Pixels around the crop that are kept, so that it can be shifted and turned."""


class Block(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class Net(nn.Module):
    """Down to an eighth of the half-size crop and up again; 279,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.halved = nn.PixelUnshuffle(2)
        self.a = Block(4 * LAYERS, 12)
        self.b = nn.Sequential(Block(12, 40, 2), Block(40, 40))
        self.c = nn.Sequential(Block(40, 56, 2), Block(56, 56))
        self.d = nn.Sequential(Block(56, 80, 2), Block(80, 80), Block(80, 80))
        self.from_d, self.c2 = nn.Conv2d(80, 56, 1), Block(56, 56)
        self.from_c, self.b2 = nn.Conv2d(56, 40, 1), Block(40, 40)
        self.from_b, self.a2 = nn.Conv2d(40, 12, 1), Block(12, 12)
        self.last = nn.Conv2d(12, 4 * PARTS, 3, 1, 1)

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        """(n, 4 * PARTS, CROP / 2, CROP / 2): of each part the four pixels of every square of 2 × 2."""

        def up(values: torch.Tensor) -> torch.Tensor:
            return functional.interpolate(values, scale_factor=2, mode="nearest")

        a = self.a(self.halved(layers))
        b = self.b(a)
        c = self.c(b)
        c = self.c2(c + up(self.from_d(self.d(c))))
        b = self.b2(b + up(self.from_c(c)))
        a = self.a2(a + up(self.from_b(b)))
        return torch.sigmoid(self.last(a))


@dataclass(frozen=True)
class Example:
    """Crops with a margin: `colours` (s, s, 3), `mask` (s, s), `parts` (s, s, 3) arm, body and covered, all 0
    to 255; `points` (33, 2) landmarks in its pixels; `face` (3,) its colour."""

    colours: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    points: NDArray[np.float64]
    face: NDArray[np.float32]


def example(landmarker: Landmarker, render: Render) -> Example | None:
    picture = look(render.path, 0)
    people = by_size(landmarker.detect(picture))
    if not people:
        return None
    folder = render.path.parents[1] / "parts" / render.path.parent.name
    kept = cv2.imread(str(folder / f"{render.path.stem}.png"), cv2.IMREAD_UNCHANGED)
    classes = kept % 16
    arm = (classes == 2) | (classes == 3)
    maps = np.stack([arm, (classes > 0) & ~arm, kept >= 16], axis=2).astype(np.float32) * 255
    maps = cv2.resize(maps, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    matrix = crop_matrix(people[0], lay_frame(people[0], 100.0))
    matrix[:, 2] += MARGIN
    size = (CROP + 2 * MARGIN, CROP + 2 * MARGIN)
    return Example(
        cv2.warpAffine(picture, matrix, size),
        cv2.warpAffine((people[0].mask * 255).astype(np.uint8), matrix, size),
        cv2.warpAffine(maps, matrix, size).astype(np.uint8),
        people[0].points @ matrix[:, :2].T + matrix[:, 2],
        face_colour(picture, people[0].points),
    )


def varied(
    one: Example, other: Example, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Layers for the network and the parts wanted; `other` lends its background."""
    angle, zoom = np.deg2rad(rng.normal(0, 3)), np.exp(rng.normal(0, 0.05))
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, CROP / 2 + MARGIN)
    matrix = np.column_stack([turn, CROP / 2 - turn @ centre + rng.normal(0, 3, 2)])
    if rng.random() < 0.5:
        matrix[0] *= -1
        matrix[0, 2] += CROP - 1

    def crop(values: NDArray[np.uint8], border: int = cv2.BORDER_CONSTANT) -> NDArray[np.uint8]:
        return cv2.warpAffine(values, matrix, (CROP, CROP), borderMode=border)

    parts, mask = crop(one.parts), blemished(crop(one.mask), rng)
    colours = crop(one.colours, cv2.BORDER_REPLICATE).astype(np.float32)
    if rng.random() < 0.3:
        behind = cv2.resize(other.colours, (CROP, CROP)).astype(np.float32)
        behind = cv2.GaussianBlur(behind, (0, 0), rng.uniform(0.5, 5))
        person = np.minimum(1, (parts[:, :, ARM] / 255.0 + parts[:, :, BODY] / 255.0))[:, :, None]
        colours = colours * person + behind * (1 - person)
    # The face's colour changes as the picture's do.
    strip = np.broadcast_to(one.face, (CROP, STRIP, 3))
    changed = recoloured(np.concatenate([colours, strip], axis=1), rng)
    colours, face = changed[:, :CROP], changed[:, CROP + 2 :].mean(axis=(0, 1))
    points = one.points @ matrix[:, :2].T + matrix[:, 2] + rng.normal(0, 1.7, one.points.shape)
    layers = layers_of(colours, mask.astype(np.float32) / 255, points, face)
    return layers, parts.transpose(2, 0, 1).astype(np.float32) / 255


def blemished(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The mask as other photographs may give it: soft, too wide, too narrow, with closed gaps."""
    kind = rng.random()
    if kind < 0.12:
        return cv2.GaussianBlur(mask, (0, 0), rng.uniform(1, 3))
    if kind < 0.22:
        return cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 4)))
    if kind < 0.28:
        return cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 3)))
    if kind < 0.5:
        side = int(rng.integers(5, 13))
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, element)
    return mask


def recoloured(colours: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Other colours, light, sharpness, noise and compression; 0 to 255."""
    rows, columns = colours.shape[:2]
    if rng.random() < 0.2:
        colours = colours[:, :, rng.permutation(3)]
    if rng.random() < 0.2:
        grey = rng.uniform(0, 1)
        colours = colours * (1 - grey) + colours.mean(axis=2, keepdims=True) * grey
    colours = colours * rng.uniform(0.8, 1.2, 3) * np.exp(rng.normal(0, 0.25)) + rng.normal(0, 10)
    colours = 255 * np.clip(colours / 255, 0, 1) ** np.exp(rng.normal(0, 0.25))
    if rng.random() < 0.35:
        colours = cv2.GaussianBlur(colours, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.4:
        x, y = rng.normal(0, 0.15, 2)
        across, down = np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)
        colours = colours * (1 + x * across[None, :, None] + y * down[:, None, None])
    if rng.random() < 0.4:
        colours = colours + rng.normal(0, rng.uniform(1, 12), colours.shape)
    whole = np.clip(colours, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 92))]
        whole = cv2.imdecode(cv2.imencode(".jpg", whole, quality)[1], cv2.IMREAD_COLOR)
    return whole.astype(np.float32)


def loss_of(seen: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Arm and body at every pixel and their widths in every row; clothes above all where somebody is."""
    each = functional.binary_cross_entropy(seen.clamp(1e-5, 1 - 1e-5), wanted, reduction="none")
    gaps = (seen - wanted).abs()
    parts, covered = [ARM, BODY], [COVERED]
    person = wanted[:, parts].sum(dim=1, keepdim=True).clamp(max=1)
    widths = (seen[:, parts].sum(dim=3) - wanted[:, parts].sum(dim=3)).abs().mean()
    clothes = (each[:, covered] * (0.2 + person)).mean() + 0.5 * (gaps[:, covered] * person).mean()
    return each[:, parts].mean() + 0.5 * gaps[:, parts].mean() + 0.007 * widths + 0.7 * clothes


def batch(
    examples: list[Example], rows: NDArray[np.intp], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Layers and wanted parts of the examples at `rows`, each varied in its own way."""
    others = rng.integers(0, len(examples), len(rows))
    pairs = [varied(examples[i], examples[j], rng) for i, j in zip(rows, others, strict=True)]
    layers, wanted = (torch.tensor(np.stack(part)) for part in zip(*pairs, strict=True))
    return layers, wanted


def train(examples: list[Example]) -> Net:
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    net = Net().train()
    steps = len(examples) // BATCH
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=ROUNDS * steps, pct_start=0.15)
    order = [
        rows
        for _ in range(ROUNDS)
        for rows in rng.permutation(len(examples))[: steps * BATCH].reshape(steps, BATCH)
    ]
    losses = []
    with ThreadPoolExecutor(1) as maker:
        # While the network learns from one batch, the next one is made.
        coming = maker.submit(batch, examples, order[0], rng)
        for step in range(1, len(order) + 1):
            layers, wanted = coming.result()
            if step < len(order):
                coming = maker.submit(batch, examples, order[step], rng)
            loss = loss_of(functional.pixel_shuffle(net(layers), 2), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            losses.append(loss.item())
            if step % steps == 0:
                print(f"round {step // steps} of {ROUNDS}: loss {np.mean(losses[-steps:]):.4f}", flush=True)
    return net.eval()


def with_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, half as large: its weights are kept with half precision and made whole when it is
    loaded. What it says of a pixel changes by a few thousandths at most."""
    for whole in list(model.graph.initializer):
        kept = numpy_helper.from_array(numpy_helper.to_array(whole).astype(np.float16), f"{whole.name}_half")
        cast = onnx.helper.make_node("Cast", [kept.name], [whole.name], to=onnx.TensorProto.FLOAT)
        model.graph.initializer.remove(whole)
        model.graph.initializer.append(kept)
        model.graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renders", type=Path, required=True, help="folder with train.csv and parts/train")
    parser.add_argument("--model", type=Path, default=Path(".local/models/pose_landmarker_full.task"))
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    options = parser.parse_args()
    found = detect_all(options.model, read_renders(options.renders / "train"), example)
    net = train([each for each in found if each is not None])
    whole = io.BytesIO()
    torch.onnx.export(net, torch.zeros(1, LAYERS, CROP, CROP), whole, opset_version=17, dynamo=False)
    onnx.save(with_half_precision(onnx.load_from_string(whole.getvalue())), options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
