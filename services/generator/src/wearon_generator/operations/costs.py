"""What the image model's answers cost."""

from __future__ import annotations

from typing import Final

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from wearon_generator.operations.connections import Connections


class Costs(TypedDict):
    """A day's answers of one model in one channel; `unpriced` are those whose cost is not known."""

    day: str
    channel: str
    model: str
    answers: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: int | float
    unpriced: int


_COSTS: Final = TypeAdapter(list[Costs])


async def costs(at: Connections, days: int) -> list[Costs]:
    """By day (UTC), channel and model: today's and those of `days` - 1 days before."""
    answer = await at.supabase.rpc("generation_costs", {"p_days": days}).execute()
    return _COSTS.validate_python(answer.data)
