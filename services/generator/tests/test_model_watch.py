"""The end of a model: when jobs wait for it, and when a fallback takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime

import pytest
from prometheus_client import CollectorRegistry

from wearon_generator.fallback import ProviderWithFallback
from wearon_generator.metrics import Metrics
from wearon_generator.model_watch import EVERY, EVERY_WHEN_IN_DOUBT, ModelWatch
from wearon_generator.provider import Generated, ModelState, ModelStatus, ProviderError
from wearon_generator.refusals import Refusal

MAIN, FALLBACK = "gpt-image-1.5", "gpt-image-2"


class OneModel:
    """A provider that says of its model what it is told to say."""

    def __init__(self, model: str, state: ModelState = ModelState.SERVED, ends: date | None = None) -> None:
        self.model = model
        self.state = state
        self.ends = ends
        self.refuses: Refusal | None = None
        self.looked_up = 0
        self.edits = 0

    async def look_up(self) -> ModelStatus:
        self.looked_up += 1
        return ModelStatus(self.model, self.state, self.ends, "told", "OpenAI", "OPENAI_API_KEY")

    async def edit(self, pictures: Sequence[bytes], prompt: str, end_user: str) -> Generated:
        self.edits += 1
        if self.refuses:
            raise ProviderError(self.refuses, "told", model=self.model)
        return Generated(b"", None, None, self.model)


class Scene:
    """A watch over `main` and perhaps a fallback, on a clock of its own."""

    def __init__(self, main: OneModel, fallback: OneModel | None = None) -> None:
        self.main = main
        self.provider = ProviderWithFallback(main, fallback)
        self.seconds = 0.0
        self.refused_because: str | None = None
        self.registry = CollectorRegistry()
        self.watch = ModelWatch(
            self.provider,
            Metrics(self.registry),
            lambda: self.seconds,
            lambda: datetime(2026, 11, 20, tzinfo=UTC),
            refused_because=lambda: self.refused_because,
        )

    def look(self, later: float = EVERY) -> str | None:
        self.seconds += later
        asyncio.run(self.watch.look_if_due())
        return self.watch.problem

    def gauge(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"wearon_generator_{name}", labels)

    def edit(self) -> str:
        return asyncio.run(self.provider.edit([], "", "")).model


def test_model_that_is_gone_is_told_in_one_line_with_setting_and_successor() -> None:
    scene = Scene(OneModel(MAIN, ModelState.GONE))
    line = "OpenAI does not serve the model gpt-image-1.5: set OPENAI_MODEL=gpt-image-2.6-sunburst"
    assert scene.look() == line


def test_refused_key_is_told_with_its_setting_and_forgotten_once_it_is_taken() -> None:
    scene = Scene(OneModel(MAIN, ModelState.KEY_REFUSED))
    problem = scene.look()
    assert problem is not None
    assert "OPENAI_API_KEY" in problem
    scene.main.state = ModelState.SERVED
    assert scene.look(EVERY_WHEN_IN_DOUBT) is None


@pytest.mark.parametrize("state", [ModelState.NOT_TOLD, ModelState.UNREACHABLE, ModelState.SERVED])
def test_jobs_are_started_unless_the_provider_says_no(state: ModelState) -> None:
    assert Scene(OneModel(MAIN, state)).look() is None


def test_unreachable_provider_changes_nothing_of_what_was_known() -> None:
    scene = Scene(OneModel(MAIN, ModelState.GONE))
    known = scene.look()
    scene.main.state = ModelState.UNREACHABLE
    assert scene.look(EVERY_WHEN_IN_DOUBT) == known is not None


def test_provider_is_asked_daily_and_at_once_when_the_breaker_blames_the_model() -> None:
    scene = Scene(OneModel(MAIN))
    scene.look()
    scene.look(EVERY - 1)
    assert scene.main.looked_up == 1
    scene.refused_because = Refusal.MODEL_GONE.value
    scene.look(0)
    assert scene.main.looked_up == 2
    scene.look(EVERY_WHEN_IN_DOUBT - 1)
    assert scene.main.looked_up == 2


@pytest.mark.parametrize(
    ("model", "ends", "days"),
    [
        (MAIN, date(2026, 11, 30), 10),
        (MAIN, None, 11),  # as the table of models knows
        (FALLBACK, None, float("inf")),
        (FALLBACK, date(2026, 11, 10), -10),
    ],
)
def test_metric_shows_the_days_until_a_model_is_switched_off(
    model: str, ends: date | None, days: float
) -> None:
    scene = Scene(OneModel(model, ends=ends))
    scene.look()
    assert scene.gauge("model_days_left", model=model) == days


def test_fallback_takes_over_when_the_main_model_is_gone_and_gives_back() -> None:
    scene = Scene(OneModel(MAIN, ModelState.GONE), OneModel(FALLBACK))
    assert scene.look() is None
    assert scene.edit() == FALLBACK
    assert FALLBACK in scene.watch.told
    assert scene.gauge("fallback_in_use") == 1
    scene.main.state = ModelState.SERVED
    scene.look()
    assert scene.edit() == MAIN
    assert scene.watch.told == ""
    assert scene.gauge("fallback_in_use") == 0


def test_fallback_that_is_gone_as_well_is_no_help() -> None:
    scene = Scene(OneModel(MAIN, ModelState.GONE), OneModel(FALLBACK, ModelState.GONE))
    assert scene.look() is not None


@pytest.mark.parametrize("refusal", [Refusal.MODEL_GONE, Refusal.FORBIDDEN])
def test_job_whose_model_is_refused_gets_its_picture_from_the_fallback(refusal: Refusal) -> None:
    scene = Scene(OneModel(MAIN), OneModel(FALLBACK))
    scene.main.refuses = refusal
    assert scene.edit() == FALLBACK
    assert scene.edit() == FALLBACK
    assert scene.main.edits == 1


@pytest.mark.parametrize("refusal", sorted(set(Refusal) - {Refusal.MODEL_GONE, Refusal.FORBIDDEN}))
def test_fallback_is_not_used_after_a_call_that_may_have_been_billed(refusal: Refusal) -> None:
    fallback = OneModel(FALLBACK)
    scene = Scene(OneModel(MAIN), fallback)
    scene.main.refuses = refusal
    with pytest.raises(ProviderError):
        scene.edit()
    assert fallback.edits == 0
