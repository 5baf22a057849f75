"""From what is known of a shopper and what was read in the photo to a posterior of five lengths.

For each sex that is possible, the population model says what to expect (`population.py`); the photo shifts
that by a learned correction (`correction.py`) times the credit that this photo deserves, and narrows it as
much as photos like it narrowed it for people who were left out of the fit. A side photo does the same once
more with what the front left open. docs/sizing.md has the formulas on a page; the numbers are in
`method.json`, `front.npz` and `side.npz`, written by tools/calibrate.py.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np

from wearon_contracts.sizing import Gender
from wearon_sizing.correction import Correction, correction_from
from wearon_sizing.inputs import INPUTS, TOUCHED
from wearon_sizing.population import LENGTHS, SEXES, Length, Population, Posterior, load_population, mixed
from wearon_sizing.silhouette import Array

GIRTHS: Final[tuple[Length, ...]] = LENGTHS[:3]
CREDIT: Final = 0.9
"""Of the correction that was learned on renders, how much a photograph gets. On 21 real people the earlier
method's corrections did best at 0.3 of their size; these are already as small as renders of people left out
ask for, and fade for unfamiliar photos, so only a margin for the step to photographs is taken."""
PHOTO_MARGIN: Final = 1.05
"""Spreads after a photo are this much larger than those of rendered people who were left out of the fit: the
margin for the step from renders to photographs. It is a guess, kept small enough for the intervals to hold at
most 88 % of renders."""
CONTRADICTION: Final = 3.0
"""From this many standard deviations between what the weight and what the photo say, one of them is wrong."""
MOST_WIDENED: Final = 2.0
QUALITY: Final = ("one", "looseness", "touching", "stoutness", "unfamiliar")


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of photo with one kind of knowledge. `correction`: five lengths (cm), then, for front photos,
    the ease of the clothes at chest, waist and hip (cm). `credit` (2, 5): of the correction, what it is worth
    in tight clothes, and how that changes with each 10 cm of ease. `offsets` (2, 5) per sex in cm: how the
    lengths are measured here beside the population's survey. `spread` (QUALITY, 5): logarithms of the
    standard deviations in cm. `correlations` (5, 5) of what is left."""

    correction: Correction
    credit: Array
    offsets: Array
    spread: Array
    correlations: Array


@dataclass(frozen=True, slots=True)
class Seen:
    """What one photo says of a person of one sex: `posterior`, the loosest `ease` in cm, and how `familiar`
    the photo looks, 0 to 1."""

    posterior: Posterior
    ease: float
    familiar: float


@dataclass(frozen=True, slots=True)
class PhotoEstimate:
    """`body` from all that is known; `trust` 0 to 1, how much the photo could tell, compared with the best
    ones; `ease` of the clothes in cm; `disagreement` between weight and photo in standard deviations."""

    body: Posterior
    trust: float
    ease: float
    disagreement: float

    @property
    def contradicts(self) -> bool:
        return self.disagreement > CONTRADICTION


def quality_terms(inputs: Array, ease: Array, expected: Array, familiar: Array) -> Array:
    """(n, QUALITY): what makes a photo worth less."""
    return np.column_stack(
        [
            np.ones(len(inputs)),
            np.clip(ease, 0.0, 30.0) / 10,
            np.clip(inputs[:, TOUCHED].mean(axis=1), 0.0, 1.0),
            expected[:, LENGTHS.index("waist_cm")] / inputs[:, INPUTS.index("height")] - 0.5,
            1.0 - familiar,
        ]
    )


def credits_at(credit: Array, ease: Array) -> Array:
    """(n, 5) from 0 to 1: what corrections are worth in clothes with this `ease` (n,) in cm."""
    worth: Array = np.clip(credit[0] + credit[1] * np.clip(ease, 0.0, 30.0)[:, None] / 10, 0.0, 1.0)
    return worth


def apply(step: Step, inputs: Array, known: Posterior, sex: Gender, ease: float | None = None) -> Seen:
    """`known` of somebody of this sex, corrected by a photo with these `inputs`. `ease` in cm where another
    photo told it already."""
    expected = known.mean
    outputs, familiar = (part[0] for part in step.correction(inputs[None], expected[None]))
    if ease is None:
        ease = max(float(outputs[len(LENGTHS) :].max()), 0.0)
    credit = CREDIT * float(familiar) * credits_at(step.credit, np.array([ease]))[0]
    mean = expected + step.offsets[SEXES.index(sex)] + credit * outputs[: len(LENGTHS)]
    terms = quality_terms(inputs[None], np.array([ease]), expected[None], familiar[None])[0]
    before = np.diag(known.covariance)
    learned = np.minimum(np.exp(2 * terms @ step.spread) * PHOTO_MARGIN**2, before)
    # Of an unfamiliar photo only a share of the correction is taken; what it would have taken away comes
    # back.
    spreads = np.sqrt(learned + (1 - float(familiar)) ** 2 * (before - learned))
    covariance = step.correlations * np.outer(spreads, spreads)
    return Seen(Posterior(np.ones(1), mean[None], covariance[None]), ease, float(familiar))


@dataclass(frozen=True, slots=True)
class Method:
    """Everything that was fitted. `best_narrowing`: by what share the best photos narrow the girths of
    somebody whose weight is not known."""

    version: str
    population: Population
    front: Mapping[bool, Step]
    side: Mapping[bool, Step]
    best_narrowing: float
    body_type_edges: Mapping[str, Mapping[str, float]]

    def estimate(
        self,
        front: Array,
        height_cm: float,
        weight_kg: float | None = None,
        gender: Gender | None = None,
        side: Array | None = None,
    ) -> PhotoEstimate:
        """Lengths of one person. `front`, `side` (INPUTS,): what was read in the photos."""
        unweighed = self._seen(front, height_cm, None, gender, side)
        body, ease, familiar = unweighed
        before = self.population.without_photo(height_cm, None, gender)
        narrowing = 1 - np.mean([body.spread(name) / before.spread(name) for name in GIRTHS])
        trust = familiar * float(np.clip(narrowing / self.best_narrowing, 0.0, 1.0))
        disagreement = 0.0
        if weight_kg is not None:
            weighed = self.population.without_photo(height_cm, weight_kg, gender)
            disagreement = max(
                abs(body.value(name) - weighed.value(name))
                / math.hypot(body.spread(name), weighed.spread(name))
                for name in GIRTHS
            )
            body, ease, _ = self._seen(front, height_cm, weight_kg, gender, side)
            if disagreement > CONTRADICTION:
                body = body.widened(min(1 + (disagreement - CONTRADICTION) / 2, MOST_WIDENED))
        return PhotoEstimate(body, trust, ease, disagreement)

    def _seen(
        self,
        front: Array,
        height_cm: float,
        weight_kg: float | None,
        gender: Gender | None,
        side: Array | None,
    ) -> tuple[Posterior, float, float]:
        """The posterior, the ease and the familiarity, over the sexes that are possible."""
        likely = self.population.sex_shares(height_cm, weight_kg, gender)
        weighed = weight_kg is not None
        parts = []
        for sex in likely:
            known = self.population.sexes[sex].people(height_cm, weight_kg)
            seen = apply(self.front[weighed], front, known, sex)
            if side is not None:
                more = apply(self.side[weighed], side, seen.posterior, sex, seen.ease)
                seen = Seen(more.posterior, seen.ease, seen.familiar)
            parts.append(seen)
        shares = list(likely.values())
        ease, familiar = (
            float(np.average([getattr(part, name) for part in parts], weights=shares))
            for name in ("ease", "familiar")
        )
        return mixed(shares, [part.posterior for part in parts]), ease, familiar


def load_method() -> Method:
    """The method that ships with this package. Raises ValueError when its files belong to other code."""
    folder = files("wearon_sizing")
    document = json.loads(folder.joinpath("method.json").read_text())
    arrays: dict[str, Array] = {}
    for name in ("front", "side"):
        with np.load(io.BytesIO(folder.joinpath(f"{name}.npz").read_bytes())) as kept:
            arrays |= dict(kept)
    return method_from(document, arrays)


def method_from(document: Mapping[str, Any], arrays: Mapping[str, Array]) -> Method:
    if tuple(document["inputs"]) != INPUTS:
        raise ValueError("method.json was fitted on other inputs than this code reads; run make calibrate")

    def step(kind: str, weighed: bool) -> Step:
        name = f"{kind}_{'weight' if weighed else 'height'}"
        part = document["steps"][name]
        return Step(
            correction_from(arrays, kind, name),
            np.array(part["credit"]),
            np.array(part["offsets"]),
            np.array(part["spread"]),
            np.array(part["correlations"]),
        )

    return Method(
        version=str(document["version"]),
        population=load_population(),
        front={weighed: step("front", weighed) for weighed in (False, True)},
        side={weighed: step("side", weighed) for weighed in (False, True)},
        best_narrowing=float(document["best_narrowing"]),
        body_type_edges=document["body_types"],
    )
