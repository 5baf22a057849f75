"""What an answer of an image model costs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; those of text are None where the provider did not tell."""

    input_tokens: int
    output_tokens: int
    input_text_tokens: int | None = None
    output_text_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    text_in: Decimal
    image_in: Decimal
    text_out: Decimal
    image_out: Decimal


_CENT_FRACTION: Final = Decimal("0.000001")


def estimate_cost(price: Price, usage: Usage) -> Decimal:
    """Cost of one answer in USD, to the millionth.

    Tokens that are not known to be text count as image tokens, the dearer kind and by far the more frequent.
    """
    text_in = usage.input_text_tokens or 0
    image_in = max(0, usage.input_tokens - text_in)
    text_out = usage.output_text_tokens or 0
    image_out = max(0, usage.output_tokens - text_out)
    total = (
        text_in * price.text_in
        + image_in * price.image_in
        + text_out * price.text_out
        + image_out * price.image_out
    )
    return (total / 1_000_000).quantize(_CENT_FRACTION)
