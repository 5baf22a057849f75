"""The fitted method, on rendered people whose girths are known."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from wearon_contracts.sizing import BodyType, Gender
from wearon_sizing.body_types import body_type
from wearon_sizing.measuring import GIRTHS, MEASURED, Method, method_from
from wearon_sizing.pose import Landmarker
from wearon_sizing.silhouette import FEATURES, measure_silhouette
from wearon_sizing.sizing import WEIGHT_NOT_USED, Shopper, assess, find_person

from .studio import SITTERS, Sitter, pixels

# Three times the mean absolute error from height alone, rounded up: what a person may be off.
WITHIN = {"chest_cm": 10.0, "waist_cm": 9.0, "hip_cm": 8.0, "shoulder_cm": 2.5}


def test_every_sitter_is_measured_about_right(landmarker: Landmarker, method: Method, sitter: Sitter) -> None:
    assessment = assess(find_person(landmarker, pixels(sitter.picture)), Shopper(sitter.height), method)
    for name, measurement in assessment.measurements.items():
        assert abs(measurement.value - sitter.truth[name]) < WITHIN[name], name
        lower, upper = measurement.interval
        assert lower < measurement.value < upper


def test_a_weight_is_used_and_makes_the_girths_more_certain(
    landmarker: Landmarker, method: Method, sitter: Sitter
) -> None:
    person = find_person(landmarker, pixels(sitter.picture))
    plain = assess(person, Shopper(sitter.height), method)
    weighed = assess(person, Shopper(sitter.height, sitter.weight), method)
    assert "weight_kg" in weighed.inputs_used
    assert "weight_kg" not in plain.inputs_used
    for name in GIRTHS:
        assert weighed.measurements[name].spread < plain.measurements[name].spread
        assert abs(weighed.measurements[name].value - sitter.truth[name]) < 0.8 * WITHIN[name]


def test_a_heavier_weight_means_larger_girths(landmarker: Landmarker, method: Method) -> None:
    person = find_person(landmarker, pixels(SITTERS[2].picture))
    light, heavy = (assess(person, Shopper(172.5, weight), method).measurements for weight in (60.0, 75.0))
    assert all(light[name].value + 1 < heavy[name].value for name in GIRTHS)


def test_a_weight_that_cannot_be_is_not_used(landmarker: Landmarker, method: Method) -> None:
    sitter = SITTERS[0]
    person = find_person(landmarker, pixels(sitter.picture))
    plain = assess(person, Shopper(sitter.height), method)
    absurd = assess(person, Shopper(sitter.height, 250.0), method)
    assert absurd.measurements == plain.measurements
    assert WEIGHT_NOT_USED in absurd.warnings
    assert "weight_kg" not in absurd.inputs_used


def test_measurements_grow_with_the_height(landmarker: Landmarker, method: Method) -> None:
    person = find_person(landmarker, pixels(SITTERS[2].picture))
    short, tall = (assess(person, Shopper(height), method).measurements for height in (160.0, 190.0))
    assert all(short[name].value < tall[name].value for name in MEASURED)


def test_the_same_picture_gives_the_same_numbers(landmarker: Landmarker, method: Method) -> None:
    picture = pixels(SITTERS[1].picture)
    first, second = (
        assess(find_person(landmarker, picture), Shopper(161.0), method).measurements for _ in range(2)
    )
    assert first == second


def test_the_fitted_numbers_carry_their_provenance_and_errors() -> None:
    document = json.loads(files("wearon_sizing").joinpath("method.json").read_text())
    provenance = document["provenance"]
    assert provenance["written_by"].endswith("calibrate.py")
    assert provenance["population"]["people"] == 6068
    for part in ("height_only", "with_weight"):
        errors = provenance["cross_validated"][part]["mean_absolute_cm"]
        assert set(errors) == set(MEASURED)
        assert 0 < errors["shoulder_cm"] < errors["chest_cm"] < 4.0


def test_numbers_fitted_on_other_features_are_refused() -> None:
    document = json.loads(files("wearon_sizing").joinpath("method.json").read_text())
    with pytest.raises(ValueError, match="make calibrate"):
        method_from({**document, "features": document["features"][1:]})


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
