"""The table of models: what is sent to which, and what is refused at start."""

from __future__ import annotations

from decimal import Decimal

import pytest

from wearon_generator.models import DEFAULT_MODEL, MODELS, find_model
from wearon_generator.prices import Price


def test_every_model_takes_its_own_defaults() -> None:
    for model in MODELS.values():
        assert model.objections(model.default_quality, model.default_size) == {}


def test_every_successor_is_a_model_that_has_no_announced_end() -> None:
    for model in MODELS.values():
        assert MODELS[model.successor].ends is None


@pytest.mark.parametrize("name", ["gpt-image-2.6-sunburst", "gpt-image-2.6-flare", "gpt-image-2"])
def test_prices_are_those_of_openais_list(name: str) -> None:
    assert MODELS[name].price == Price(Decimal(5), Decimal(8), Decimal(30), Decimal(30))


def test_complexity_is_sent_only_to_a_model_that_takes_it() -> None:
    common = {"quality": "medium", "size": "1024x1536"}
    assert find_model(DEFAULT_MODEL).fields(None, None, "high") == {**common, "complexity": "high"}
    assert find_model("gpt-image-2.5-flare").fields(None, None, "high") == common
    assert find_model(DEFAULT_MODEL).fields(None, None, None) == common


def test_unknown_model_gets_the_common_fields_and_has_no_price() -> None:
    model = find_model("gpt-image-9")
    assert model.price is None
    assert model.fields("huge", "64x64", "high") == {"quality": "huge", "size": "64x64"}


@pytest.mark.parametrize(
    ("name", "quality", "size", "wrong"),
    [
        ("gpt-image-2.6-flare", "max", None, set()),
        ("gpt-image-2", "max", None, {"quality"}),
        ("gpt-image-2", "ultra", "big", {"quality", "size"}),
        ("gpt-image-2", None, "1024x1536", set()),
        ("gpt-image-2", None, "1024x1024", set()),
        ("gpt-image-2", None, "640x1024", set()),
        ("gpt-image-2", None, "624x1024", {"size"}),
        ("gpt-image-2", None, "1000x1000", {"size"}),
        ("gpt-image-2", None, "512x1552", {"size"}),
        ("gpt-image-2", None, "496x1440", {"size"}),
        ("gpt-image-2", None, "2880x2880", set()),
        ("gpt-image-2", None, "2896x2880", {"size"}),
        ("gpt-image-2", None, "01024x1024", {"size"}),
        ("gpt-image-1.5", None, "1152x1536", {"size"}),
        ("gpt-image-9", "ultra", "huge", set()),
    ],
)
def test_what_a_model_refuses_is_found_at_start(
    name: str, quality: str | None, size: str | None, wrong: set[str]
) -> None:
    assert set(find_model(name).objections(quality, size)) == wrong


def test_value_that_a_fallback_refuses_becomes_its_default() -> None:
    assert find_model("gpt-image-2").fields("max", "1152x1536", None)["quality"] == "medium"
