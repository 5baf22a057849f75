"""The fitted method, on rendered people whose girths are known."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest

from wearon_contracts.errors import ErrorCode
from wearon_contracts.sizing import BodyType, Gender
from wearon_sizing.body_types import body_type
from wearon_sizing.inputs import INPUTS, SIDE_INPUTS, read_photo
from wearon_sizing.measuring import GIRTHS, MOST_SEX_LOG_ODDS, Method, method_from, weighed_by_log_odds
from wearon_sizing.population import LENGTHS
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import FEATURES, measure_silhouette
from wearon_sizing.sizing import (
    SIDE_NOT_USED,
    WEIGHT_CONTRADICTS,
    WEIGHT_HELPS,
    PhotoRefusedError,
    Shopper,
    assess,
    find_person,
    find_side_person,
)
from wearon_sizing.torso import ROWS

from .studio import PAIR, PAIR_SIDE, SITTERS, Sitter, pixels

# Three times the mean absolute error from height alone, rounded up: what a person may be off.
WITHIN = {"chest_cm": 10.0, "waist_cm": 9.0, "hip_cm": 8.0, "shoulder_cm": 2.5}


def test_every_sample_body_is_measured_within_its_tolerance(
    landmarker: Landmarker, method: Method, sitter: Sitter
) -> None:
    assessment = assess(find_person(landmarker, pixels(sitter.picture)), Shopper(sitter.height), method)
    for name, truth in sitter.truth.items():
        value = assessment.body.value(name)
        assert abs(value - truth) < WITHIN[name], name
        lower, upper = assessment.body.interval(name)
        assert lower < value < upper


def test_a_weight_is_used_and_makes_the_girths_more_certain(
    landmarker: Landmarker, method: Method, sitter: Sitter
) -> None:
    person = find_person(landmarker, pixels(sitter.picture))
    plain = assess(person, Shopper(sitter.height), method)
    weighed = assess(person, Shopper(sitter.height, sitter.weight), method)
    assert "weight_kg" in weighed.inputs_used
    assert "weight_kg" not in plain.inputs_used
    for name in GIRTHS:
        assert weighed.body.spread(name) < plain.body.spread(name)
        assert abs(weighed.body.value(name) - sitter.truth[name]) < 0.6 * WITHIN[name]


def test_a_heavier_weight_means_larger_girths(landmarker: Landmarker, method: Method) -> None:
    person = find_person(landmarker, pixels(SITTERS[2].picture))
    light, heavy = (assess(person, Shopper(172.5, weight), method).body for weight in (60.0, 75.0))
    assert all(light.value(name) + 1 < heavy.value(name) for name in GIRTHS)


def test_a_weight_that_cannot_be_widens_the_ranges_and_is_said(
    landmarker: Landmarker, method: Method
) -> None:
    sitter = SITTERS[0]
    person = find_person(landmarker, pixels(sitter.picture))
    fitting = assess(person, Shopper(sitter.height, sitter.weight), method)
    absurd = assess(person, Shopper(sitter.height, 95.0), method)
    assert WEIGHT_CONTRADICTS in absurd.warnings
    assert WEIGHT_CONTRADICTS not in fitting.warnings
    assert "weight_kg" in absurd.inputs_used
    alone = assess(person, Shopper(sitter.height), method)
    for name in GIRTHS:
        assert absurd.body.spread(name) > 1.2 * fitting.body.spread(name)
        # One of the two is wrong, and nobody knows which: the interval reaches from the one to the other.
        lower, upper = absurd.body.interval(name)
        assert lower < alone.body.value(name) < upper


def test_doubt_about_the_weight_grows_in_small_steps(landmarker: Landmarker, method: Method) -> None:
    sitter = SITTERS[0]
    reading = read_photo(find_person(landmarker, pixels(sitter.picture)), sitter.height)
    found = [
        method.estimate(reading.values, sitter.height, weight)
        for weight in np.arange(sitter.weight, 1.6 * sitter.weight, 0.25).tolist()
    ]
    doubts = [each.doubt for each in found]
    assert (doubts[0], doubts[-1]) == (0.0, 1.0)
    assert max(np.diff(doubts)) < 0.1
    spreads = [each.body.spread("waist_cm") for each in found]
    assert max(np.diff(spreads)) < 0.5
    assert [each.contradicts for each in found] == [each > 0.5 for each in doubts]


@pytest.mark.parametrize("weight", [None, 70.0])
@pytest.mark.parametrize("sex", [None, Gender.FEMALE, Gender.MALE])
def test_a_photo_unlike_any_other_leaves_what_is_known_without_it(
    method: Method, weight: float | None, sex: Gender | None
) -> None:
    absurd = np.where(np.arange(len(INPUTS)) % 2, 1e6, -1e6)
    absurd[INPUTS.index("height")] = 170.0
    found = method.estimate(absurd, 170.0, weight, sex)
    known = method.population.without_photo(170.0, weight, sex)
    assert found.trust < 0.05
    for name in LENGTHS:
        assert found.body.value(name) == pytest.approx(known.value(name), abs=0.5)
        assert found.body.spread(name) == pytest.approx(known.spread(name), rel=0.03)


def test_a_side_photo_narrows_the_girths_and_comes_closer(landmarker: Landmarker, method: Method) -> None:
    person = find_person(landmarker, pixels(PAIR.picture))
    side = find_side_person(landmarker, pixels(PAIR_SIDE))
    shopper = Shopper(PAIR.height, gender=Gender.FEMALE if PAIR.female else Gender.MALE)
    alone, both = assess(person, shopper, method), assess(person, shopper, method, side)
    assert "side_image_url" in both.inputs_used
    assert both.photo_trust >= alone.photo_trust
    one, other = (sum(each.body.spread(name) for name in GIRTHS) for each in (alone, both))
    assert other < one
    for name in GIRTHS:
        assert both.body.spread(name) <= alone.body.spread(name)
        assert abs(both.body.value(name) - PAIR.truth[name]) < 0.6 * WITHIN[name]


def test_girths_grow_smoothly_with_the_weight_beside_a_side_photo(
    landmarker: Landmarker, method: Method
) -> None:
    front = read_photo(find_person(landmarker, pixels(PAIR.picture)), PAIR.height).values
    side = read_photo(find_side_person(landmarker, pixels(PAIR_SIDE)), PAIR.height).profile
    gender = Gender.FEMALE if PAIR.female else Gender.MALE
    weights = np.arange(0.85, 1.15, 0.005) * PAIR.weight
    bodies = [method.estimate(front, PAIR.height, weight, gender, side).body for weight in weights]
    for name in GIRTHS:
        steps = np.diff([body.value(name) for body in bodies])
        assert (steps > 0).all() and (steps < 0.6).all(), name


def test_a_side_photo_reads_the_same_whichever_way_the_person_faces(
    landmarker: Landmarker,
) -> None:
    one, other = (
        read_photo(find_side_person(landmarker, np.ascontiguousarray(picture)), PAIR.height).profile
        for picture in (pixels(PAIR_SIDE), pixels(PAIR_SIDE)[:, ::-1])
    )
    starts = (SIDE_INPUTS.index(f"{edge}_{ROWS[0]:.2f}") for edge in ("front", "back"))
    front, back = (slice(start, start + len(ROWS)) for start in starts)
    assert np.abs(one[front] - one[back]).mean() > 3, "these must be able to be told apart"
    assert np.abs(one[front] - other[front]).mean() < 1
    assert np.abs(one[back] - other[back]).mean() < 1


@pytest.mark.parametrize("weight", [None, 70.0])
@pytest.mark.parametrize("sex", [None, Gender.FEMALE if PAIR.female else Gender.MALE])
def test_a_side_photo_unlike_any_other_leaves_what_the_front_says(
    landmarker: Landmarker, method: Method, weight: float | None, sex: Gender | None
) -> None:
    person = find_person(landmarker, pixels(PAIR.picture))
    front = assess(person, Shopper(PAIR.height, weight, sex), method).reading.values
    absurd = np.where(np.arange(len(SIDE_INPUTS)) % 2, 1e6, -1e6)
    absurd[INPUTS.index("height")] = PAIR.height
    alone = method.estimate(front, PAIR.height, weight, sex)
    both = method.estimate(front, PAIR.height, weight, sex, absurd)
    assert both.body.mean == pytest.approx(alone.body.mean, abs=0.05)
    assert both.trust == pytest.approx(alone.trust, abs=0.01)
    for name in LENGTHS:
        assert both.body.spread(name) == pytest.approx(alone.body.spread(name), rel=0.01)


def test_a_side_photo_that_cannot_be_used_is_left_out_and_said(
    landmarker: Landmarker, method: Method
) -> None:
    person = find_person(landmarker, pixels(PAIR.picture))
    with pytest.raises(PhotoRefusedError) as refused:
        find_side_person(landmarker, pixels(PAIR.picture))
    assert refused.value.code is ErrorCode.NOT_IN_PROFILE
    found = assess(person, Shopper(PAIR.height), method, refused.value.code)
    assert found.body.mean == pytest.approx(assess(person, Shopper(PAIR.height), method).body.mean)
    assert any(warning.startswith(SIDE_NOT_USED) for warning in found.warnings)
    assert "side_image_url" not in found.inputs_used


def test_without_a_weight_the_weight_is_what_would_help_most(landmarker: Landmarker, method: Method) -> None:
    person = find_person(landmarker, pixels(PAIR.picture))
    plain, weighed = (assess(person, Shopper(PAIR.height, kg), method) for kg in (None, PAIR.weight))
    assert WEIGHT_HELPS in plain.warnings
    assert WEIGHT_HELPS not in weighed.warnings
    assert 0 < plain.photo_trust <= 1


def test_odds_of_a_photo_shift_the_shares_of_the_sexes() -> None:
    assert weighed_by_log_odds([0.5, 0.5], 0.0) == pytest.approx([0.5, 0.5])
    assert weighed_by_log_odds([0.5, 0.5], np.log(3)) == pytest.approx([0.25, 0.75])
    assert weighed_by_log_odds([0.9, 0.1], -np.log(2)) == pytest.approx([18 / 19, 1 / 19])
    assert weighed_by_log_odds([1.0, 0.0], 4.0) == pytest.approx([1.0, 0.0])


def test_a_photo_says_no_more_about_the_sex_than_its_limit_and_nothing_when_it_is_foreign(
    method: Method,
) -> None:
    space = method.front_reader.process.space
    far = space.mean + 1e6 * space.basis @ method.sex_line.slopes
    assert method.sex_line.log_odds(space, far, 1.0) == MOST_SEX_LOG_ODDS
    assert method.sex_line.log_odds(space, far, 0.0) == 0.0


def test_without_the_sex_a_photo_stands_in_for_it(
    landmarker: Landmarker, method: Method, sitter: Sitter
) -> None:
    person = find_person(landmarker, pixels(sitter.picture))
    gender = Gender.FEMALE if sitter.female else Gender.MALE
    blind, told = (
        assess(person, Shopper(sitter.height, sitter.weight, sex), method).body for sex in (None, gender)
    )
    for name in GIRTHS:
        assert abs(blind.value(name) - told.value(name)) < 0.5


def test_measurements_grow_with_the_height(landmarker: Landmarker, method: Method) -> None:
    person = find_person(landmarker, pixels(SITTERS[2].picture))
    short, tall = (assess(person, Shopper(height), method).body for height in (160.0, 190.0))
    assert all(short.value(name) < tall.value(name) for name in LENGTHS)


def test_the_same_picture_gives_the_same_numbers(landmarker: Landmarker, method: Method) -> None:
    picture = pixels(SITTERS[1].picture)
    first, second = (assess(find_person(landmarker, picture), Shopper(161.0), method).body for _ in range(2))
    assert (first.mean == second.mean).all()
    assert (first.covariance == second.covariance).all()


def test_the_fitted_numbers_carry_their_provenance() -> None:
    provenance = json.loads(files("wearon_sizing").joinpath("method.json").read_text())["provenance"]
    assert provenance["written_by"].endswith("calibrate.py")
    net = hashlib.sha256(files("wearon_sizing").joinpath("parts.onnx").read_bytes()).hexdigest()
    assert provenance["parts_net_sha256"] == net


def test_numbers_fitted_on_other_inputs_are_refused() -> None:
    document = json.loads(files("wearon_sizing").joinpath("method.json").read_text())
    with pytest.raises(ValueError, match="make calibrate"):
        method_from({**document, "inputs": document["inputs"][1:]}, {})


def test_the_height_is_the_first_feature(landmarker: Landmarker) -> None:
    person = find_person(landmarker, pixels(SITTERS[0].picture))
    assert FEATURES[0] == "height"
    assert measure_silhouette(person, 165.3).values[0] == 165.3


@pytest.mark.parametrize(
    ("chest", "waist", "word"),
    [
        (85.0, 66.0, BodyType.ATHLETIC),
        (82.0, 72.0, BodyType.SLIM),
        (96.0, 86.0, BodyType.AVERAGE),
        (118.0, 112.0, BodyType.BROAD),
    ],
)
def test_builds_are_told_apart_by_stoutness_and_drop(
    method: Method, chest: float, waist: float, word: BodyType
) -> None:
    assert body_type(175.0, chest, waist, None, method.body_type_edges) is word


def test_the_quartiles_of_the_shoppers_own_sex_count(method: Method) -> None:
    edges = method.body_type_edges
    assert edges["female"] != edges["male"] != edges["all"]
    assert body_type(170.0, 100.0, 92.0, Gender.OTHER, edges) is body_type(170.0, 100.0, 92.0, None, edges)
    # Broad among women, not among men.
    assert body_type(170.0, 105.0, 97.5, Gender.FEMALE, edges) is BodyType.BROAD
    assert body_type(170.0, 105.0, 97.5, Gender.MALE, edges) is BodyType.AVERAGE
