"""What is said of a body of which only height, and perhaps sex and weight, are known."""

from __future__ import annotations

import numpy as np
import pytest

from wearon_contracts.sizing import Gender
from wearon_sizing.population import LENGTHS, load_population, mixed, outside_population

POPULATION = load_population()


def test_weight_narrows_every_girth() -> None:
    for gender in (Gender.FEMALE, Gender.MALE, None):
        known = POPULATION.without_photo(170, 70, gender)
        guessed = POPULATION.without_photo(170, None, gender)
        for name in ("chest_cm", "waist_cm", "hip_cm"):
            assert known.spread(name) < 0.75 * guessed.spread(name)


def test_every_kilogram_adds_girth_up_to_the_heaviest() -> None:
    means = [POPULATION.without_photo(170, weight, Gender.FEMALE).mean[:3] for weight in range(40, 200, 5)]
    assert (np.diff(means, axis=0) > 0).all()


def test_unknown_sex_lies_between_women_and_men_and_is_less_certain_of_shoulders() -> None:
    women, men, either = (
        POPULATION.without_photo(170, 70, gender) for gender in (Gender.FEMALE, Gender.MALE, None)
    )
    assert women.value("shoulder_cm") < either.value("shoulder_cm") < men.value("shoulder_cm")
    assert either.spread("shoulder_cm") > max(women.spread("shoulder_cm"), men.spread("shoulder_cm"))
    assert POPULATION.without_photo(170, 70, Gender.OTHER).mean == pytest.approx(either.mean)


def test_tall_people_of_unknown_sex_are_taken_for_men() -> None:
    shares = POPULATION.sex_shares(192, 90, None)
    assert shares[Gender.MALE] > 0.95
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("weight", [None, 45.0, 75.0, 160.0])
def test_interval_holds_as_much_as_it_says(weight: float | None) -> None:
    known = POPULATION.without_photo(172, weight)
    for name in LENGTHS:
        lower, upper = known.interval(name)
        assert known.below(name, upper) - known.below(name, lower) == pytest.approx(0.8, abs=1e-6)
        assert lower < known.quantile(name, 0.5) < upper


def test_widening_keeps_the_mean_and_adds_what_is_doubted() -> None:
    known = POPULATION.without_photo(172, None)
    doubted = np.array([3.0, 4.0, -2.0, 0.0, 1.0])
    wide = known.widened(doubted)
    assert wide.mean == pytest.approx(known.mean)
    assert wide.covariance == pytest.approx(known.covariance + np.outer(doubted, doubted))


def test_mixture_of_one_and_the_same_is_that_one() -> None:
    known = POPULATION.without_photo(172, 80, Gender.MALE)
    assert mixed([3, 1], [known, known]).covariance == pytest.approx(known.covariance)


@pytest.mark.parametrize(
    ("height", "weight", "outside"),
    [
        (170, None, False),
        (170, 70, False),
        (130, None, True),
        (210, 90, True),
        (170, 40, True),
        (170, 170, True),
    ],
)
def test_bodies_beyond_the_surveys_are_told(height: float, weight: float | None, outside: bool) -> None:
    assert outside_population(height, weight) is outside
