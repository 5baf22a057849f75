"""Letter sizes from chest girths, known and uncertain."""

from __future__ import annotations

import numpy as np
import pytest

from wearon_contracts.sizing import FitPreference, Gender, Size
from wearon_sizing.population import LENGTHS, Posterior, PosteriorLength
from wearon_sizing.sizes import RANGE_PROBABILITY, SIZES, advise, likelihoods, size_of


def girth(value: float, spread: float) -> PosteriorLength:
    """A chest girth with this mean and standard deviation in cm."""
    covariance = np.eye(len(LENGTHS)) * spread**2
    body = Posterior(np.ones(1), np.full((1, len(LENGTHS)), value), covariance[None])
    return PosteriorLength(body, "chest_cm")


@pytest.mark.parametrize(
    ("chest", "gender", "size"),
    [
        (60, Gender.MALE, Size.XS),
        (85.9, Gender.MALE, Size.XS),
        (86, Gender.MALE, Size.S),
        (93.99, Gender.MALE, Size.S),
        (94, Gender.MALE, Size.M),
        (102, Gender.MALE, Size.L),
        (110, Gender.MALE, Size.XL),
        (118, Gender.MALE, Size.XXL),
        (180, Gender.MALE, Size.XXL),
        (81.9, Gender.FEMALE, Size.XS),
        (82, Gender.FEMALE, Size.S),
        (90, Gender.FEMALE, Size.M),
        (98, Gender.FEMALE, Size.L),
        (107, Gender.FEMALE, Size.XL),
        (119, Gender.FEMALE, Size.XXL),
        (84, Gender.OTHER, Size.XS),
        (84, None, Size.XS),
        (84, Gender.FEMALE, Size.S),
    ],
)
def test_a_lower_edge_belongs_to_its_band_and_mens_bands_serve_the_rest(
    chest: float, gender: Gender | None, size: Size
) -> None:
    assert size_of(chest, gender) is size


@pytest.mark.parametrize("spread", [0.5, 3.0, 9.0])
@pytest.mark.parametrize("chest", [70.0, 86.0, 98.0, 109.0, 125.0])
def test_likelihoods_add_up_and_the_range_is_the_smallest_that_holds_enough(
    chest: float, spread: float
) -> None:
    measurement = girth(chest, spread)
    chances = likelihoods(measurement, Gender.MALE)
    advice = advise(measurement, Gender.MALE)
    lower, upper = SIZES.index(advice.lower), SIZES.index(advice.upper)
    assert sum(chances) == pytest.approx(1)
    assert advice.confidence == max(chances)
    assert sum(chances[lower : upper + 1]) >= RANGE_PROBABILITY
    if upper > lower:
        assert min(sum(chances[lower + 1 : upper + 1]), sum(chances[lower:upper])) < RANGE_PROBABILITY


def test_confidence_falls_where_a_band_ends() -> None:
    middle, edge = (advise(girth(chest, 3.0), Gender.MALE) for chest in (98.0, 102.0))
    assert middle.confidence > 0.8 > 0.55 > edge.confidence
    assert middle.lower is middle.upper is Size.M
    assert (edge.lower, edge.upper) == (Size.M, Size.L)


def test_the_fit_decides_only_between_sizes_that_are_nearly_as_likely() -> None:
    between, clear = girth(101.5, 3.0), girth(98.0, 3.0)
    assert advise(between, Gender.MALE, FitPreference.REGULAR).size is Size.M
    assert advise(between, Gender.MALE, FitPreference.TIGHT).size is Size.M
    loose = advise(between, Gender.MALE, FitPreference.LOOSE)
    assert loose.size is Size.L
    assert loose.confidence == likelihoods(between, Gender.MALE)[SIZES.index(Size.L)]
    assert advise(clear, Gender.MALE, FitPreference.LOOSE).size is Size.M
    assert advise(girth(60.0, 3.0), None, FitPreference.TIGHT).size is Size.XS
