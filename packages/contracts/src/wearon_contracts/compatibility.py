"""Whether a message's schema may replace the one that was published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from wearon_contracts.schemas import JsonSchema

_ABSENT: Final = "absent"
_ANNOTATIONS: Final = {"$schema", "$defs", "title", "description", "default"}
_LOWER_LIMITS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_UPPER_LIMITS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_COMPARED_AS_A_WHOLE: Final = ("pattern", "format", "allOf", "propertyNames")
_COMPARED_IN_PARTS: Final = (
    *("type", "enum", "const", "anyOf", "$ref"),
    *("properties", "required", "additionalProperties", "items"),
)
_KNOWN: Final = _ANNOTATIONS.union(_LOWER_LIMITS, _UPPER_LIMITS, _COMPARED_AS_A_WHOLE, _COMPARED_IN_PARTS)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What readers take although it was published without it.

    `open_enums`: definitions whose values may grow. `later_keys`: optional keys that a definition without
    room for others (`additionalProperties: false`) may gain.
    """

    open_enums: frozenset[str] = frozenset()
    later_keys: Mapping[str, frozenset[str]] = field(default_factory=dict)


READERS: Final = Tolerance(
    open_enums=frozenset({"ErrorCode", "DeadLetterReason"}),
    # The application's client refuses every measurement but those published and these two.
    later_keys={"Measurements": frozenset({"inseam_cm", "height_cm"})},
)
_NONE: Final = Tolerance()


@dataclass(frozen=True, slots=True)
class BreakingChange:
    """A rule at `where` (a path of keys) that was `was` when published and is `now` something else."""

    where: str
    rule: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule} was {self.was}, is {self.now}"


def breaking_changes(
    published: JsonSchema, current: JsonSchema, *, read: bool, written: bool
) -> list[BreakingChange]:
    """What in `current` breaks with `published`, for a message others write (`read`) or read (`written`).

    A message others write must not be refused for what was welcome; one that others read must not bring what
    they never had to expect, nor leave out what they could rely on. A property that is gone breaks both.
    Raises ValueError for a JSON Schema keyword that this comparison does not know.
    """
    was, now = _Node(published, published), _Node(current, current)
    found = list(_lost_properties(was, now))
    if read:
        found += _refusals(was, now)
    if written:
        found += [replace(c, was=c.now, now=c.was) for c in _refusals(now, was, tolerance=READERS)]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a schema, with `$ref` followed; `path` is where it stands, `name` its definition's name."""

    schema: JsonSchema
    root: JsonSchema
    path: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if unknown := self.schema.keys() - _KNOWN:
            raise ValueError(f"{self.path or 'message'}: cannot compare the keywords {sorted(unknown)}")

    def get(self, keyword: str, default: Any = None) -> Any:
        return self.schema.get(keyword, default)

    def part(self, schema: JsonSchema, key: str = "") -> _Node:
        path = f"{self.path}.{key}".strip(".") if key else self.path
        if "$ref" not in schema:
            return _Node(schema, self.root, path)
        name = schema["$ref"].removeprefix("#/$defs/")
        return _Node(self.root["$defs"][name], self.root, path, name)

    def alternatives(self) -> list[_Node]:
        return [self.part(schema) for schema in self.get("anyOf", ())] or [self]

    def properties(self) -> dict[str, _Node]:
        return {key: self.part(schema, key) for key, schema in self.get("properties", {}).items()}

    def values(self) -> list[Any] | None:
        return [self.schema["const"]] if "const" in self.schema else self.get("enum")

    def change(self, rule: str, was: object, now: object) -> BreakingChange:
        return BreakingChange(self.path or "message", rule, str(was), str(now))


def _lost_properties(old: _Node, new: _Node) -> Iterator[BreakingChange]:
    for one in old.alternatives():
        for other in new.alternatives():
            here, there = one.properties(), other.properties()
            for key, node in here.items():
                if key not in there:
                    if other.get("type") == "object":
                        yield node.change("property", "there", "gone")
                else:
                    yield from _lost_properties(node, there[key])


def _refusals(giver: _Node, taker: _Node, tolerance: Tolerance = _NONE) -> Iterator[BreakingChange]:
    """Where `taker` refuses something that `giver` lets through."""
    takers = taker.alternatives()
    for alternative in giver.alternatives():
        attempts = [list(_refusals_of_one(alternative, one, tolerance)) for one in takers]
        yield from min(attempts, key=len)


def _refusals_of_one(giver: _Node, taker: _Node, tolerance: Tolerance) -> Iterator[BreakingChange]:
    types = (giver.get("type", "any"), taker.get("type", "any"))
    if types[0] != types[1] and types[1] != "any" and types != ("integer", "number"):
        yield giver.change("type", *types)
        return
    yield from _refused_values(giver, taker, tolerance)
    yield from _tighter_limits(giver, taker, _LOWER_LIMITS, lambda have, want: have >= want)
    yield from _tighter_limits(giver, taker, _UPPER_LIMITS, lambda have, want: have <= want)
    for rule in _COMPARED_AS_A_WHOLE:
        if taker.get(rule) not in (None, giver.get(rule)):
            yield giver.change(rule, giver.get(rule, _ABSENT), taker.get(rule))
    yield from _refused_keys(giver, taker, tolerance)
    if "items" in taker.schema:
        items = giver.part(giver.get("items", {}), "items")
        yield from _refusals(items, taker.part(taker.get("items"), "items"), tolerance)


def _refused_values(giver: _Node, taker: _Node, tolerance: Tolerance) -> Iterator[BreakingChange]:
    have, want = giver.values(), taker.values()
    if want is None or taker.name in tolerance.open_enums:
        return
    # JSON tells 1 from true, Python's `in` does not.
    known = {(type(value), value) for value in want}
    if have is None or any((type(value), value) not in known for value in have):
        yield giver.change("values", have or "any", want)


def _tighter_limits(
    giver: _Node, taker: _Node, rules: tuple[str, ...], holds: Callable[[float, float], bool]
) -> Iterator[BreakingChange]:
    for rule in rules:
        have, want = giver.get(rule), taker.get(rule)
        if want is not None and (have is None or not holds(have, want)):
            yield giver.change(rule, _ABSENT if have is None else have, want)


def _refused_keys(giver: _Node, taker: _Node, tolerance: Tolerance) -> Iterator[BreakingChange]:
    needed = set(taker.get("required", []))
    for key in sorted(needed - set(giver.get("required", []))):
        yield giver.part({}, key).change("required", "no", "yes")
    here, there = giver.properties(), taker.properties()
    for key, node in here.items():
        if key in there:
            yield from _refusals(node, there[key], tolerance)
    have, want = giver.get("additionalProperties", True), taker.get("additionalProperties", True)
    if want is False:
        if have is not False:
            yield giver.change("other keys", "welcome", "refused")
        optional_later = tolerance.later_keys.get(taker.name, frozenset()) - set(giver.get("required", []))
        for key in sorted(here.keys() - there.keys() - optional_later):
            yield giver.part({}, key).change("property", "there", "refused")
    elif isinstance(want, dict):
        other = giver.part(have if isinstance(have, dict) else {}, "*")
        yield from _refusals(other, taker.part(want, "*"), tolerance)
