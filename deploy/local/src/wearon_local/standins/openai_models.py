"""The image models as OpenAI's server knows them: what each takes, and until when it is served."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_FIXED_SIZES: Final = {"1024x1024", "1024x1536", "1536x1024"}
_PIXELS: Final = range(655_360, 8_294_400 + 1)
_FIELDS_OF_ALL: Final = frozenset(
    {
        *("model", "prompt", "n", "quality", "size", "output_format", "output_compression", "background"),
        *("moderation", "safety_identifier", "user", "stream", "partial_images"),
    }
)

# Output tokens by quality at 1024×1024, from OpenAI's pricing page; those of xhigh and max are made up.
_TOKENS_AT_1024: Final = {"low": 272, "medium": 1056, "high": 4160, "xhigh": 6240, "max": 8320}
_TOKENS: Final = {
    ("low", 1024, 1536): 408,
    ("low", 1536, 1024): 400,
    ("medium", 1024, 1536): 1584,
    ("medium", 1536, 1024): 1568,
    ("high", 1024, 1536): 6240,
    ("high", 1536, 1024): 6208,
}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model. `extra`: fields that not all models take; `shutdown`: the day from which it is gone."""

    name: str
    qualities: tuple[str, ...]
    extra: frozenset[str] = frozenset()
    any_size: bool = True
    shutdown: date | None = None

    @property
    def fields(self) -> frozenset[str]:
        """Every form field it takes besides the files."""
        return _FIELDS_OF_ALL | self.extra

    def size(self, text: str) -> tuple[int, int] | None:
        """Width and height; None if it does not take this size."""
        if text == "auto":
            return 1024, 1536
        match = _SIZE.fullmatch(text)
        if match is None or (not self.any_size and text not in _FIXED_SIZES):
            return None
        width, height = int(match[1]), int(match[2])
        fits = (
            width % 16 == height % 16 == 0
            and max(width, height) <= 3 * min(width, height)
            and width * height in _PIXELS
        )
        return (width, height) if fits else None


_LOW_TO_HIGH: Final = ("low", "medium", "high")
_FINEST: Final = (*_LOW_TO_HIGH, "xhigh", "max")
_COMPLEXITY: Final = frozenset({"complexity"})
_END: Final = date(2026, 12, 1)

SERVED: Final = {
    model.name: model
    for model in (
        ServedModel("gpt-image-2.6-sunburst", _FINEST, _COMPLEXITY),
        ServedModel("gpt-image-2.6-flare", _FINEST, _COMPLEXITY),
        ServedModel("gpt-image-2.5-sunburst", _FINEST),
        ServedModel("gpt-image-2.5-flare", _FINEST),
        ServedModel("gpt-image-2", _LOW_TO_HIGH),
        ServedModel(
            "gpt-image-1.5", _LOW_TO_HIGH, frozenset({"input_fidelity"}), any_size=False, shutdown=_END
        ),
        ServedModel("gpt-image-1-mini", _LOW_TO_HIGH, any_size=False, shutdown=_END),
        ServedModel("chatgpt-image-latest", _LOW_TO_HIGH, any_size=False, shutdown=_END),
        ServedModel("gpt-image-1", _LOW_TO_HIGH, any_size=False, shutdown=date(2026, 10, 23)),
    )
}


def served(name: str, today: date) -> ServedModel | None:
    """The model, unless it is unknown or shut down by `today`."""
    model = SERVED.get(name)
    return None if model is None or (model.shutdown and today >= model.shutdown) else model


def output_tokens(quality: str, size: tuple[int, int]) -> int:
    """Tokens of one picture; for sizes that the pricing page does not give, in proportion to the pixels."""
    width, height = size
    by_pixels = round(_TOKENS_AT_1024[quality] * width * height / 1024**2)
    return _TOKENS.get((quality, width, height), by_pixels)
