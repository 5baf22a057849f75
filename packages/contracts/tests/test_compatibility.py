from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from wearon_contracts.compatibility import breaking_changes
from wearon_contracts.schemas import MESSAGES, json_schema


def _enum(name: str, *values: str) -> Any:
    make: Any = StrEnum
    return make(name, {value.upper(): value for value in values})


COLOURS = _enum("Colour", "red", "blue")
MORE_COLOURS = _enum("Colour", "red", "blue", "green")
CODES = _enum("ErrorCode", "stuck")
MORE_CODES = _enum("ErrorCode", "stuck", "lost")
SMALL = create_model("Part", a=int)
LARGE = create_model("Part", a=int, b=int)
CLOSED = create_model("Part", __config__=ConfigDict(extra="forbid"), a=int)
CLOSED_LARGE = create_model("Part", __config__=ConfigDict(extra="forbid"), a=int, b=(int | None, None))

BASE: dict[str, Any] = {
    "name": (str, ...),
    "note": (str | None, None),
    "amount": (Annotated[int, Field(ge=1, le=10)], 5),
    "colour": (COLOURS, ...),
    "code": (CODES, ...),
    "tags": (Annotated[list[str], Field(min_length=1, max_length=3)], ...),
    "word": (Annotated[str, Field(pattern="^[a-z]+$", max_length=9)], ...),
    "kind": (Literal["x", "y"], "x"),
    "version": (Literal[1], 1),
    "part": (SMALL, ...),
    "table": (dict[Literal["x", "y"], int], ...),
}


def _schema(**changes: Any) -> dict[str, Any]:
    fields = {key: field for key, field in {**BASE, **changes}.items() if field is not None}
    model: type[BaseModel] = create_model("Note", **fields)
    return model.model_json_schema()


def _found(*, read: bool = False, written: bool = False, **changes: Any) -> list[str]:
    return [str(c) for c in breaking_changes(_schema(), _schema(**changes), read=read, written=written)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"note": None}, "note: property was there, is gone"),
        ({"title": (str, ...)}, "title: required was no, is yes"),
        ({"note": (str | None, ...)}, "note: required was no, is yes"),
        ({"name": (int, ...)}, "name: type was string, is integer"),
        ({"note": (str, "")}, "note: type was null, is string"),
        ({"amount": (Annotated[int, Field(ge=2, le=10)], 5)}, "amount: minimum was 1, is 2"),
        ({"amount": (Annotated[int, Field(ge=1, le=9)], 5)}, "amount: maximum was 10, is 9"),
        (
            {"tags": (Annotated[list[str], Field(min_length=2, max_length=3)], ...)},
            "tags: minItems was 1, is 2",
        ),
        (
            {"tags": (Annotated[list[str], Field(min_length=1, max_length=2)], ...)},
            "tags: maxItems was 3, is 2",
        ),
        (
            {"tags": (Annotated[list[int], Field(min_length=1, max_length=3)], ...)},
            "tags.items: type was string, is integer",
        ),
        ({"name": (Annotated[str, Field(max_length=5)], ...)}, "name: maxLength was absent, is 5"),
        (
            {"word": (Annotated[str, Field(pattern="^[a-f]+$", max_length=9)], ...)},
            "word: pattern was ^[a-z]+$, is ^[a-f]+$",
        ),
        ({"kind": (Literal["x"], "x")}, "kind: values was ['x', 'y'], is ['x']"),
        ({"version": (Literal[2], 2)}, "version: values was [1], is [2]"),
        ({"name": (Literal["x"], "x")}, "name: values was any, is ['x']"),
        ({"part": (LARGE, ...)}, "part.b: required was no, is yes"),
        ({"part": (CLOSED, ...)}, "part: other keys was welcome, is refused"),
        ({"table": (dict[Literal["x"], int], ...)}, "table: propertyNames was"),
        ({"table": (dict[Literal["x", "y"], str], ...)}, "table.*: type was integer, is string"),
    ],
)
def test_a_message_that_others_write_must_stay_as_welcome(changes: dict[str, Any], told: str) -> None:
    assert any(line.startswith(told) for line in _found(read=True, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"title": (str | None, None)},
        {"name": (str | None, None)},
        {"amount": (Annotated[float, Field(ge=0, le=11)], 5)},
        {"amount": (int, 5)},
        {"colour": (MORE_COLOURS, ...)},
        {"tags": (list[str], ["a"])},
        {"word": (str, ...)},
        {"kind": (Literal["x", "y", "z"], "x")},
        {"version": (Literal[1] | None, 1)},
        {"table": (dict[str, int], ...)},
    ],
)
def test_a_message_that_others_write_may_become_more_welcome(changes: dict[str, Any]) -> None:
    assert _found(read=True, **changes) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": None}, "name: property was there, is gone"),
        ({"name": (str, "")}, "name: required was yes, is no"),
        ({"name": (str | None, ...)}, "name: type was string, is null"),
        ({"colour": (MORE_COLOURS, ...)}, "colour: values was ['red', 'blue'], is ['red', 'blue', 'green']"),
        ({"amount": (Annotated[int, Field(ge=1, le=11)], 5)}, "amount: maximum was 10, is 11"),
        ({"amount": (Annotated[float, Field(ge=1, le=10)], 5)}, "amount: type was integer, is number"),
        ({"word": (Annotated[str, Field(max_length=9)], ...)}, "word: pattern was ^[a-z]+$, is absent"),
    ],
)
def test_a_message_that_others_read_must_stay_as_promised(changes: dict[str, Any], told: str) -> None:
    assert told in _found(written=True, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"title": (str, ...)},
        {"note": (str | None, ...)},
        {"code": (MORE_CODES, ...)},
        {"kind": (Literal["x"], "x")},
        {"amount": (Annotated[int, Field(ge=2, le=9)], 5)},
        {"part": (LARGE, ...)},
    ],
)
def test_a_message_that_others_read_may_promise_more(changes: dict[str, Any]) -> None:
    assert _found(written=True, **changes) == []


def test_a_key_is_not_added_to_an_object_whose_readers_refuse_others() -> None:
    published, current = _schema(part=(CLOSED, ...)), _schema(part=(CLOSED_LARGE, ...))
    found = breaking_changes(published, current, read=False, written=True)
    assert [str(change) for change in found] == ["part.b: property was refused, is there"]


MEASURED = create_model("Measurements", __config__=ConfigDict(extra="forbid"), chest_cm=float)
WITH_INSEAM: dict[str, Any] = {"chest_cm": float, "inseam_cm": (float | None, None)}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (WITH_INSEAM, []),
        ({**WITH_INSEAM, "inseam_cm": float}, ["part.inseam_cm: property was refused, is there"]),
        (
            {**WITH_INSEAM, "thigh_cm": (float | None, None)},
            ["part.thigh_cm: property was refused, is there"],
        ),
    ],
)
def test_response_may_gain_the_optional_measurements_that_the_apps_client_takes(
    fields: dict[str, Any], told: list[str]
) -> None:
    grown = create_model("Measurements", __config__=ConfigDict(extra="forbid"), **fields)
    published, current = _schema(part=(MEASURED, ...)), _schema(part=(grown, ...))
    found = breaking_changes(published, current, read=False, written=True)
    assert [str(change) for change in found] == told


def test_a_rule_between_fields_is_compared_as_a_whole() -> None:
    rule = {"allOf": [{"if": {"properties": {"kind": {"const": "x"}}}, "then": {"required": ["note"]}}]}
    found = breaking_changes(_schema(), {**_schema(), **rule}, read=True, written=False)
    assert [change.rule for change in found] == ["allOf"]


def test_a_keyword_it_does_not_know_stops_the_comparison() -> None:
    odd = _schema()
    odd["properties"]["name"]["contentEncoding"] = "base64"
    with pytest.raises(ValueError, match=r"name: cannot compare the keywords \['contentEncoding'\]"):
        breaking_changes(odd, odd, read=True, written=True)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_no_message_breaks_with_itself(message: Any) -> None:
    schema = json_schema(message)
    assert breaking_changes(schema, schema, read=True, written=True) == []
