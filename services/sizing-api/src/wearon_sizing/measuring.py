"""From what is known of a shopper and what was read in the photo to a posterior of five lengths.

For each sex that is possible, the population model says what to expect (`population.py`); the photos shift
that by a learned correction (`correction.py`) times the credit that these photos deserve, and narrow it as
much as photos like them narrowed it for people who were left out of the fit. docs/sizing.md has the formulas
on a page; the numbers are in `method.json`, `front.npz`, `front_nets.npz` and `side.npz`, written by
tools/calibrate.py.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wearon_contracts.sizing import Gender, Measured
from wearon_sizing.correction import Correction, Reader, Space, correction_from
from wearon_sizing.inputs import INPUTS, SIDE_INPUTS, TOUCHED
from wearon_sizing.population import LENGTHS, SEXES, Population, Posterior, load_population, mixed
from wearon_sizing.reading_nets import nets_from
from wearon_sizing.silhouette import Array

GIRTHS: Final[tuple[Measured, ...]] = LENGTHS[:3]
PHOTO_MARGIN: Final = 1.05
"""Spreads after a photo are this much larger than those of rendered people who were left out of the fit: the
margin for the step from renders to photographs. It is a guess, kept small so that most intervals hold at most
88 % of renders (docs/sizing.md names the others)."""
DOUBTED: Final = (1.8, 2.4)
"""Standard deviations between what the weight and what the photo say: from the first on one of them may be
wrong, from the second on one surely is. Of rendered people with their true weight 5 % are beyond the first
and 1 % beyond the second."""
REACH: Final = 0.8
"""So much of the gap between the two is one standard deviation more where one of them surely is wrong: an
80 % interval around the one then reaches to the other."""
SURELY_BETTER: Final = 1.2
"""A length that front and side know so many times better than the front alone is taken from both. Where they
know it equally well the mean of the two is taken, in between more of the better one: a switch would make
girths jump when the weight changes a little."""
QUALITY: Final = ("one", "looseness", "touching", "stoutness", "unfamiliar")
MOST_SEX_LOG_ODDS: Final = 4.0
"""Logarithm of the odds that a photo may add at most for one sex: photographs are not renders, on which it is
right 99 times of 100."""


WIDTHS: Final = (
    *(f"clothed_{level}" for level in ("chest", "waist", "hip")),
    *(f"body_{level}" for level in ("chest", "waist", "hip")),
    *(f"ease_{level}" for level in ("chest", "waist", "hip")),
)
"""What is read in one photo, in cm: how far the clothed and the naked body reach across the picture (breadths
from the front, depths from the side), and the ease: by how much longer the clothes are around than the
body."""


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of photos with one kind of knowledge. `correction` says from `numbers_read` what the photos
    add; None where that is read directly (from the front, without the weight). `credit` (2, 5): of the
    correction, what it is worth in tight clothes, and how that changes with each 10 cm of ease. `offsets`
    (2, 5) per sex in cm: by how much the rendered people differ from what the population model expects of
    them, in the mean. `spread` (QUALITY,
    5): logarithms of the standard deviations in cm. `correlations` (5, 5) of what is left."""

    correction: Correction | None
    credit: Array
    offsets: Array
    spread: Array
    correlations: Array


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read in one photo of a person of one sex: `expected` (5,) in cm, without the weight, and
    `lengths` (5,), what to add to that; `widths` (WIDTHS,) in cm; how `familiar` the photo looks, 0 to 1."""

    expected: Array
    lengths: Array
    widths: Array
    familiar: float

    @property
    def ease(self) -> float:
        """The loosest, in cm."""
        return max(float(self.widths[-3:].max()), 0.0)


@dataclass(frozen=True, slots=True)
class PhotoEstimate:
    """`body` from all that is known; `trust` 0 to 1, how much the photo could tell, compared with the best
    ones; `ease` of the clothes in cm; `doubt` 0 to 1, how surely weight and photo contradict each other."""

    body: Posterior
    trust: float
    ease: float
    doubt: float

    @property
    def contradicts(self) -> bool:
        return self.doubt > 0.5


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


def numbers_read(height_cm: Array, sexes: NDArray[np.intp], lengths: Array, *widths: Array) -> Array:
    """(n, 2 + 5 + WIDTHS per photo): what the second correction works from. `sexes` (n,) places in SEXES,
    `lengths` (n, 5) as estimated from the front without the weight, in cm."""
    return np.column_stack([height_cm, sexes, lengths, *widths])


def narrowed(step: Step, added: Array, known: Posterior, sex: Gender, terms: Array) -> Posterior:
    """`known` of somebody of this sex, corrected by `added` (5,) cm, with what photos like these were worth.
    `terms` (QUALITY,)."""
    familiar, ease = 1 - terms[QUALITY.index("unfamiliar")], 10 * terms[QUALITY.index("looseness")]
    credit = credits_at(step.credit, np.array([ease]))[0]
    mean = known.mean + familiar * (step.offsets[SEXES.index(sex)] + credit * added)
    before = np.diag(known.covariance)
    learned = np.minimum(np.exp(2 * terms @ step.spread) * PHOTO_MARGIN**2, before)
    # Of an unfamiliar photo only a share of the correction is taken; what it would have taken away comes
    # back.
    spreads = np.sqrt(learned + (1 - familiar) ** 2 * (before - learned))
    covariance = step.correlations * np.outer(spreads, spreads)
    return Posterior(np.ones(1), mean[None], covariance[None])


@dataclass(frozen=True, slots=True)
class SexLine:
    """What a front photo says about the sex, a line in the main directions of its inputs: `slopes`
    (directions,) and `start` of the logarithm of the odds for the second of SEXES."""

    slopes: Array
    start: float

    def log_odds(self, space: Space, inputs: Array, familiar: float) -> float:
        """Logarithm, bounded by MOST_SEX_LOG_ODDS; nearer to 0, even odds, for an unfamiliar photo."""
        told = float(self.start + space.directions(inputs[None])[0] @ self.slopes)
        return familiar * float(np.clip(told, -MOST_SEX_LOG_ODDS, MOST_SEX_LOG_ODDS))


def weighed_by_log_odds(shares: Sequence[float], log_odds: float) -> list[float]:
    """Shares of the two SEXES, in order, after logarithmic odds for the second one."""
    logs = [math.log(max(share, 1e-300)) for share in shares]
    logs[1] += log_odds
    top = max(logs)
    total = sum(math.exp(log - top) for log in logs)
    return [math.exp(log - top) / total for log in logs]


@dataclass(frozen=True, slots=True)
class Method:
    """Everything that was fitted. `best_narrowing`: by what share the best photos narrow the girths of
    somebody whose weight is not known."""

    version: str
    population: Population
    front_reader: Reader
    side_reader: Correction
    sex_line: SexLine
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
        """Lengths of one person. What was read in the photos: `front` (INPUTS,), `side` (SIDE_INPUTS,)."""
        looked = self._look(front, height_cm, gender, side)
        body, ease, familiar = self._over_sexes(front, height_cm, None, gender, looked)
        before = self.population.without_photo(height_cm, None, gender)
        narrowing = 1 - np.mean([body.spread(name) / before.spread(name) for name in GIRTHS])
        trust = familiar * float(np.clip(narrowing / self.best_narrowing, 0.0, 1.0))
        doubt = 0.0
        if weight_kg is not None:
            weighed = self.population.without_photo(height_cm, weight_kg, gender)
            disagreement = max(
                abs(body.value(name) - weighed.value(name))
                / math.hypot(body.spread(name), weighed.spread(name))
                for name in GIRTHS
            )
            doubt = float(np.interp(disagreement, DOUBTED, (0.0, 1.0)))
            by_photo = body.mean
            body, ease, _ = self._over_sexes(front, height_cm, weight_kg, gender, looked)
            body = body.widened(doubt * REACH * (by_photo - body.mean))
        return PhotoEstimate(body, trust, ease, doubt)

    def _look(
        self, front: Array, height_cm: float, gender: Gender | None, side: Array | None
    ) -> dict[Gender, list[Seen]]:
        """What is seen in the photos, the front first, if it is somebody of each sex that is possible."""
        sexes = list(self.population.sex_shares(height_cm, None, gender))
        unweighed = np.array([self.population.sexes[sex].people(height_cm, None).mean for sex in sexes])
        photos = [_read(self.front_reader, front, unweighed)]
        if side is not None:
            photos.append(_read(self.side_reader, side, unweighed))
        return dict(zip(sexes, (list(seen) for seen in zip(*photos, strict=True)), strict=True))

    def _over_sexes(
        self,
        front: Array,
        height_cm: float,
        weight_kg: float | None,
        gender: Gender | None,
        looked: Mapping[Gender, Sequence[Seen]],
    ) -> tuple[Posterior, float, float]:
        """The posterior, and ease and familiarity of the front photo, over the sexes that are possible."""
        likely = self.population.sex_shares(height_cm, weight_kg, gender)
        parts = [self._of_one_sex(front, height_cm, weight_kg, sex, looked[sex]) for sex in likely]
        fronts = [looked[sex][0] for sex in likely]
        shares = list(likely.values())
        if len(shares) == len(SEXES):
            familiar = float(np.average([seen.familiar for seen in fronts], weights=shares))
            log_odds = self.sex_line.log_odds(self.front_reader.process.space, front, familiar)
            shares = weighed_by_log_odds(shares, log_odds)
        ease = float(np.average([seen.ease for seen in fronts], weights=shares))
        familiar = float(np.average([seen.familiar for seen in fronts], weights=shares))
        return mixed(shares, parts), ease, familiar

    def _of_one_sex(
        self, front: Array, height_cm: float, weight_kg: float | None, sex: Gender, seen: Sequence[Seen]
    ) -> Posterior:
        weighed = weight_kg is not None
        known = self.population.sexes[sex].people(height_cm, weight_kg)
        body = seen_by(self.front[weighed], front, seen[:1], known, sex)
        if len(seen) == 1:
            return body
        both = seen_by(self.side[weighed], front, seen, known, sex)
        # A profile says little about some lengths, such as the shoulders' breadth; there the front alone
        # knows better, and its mean is taken along with its spread.
        spread, alone = np.sqrt(np.diag(both.covariance)), np.sqrt(np.diag(body.covariance))
        share = np.clip(0.5 + 0.5 * np.log(alone / spread) / math.log(SURELY_BETTER), 0.0, 1.0)
        mean = share * both.mean + (1 - share) * body.mean
        spreads = np.minimum(spread, alone)
        covariance = self.side[weighed].correlations * np.outer(spreads, spreads)
        return Posterior(both.weights, mean[None], covariance[None])


def seen_by(step: Step, front: Array, seen: Sequence[Seen], known: Posterior, sex: Gender) -> Posterior:
    """`known` of somebody of this sex, corrected by what was `seen` in the photos, the front first. `front`
    (INPUTS,)."""
    ease = np.array([np.mean([photo.ease for photo in seen])])
    familiar = np.array([min(photo.familiar for photo in seen)])
    expected = known.mean[None]
    added = seen[0].lengths
    if step.correction is not None:
        numbers = numbers_read(
            front[None, INPUTS.index("height")],
            np.array([SEXES.index(sex)]),
            (seen[0].expected + seen[0].lengths)[None],
            *(photo.widths[None] for photo in seen),
        )
        added = step.correction(numbers, expected)[0][0]
    terms = quality_terms(front[None], ease, expected, familiar)[0]
    return narrowed(step, added, known, sex, terms)


def _read(reader: Correction | Reader, inputs: Array, unweighed: Array) -> list[Seen]:
    """One for each row of `unweighed` (n, 5). `inputs` (INPUTS or SIDE_INPUTS,)."""
    outputs, familiar = reader(np.tile(inputs, (len(unweighed), 1)), unweighed)
    return [
        Seen(expected, row[: -len(WIDTHS)], row[-len(WIDTHS) :], float(alike))
        for expected, row, alike in zip(unweighed, outputs, familiar, strict=True)
    ]


def load_method() -> Method:
    """The method that ships with this package. Raises ValueError when its files belong to other code."""
    folder = files("wearon_sizing")
    document = json.loads(folder.joinpath("method.json").read_text())
    arrays: dict[str, Array] = {}
    for name in ("front", "front_nets", "side"):
        with np.load(io.BytesIO(folder.joinpath(f"{name}.npz").read_bytes())) as kept:
            arrays |= dict(kept)
    return method_from(document, arrays)


def method_from(document: Mapping[str, Any], arrays: Mapping[str, Array]) -> Method:
    """`document` as in method.json, `arrays` by name. Raises ValueError when they belong to other code."""
    if (tuple(document["inputs"]), tuple(document["quality"])) != (SIDE_INPUTS, QUALITY):
        raise ValueError("method.json was fitted on other inputs than this code reads; run make calibrate")

    def step(kind: str, weighed: bool) -> Step:
        name = f"{kind}_{'weight' if weighed else 'height'}"
        part = document["steps"][name]
        return Step(
            correction_from(arrays, name) if kind == "side" or weighed else None,
            np.array(part["credit"]),
            np.array(part["offsets"]),
            np.array(part["spread"]),
            np.array(part["correlations"]),
        )

    return Method(
        version=str(document["version"]),
        population=load_population(),
        front_reader=Reader(correction_from(arrays, "front"), nets_from(arrays, "nets")),
        side_reader=correction_from(arrays, "side"),
        sex_line=SexLine(np.asarray(arrays["sex_slopes"], np.float64), float(arrays["sex_start"])),
        front={weighed: step("front", weighed) for weighed in (False, True)},
        side={weighed: step("side", weighed) for weighed in (False, True)},
        best_narrowing=float(document["best_narrowing"]),
        body_type_edges=document["body_types"],
    )
