"""The image models as data: what each costs, which fields it takes and when it ends.

To add a model: add a row to `MODELS`. A model that is not in the table works with the fields that all take;
its cost is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

from wearon_generator.prices import Price

DEFAULT_MODEL: Final = "gpt-image-2.6-sunburst"
COMPLEXITIES: Final = ("low", "medium", "high")
"""How long a model may plan; also the qualities that every model knows."""

# OpenAI's limits for models that take any size: multiples of 16, at most three times as long as wide.
_SIDE_STEP: Final = 16  # pixels
_LONGEST_RATIO: Final = 3
_SHORTEST_SIDE: Final = 512  # pixels; a smaller picture would not be delivered
_FEWEST_PIXELS: Final = 655_360
_MOST_PIXELS: Final = 8_294_400
_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_FIXED_SIZES: Final = ("1024x1024", "1024x1536", "1536x1024")


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    `qualities`: those it takes, none if that is not known. `sizes`: likewise, None for any within OpenAI's
    limits. `complexities`: none if it does not take that field. `ends`: the day of its end, if
    that is announced. `successor`: what to set instead then.
    """

    name: str
    price: Price | None
    qualities: tuple[str, ...] = COMPLEXITIES
    sizes: tuple[str, ...] | None = None
    complexities: tuple[str, ...] = ()
    default_quality: str = "medium"
    default_size: str = "1024x1536"
    ends: date | None = None
    successor: str = DEFAULT_MODEL

    def objections(self, quality: str | None, size: str | None) -> dict[str, str]:
        """What this model would refuse: the field, and what it takes instead."""
        found = {}
        if quality is not None and self.qualities and quality not in self.qualities:
            found["quality"] = ", ".join(self.qualities)
        if size is not None and (takes := self._sizes_instead_of(size)):
            found["size"] = takes
        return found

    def fields(self, quality: str | None, size: str | None, complexity: str | None) -> dict[str, str]:
        """The request fields for this model; what it does not take is left out or has its default."""
        refused = self.objections(quality, size)
        fields = {
            "quality": quality if quality and "quality" not in refused else self.default_quality,
            "size": size if size and "size" not in refused else self.default_size,
        }
        if complexity and complexity in self.complexities:
            fields["complexity"] = complexity
        return fields

    def _sizes_instead_of(self, size: str) -> str | None:
        if self.sizes is not None:
            return None if not self.sizes or size in self.sizes else ", ".join(self.sizes)
        match = _SIZE.fullmatch(size)
        width, height = (int(match[1]), int(match[2])) if match else (0, 0)
        fits = (
            match is not None
            and width % _SIDE_STEP == height % _SIDE_STEP == 0
            and min(width, height) >= _SHORTEST_SIDE
            and max(width, height) <= _LONGEST_RATIO * min(width, height)
            and _FEWEST_PIXELS <= width * height <= _MOST_PIXELS
        )
        if fits:
            return None
        return (
            f"WIDTHxHEIGHT in multiples of {_SIDE_STEP}, at least {_SHORTEST_SIDE}, "
            f"at most {_LONGEST_RATIO}:1, "
            f"{_FEWEST_PIXELS} to {_MOST_PIXELS} pixels"
        )


# USD per million tokens, OpenAI's price list of November 2026. The models from gpt-image-2 on have one price
# for what comes out. The cheaper price of cached input is left out: no answer tells how much was cached.
_PRICE_2: Final = Price(
    text_in=Decimal(5),
    image_in=Decimal(8),
    text_out=Decimal(30),
    image_out=Decimal(30),
)
_PRICE_1_5: Final = Price(
    text_in=Decimal(5), image_in=Decimal(8), text_out=Decimal(10), image_out=Decimal(32)
)
_FINEST: Final = (*COMPLEXITIES, "xhigh", "max")

MODELS: Final[dict[str, Model]] = {
    model.name: model
    for model in (
        Model("gpt-image-2.6-sunburst", _PRICE_2, _FINEST, complexities=COMPLEXITIES),
        Model("gpt-image-2.6-flare", _PRICE_2, _FINEST, complexities=COMPLEXITIES),
        Model("gpt-image-2.5-sunburst", _PRICE_2, _FINEST),
        Model("gpt-image-2.5-flare", _PRICE_2, _FINEST),
        Model("gpt-image-2", _PRICE_2),
        # Switched off on 1 December 2026, says OpenAI's deprecations page (notice of 2 June 2026).
        Model("gpt-image-1.5", _PRICE_1_5, sizes=_FIXED_SIZES, ends=date(2026, 12, 1)),
    )
}


def find_model(name: str) -> Model:
    """The row of `name`; for an unknown model one without price that takes what all models take."""
    return MODELS.get(name) or Model(name, price=None, qualities=(), sizes=())
