"""What an answer of an image model costs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer. The split into text and image is None where the provider did not give it."""

    input_tokens: int
    output_tokens: int
    input_text_tokens: int | None = None
    input_image_tokens: int | None = None
    output_text_tokens: int | None = None
    output_image_tokens: int | None = None


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

    Tokens whose kind is not known count as image tokens, the dearer kind and by far the more frequent.
    """
    text_in = usage.input_text_tokens or 0
    image_in = (
        max(0, usage.input_tokens - text_in) if usage.input_image_tokens is None else usage.input_image_tokens
    )
    text_out = usage.output_text_tokens or 0
    image_out = (
        max(0, usage.output_tokens - text_out)
        if usage.output_image_tokens is None
        else usage.output_image_tokens
    )
    total = (
        text_in * price.text_in
        + image_in * price.image_in
        + text_out * price.text_out
        + image_out * price.image_out
    )
    return (total / 1_000_000).quantize(_CENT_FRACTION)
