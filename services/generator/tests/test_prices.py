from __future__ import annotations

from decimal import Decimal

from wearon_generator.prices import Price, Usage, estimate_cost

PRICE = Price(text_in=Decimal(5), image_in=Decimal(8), text_out=Decimal(10), image_out=Decimal(32))


def test_each_kind_of_token_has_its_price() -> None:
    usage = Usage(
        input_tokens=3_000_000,
        output_tokens=3_000_000,
        input_text_tokens=1_000_000,
        output_text_tokens=1_000_000,
    )
    assert estimate_cost(PRICE, usage) == Decimal("5") + Decimal("16") + Decimal("10") + Decimal("64")


def test_tokens_of_unknown_kind_count_as_image_tokens() -> None:
    assert estimate_cost(PRICE, Usage(1_000_000, 1_000_000)) == Decimal("40")


def test_text_tokens_alone_leave_the_rest_to_images() -> None:
    usage = Usage(input_tokens=100, output_tokens=0, input_text_tokens=40)
    assert estimate_cost(PRICE, usage) == Decimal("0.000680")


def test_more_text_than_there_is_in_all_costs_no_less_than_nothing() -> None:
    usage = Usage(input_tokens=0, output_tokens=0, input_text_tokens=1_000_000)
    assert estimate_cost(PRICE, usage) == Decimal("5")
