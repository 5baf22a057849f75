"""Sizes of a chart: complete and monotone whatever the chart, unusable charts refused, ties explained."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wearon_contracts.sizing import (
    ChartSize,
    EstimateBodyRequest,
    FitPreference,
    Gender,
    SizeChart,
    SizeStandard,
)
from wearon_sizing.population import LENGTHS, Posterior, load_population
from wearon_sizing.size_charts import (
    ChartError,
    chances_of,
    choose,
    limiting,
    read_chart,
)
from wearon_sizing.sizes import bands, likelihoods

from .studio import ROOT

EXAMPLES = ROOT / "packages/contracts/examples/estimate-body-request/valid"
FITS = (FitPreference.TIGHT, FitPreference.REGULAR, FitPreference.LOOSE)


def body(spread: float = 3.0, correlation: float = 0.6, **lengths: float) -> Posterior:
    """One person: the lengths given, in cm, all equally uncertain; what is not given is average."""
    average = {"chest_cm": 98.0, "waist_cm": 86.0, "hip_cm": 102.0, "shoulder_cm": 40.0, "inseam_cm": 78.0}
    mean = np.array([{**average, **lengths}[name] for name in LENGTHS])
    covariance = spread**2 * (correlation + (1 - correlation) * np.eye(len(mean)))
    return Posterior(np.ones(1), mean[None], covariance[None])


def rows(**sizes: dict[str, tuple[float | None, float | None]]) -> SizeChart:
    """A chart from `M={"chest_cm": (94, 102)}`."""
    return SizeChart.model_validate(
        {
            "rows": [
                {"label": label, **{name: {"lower": a, "upper": b} for name, (a, b) in ranges.items()}}
                for label, ranges in sizes.items()
            ]
        }
    )


def chest(*ranges: tuple[float | None, float | None]) -> SizeChart:
    return rows(**{label: {"chest_cm": span} for label, span in zip("ABCDEFGH", ranges, strict=False)})


@st.composite
def charts(draw: st.DrawFn) -> SizeChart:
    """Charts with one to four measurements, in any order; ranges touch, overlap, leave gaps or repeat."""
    names = draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4, unique=True))
    count = draw(st.integers(1, 9))
    steps = st.sampled_from([0.0, 0.5, 2.0, 4.0, 9.0])
    lower = {name: draw(st.floats(40, 110)) for name in names}
    upper = {name: lower[name] + draw(steps) for name in names}
    made: list[dict[str, Any]] = []
    for i in range(count):
        row: dict[str, Any] = {"label": f"size {i}"}
        for place, name in enumerate(names):
            row[name] = {"lower": lower[name], "upper": upper[name]}
            # The first measurement always rises, so that no two rows are the same.
            lower[name] += draw(steps) if place else draw(steps) + 0.5
            upper[name] = max(lower[name], upper[name] + draw(steps))
        made.append(row)
    return SizeChart.model_validate({"rows": draw(st.permutations(made))})


@st.composite
def bodies(draw: st.DrawFn) -> Posterior:
    lengths = {name: draw(st.floats(40, 150)) for name in LENGTHS}
    return body(draw(st.floats(0, 9)), draw(st.floats(-0.2, 1)), **lengths)


@settings(max_examples=150, deadline=None)
@given(charts(), bodies(), st.sampled_from(FITS))
def test_every_chart_is_answered_completely(chart: SizeChart, person: Posterior, fit: FitPreference) -> None:
    answer = choose(read_chart(chart, fit), person, fit)
    assert chart.rows is not None
    labels = [entry.label for entry in answer.labels]
    assert sorted(labels) == sorted(row.label for row in chart.rows)
    assert sum(entry.probability for entry in answer.labels) == pytest.approx(1)
    chances = dict(zip(labels, (entry.probability for entry in answer.labels), strict=True))
    assert 0 <= answer.confidence <= chances[answer.recommended] + 0.0011
    assert answer.confidence <= 1.001 - answer.larger_than_chart
    if answer.between is not None:
        pair = (answer.between.lower, answer.between.upper)
        assert answer.recommended in pair
        assert labels.index(pair[1]) == labels.index(pair[0]) + 1
    assert (answer.between is None) == (len(labels) == 1)
    assert 0 <= answer.smaller_than_chart + answer.larger_than_chart <= 1.001
    assert answer.recommended in answer.explanation or "Even" in answer.explanation


@settings(max_examples=150, deadline=None)
@given(charts(), bodies(), st.sampled_from(LENGTHS), st.floats(0.1, 30))
def test_a_larger_body_never_needs_a_smaller_size(
    chart: SizeChart, person: Posterior, name: Any, more: float
) -> None:
    read = read_chart(chart)
    larger = Posterior(
        person.weights, person.means + more * np.eye(len(LENGTHS))[LENGTHS.index(name)], person.covariances
    )
    before, after = chances_of(read, person), chances_of(read, larger)
    # Probability that this size or a smaller one is enough.
    assert (np.cumsum(after.labels) <= np.cumsum(before.labels) + 1e-9).all()
    assert after.larger >= before.larger - 1e-9
    assert after.middle >= before.middle


@settings(max_examples=150, deadline=None)
@given(charts(), bodies())
def test_a_looser_fit_never_gives_a_smaller_size(chart: SizeChart, person: Posterior) -> None:
    picked = []
    for fit in FITS:
        read = read_chart(chart, fit)
        picked.append(read.labels.index(choose(read, person, fit).recommended))
    assert picked == sorted(picked)


@settings(max_examples=60, deadline=None)
@given(charts(), bodies())
def test_the_order_of_the_rows_changes_nothing(chart: SizeChart, person: Posterior) -> None:
    assert chart.rows is not None
    turned = SizeChart(rows=chart.rows[::-1])
    assert choose(read_chart(turned), person) == choose(read_chart(chart), person)


@pytest.mark.parametrize(
    ("gender", "standard"),
    [
        (Gender.MALE, SizeStandard.EN_13402_MEN),
        (Gender.FEMALE, SizeStandard.EN_13402_WOMEN),
    ],
)
@pytest.mark.parametrize("height", [155.0, 172.0, 190.0])
def test_the_european_standard_agrees_with_the_letter_sizes(
    gender: Gender, standard: SizeStandard, height: float
) -> None:
    known = load_population().without_photo(height, None, gender)
    chart = read_chart(SizeChart(standard=standard))

    class Chest:
        def below(self, edge_cm: float) -> float:
            return known.below("chest_cm", edge_cm)

    assert chart.edges[:, 0].tolist() == list(bands(gender))
    assert chances_of(chart, known).labels == pytest.approx(likelihoods(Chest(), gender), abs=0.005)


@pytest.mark.parametrize("standard", SizeStandard)
def test_every_standard_can_be_used(standard: SizeStandard) -> None:
    answer = choose(read_chart(SizeChart(standard=standard)), body())
    assert answer.confidence > 0.2
    assert answer.larger_than_chart < 0.05


def test_a_person_between_two_ranges_belongs_to_the_nearer_one() -> None:
    gapped = chest((80, 86), (90, 96))
    for value, label in ((80.0, "A"), (87.9, "A"), (88.1, "B"), (96.0, "B")):
        assert choose(read_chart(gapped), body(0.01, chest_cm=value)).recommended == label


def test_in_an_overlap_the_preference_decides() -> None:
    overlapping = chest((80, 92), (88, 100))
    for fit, edge in zip(FITS, (92.0, 90.0, 88.0), strict=True):
        assert read_chart(overlapping, fit).edges.tolist() == [[edge]]


def test_the_ease_is_taken_off_garment_measurements_and_follows_the_preference() -> None:
    garment = SizeChart.model_validate(
        {
            "rows": [{"label": str(i), "chest_cm": {"lower": i, "upper": i}} for i in (96, 104, 112)],
            "garment_ease_cm": {"chest_cm": 8},
        }
    )
    for fit, edges in zip(FITS, ([96, 104], [92, 100], [88, 96]), strict=True):
        assert read_chart(garment, fit).edges[:, 0].tolist() == edges


def test_the_largest_measurement_decides_and_is_named() -> None:
    chart = read_chart(
        rows(
            S={"chest_cm": (88, 96), "hip_cm": (88, 96)},
            M={"chest_cm": (96, 104), "hip_cm": (96, 104)},
            L={"chest_cm": (104, 112), "hip_cm": (104, 112)},
        )
    )
    pear = body(1.0, chest_cm=92, hip_cm=108)
    answer = choose(chart, pear)
    assert answer.recommended == "L"
    assert answer.limiting_measurement == limiting(chart, pear) == "hip_cm"
    assert answer.explanation == "L fits. The hip decides; by the chest alone it would be S."


def test_a_measurement_that_is_the_same_in_every_row_decides_nothing() -> None:
    chart = read_chart(
        rows(
            **{
                "32/32": {"waist_cm": (80, 82), "inseam_cm": (80, 82)},
                "33/32": {"waist_cm": (83, 85), "inseam_cm": (80, 82)},
            }
        )
    )
    tall = body(0.5, waist_cm=81, inseam_cm=95)
    answer = choose(chart, tall)
    assert answer.recommended == "32/32"
    assert answer.larger_than_chart > 0.99
    assert answer.confidence < 0.01
    assert answer.explanation == (
        "32/32 is the best of this chart, but none of its sizes is large enough in the inseam."
    )
    assert choose(chart, body(0.5, waist_cm=81, inseam_cm=78)).limiting_measurement == "waist_cm"


def test_beyond_the_chart_the_two_outermost_sizes_are_the_ones_to_choose_between() -> None:
    inches = chest((33.9, 37), (37, 40.2), (40.2, 43.3))
    answer = choose(read_chart(inches), body(chest_cm=101))
    assert answer.between is not None
    assert (answer.recommended, answer.between.lower, answer.between.upper) == ("C", "B", "C")


def test_of_several_measurements_the_one_that_is_beyond_the_chart_is_named() -> None:
    chart = read_chart(
        rows(
            S={"chest_cm": (88, 96), "waist_cm": (70, 80)},
            M={"chest_cm": (96, 104), "waist_cm": (80, 90)},
            # Cut wider only at the waist: the chest does not tell the last two sizes apart.
            L={"chest_cm": (96, 104), "waist_cm": (90, 100)},
        )
    )
    answer = choose(chart, body(1.0, chest_cm=115, waist_cm=95))
    assert answer.limiting_measurement == "chest_cm"
    assert answer.explanation == "Even L is probably too small in the chest."


def test_an_outermost_size_is_not_said_to_fit_somebody_who_may_be_beyond_it() -> None:
    chart = read_chart(chest((88, 96), (96, 104)))
    answer = choose(chart, body(3.0, chest_cm=103.5))
    assert 0.5 < answer.confidence < 0.6
    assert 0.4 < answer.larger_than_chart < 0.5
    assert answer.explanation == "B is the likeliest size."


def test_another_size_is_named_only_where_the_size_to_take_is_not_that_of_every_measurement() -> None:
    chart = read_chart(
        rows(
            S={"chest_cm": (88, 96), "hip_cm": (98, 106)},
            M={"chest_cm": (96, 104), "hip_cm": (106, 107)},
            L={"chest_cm": (104, 112), "hip_cm": (107, 108)},
            XL={"chest_cm": (112, 120), "hip_cm": (108, 120)},
        )
    )
    # Hardly anybody needs M or L by the hip, whose ranges are narrow; as many need S as XL.
    answer = choose(chart, body(3.0, chest_cm=85, hip_cm=105.9))
    assert answer.explanation == "S is the likeliest size. The hip has the least room."
    answer = choose(chart, body(3.0, chest_cm=85, hip_cm=106.1))
    assert answer.explanation == (
        "Several sizes are possible, and M is in the middle of them."
        " The hip decides; by the chest alone it would be S."
    )


@pytest.mark.parametrize(
    ("largest", "said"),
    [((42, 44), True), ((56, 58), True), ((88, 92), False)],
    ids=["inches", "laid flat", "small sizes"],
)
def test_a_chart_in_other_units_is_wondered_at(largest: tuple[float, float], said: bool) -> None:
    chart = read_chart(chest((largest[0] - 4, largest[1] - 4), largest))
    answer = choose(chart, body(chest_cm=101))
    assert ("not in centimetres" in answer.explanation) == said
    assert answer.explanation.startswith("Even B is probably too small in the chest.")


def test_an_outermost_size_of_one_value_reaches_beyond_it_like_its_neighbours() -> None:
    chart = chest((92, 92), (96, 96), (100, 100))
    for fit, smallest, largest in zip(FITS, (92, 90, 88), (104, 102, 100), strict=True):
        read = read_chart(chart, fit)
        assert (read.smallest.tolist(), read.largest.tolist()) == ([smallest], [largest])
    alone = read_chart(chest((92, 92)))
    assert (alone.smallest.tolist(), alone.largest.tolist()) == ([92], [92])


def test_a_tie_is_told_and_explained() -> None:
    chart, person = chest((88, 96), (96, 104)), body(3.0, chest_cm=95.9)
    answer = choose(read_chart(chart), person)
    assert answer.tie
    assert answer.between is not None
    assert (answer.between.lower, answer.between.upper) == ("A", "B")
    assert answer.explanation == (
        "A and B are about equally likely; it depends on the chest. "
        "Take A for a closer fit and B for a looser one."
    )
    tight = choose(read_chart(chart, FitPreference.TIGHT), person, FitPreference.TIGHT)
    assert tight.recommended == "A"
    assert tight.explanation.endswith("A was taken because a closer fit was asked for.")
    loose = choose(read_chart(chart, FitPreference.LOOSE), person, FitPreference.LOOSE)
    assert loose.recommended == "B"
    assert loose.explanation.endswith("B was taken because a looser fit was asked for.")


def test_many_narrow_sizes_do_not_make_the_outermost_one_the_size_of_an_average_woman() -> None:
    """Known by her height alone: what lies beyond the chart made size 20 the likeliest one."""
    chart = SizeChart(standard=SizeStandard.US_WOMEN)
    labels = read_chart(chart).labels
    for height in (165.0, 170.0):
        person = load_population().without_photo(height, None, Gender.FEMALE)
        picked = [labels.index(choose(read_chart(chart, fit), person, fit).recommended) for fit in FITS]
        asked_for = int(np.searchsorted(read_chart(chart).edges[:, 0], person.value("chest_cm")))
        assert abs(picked[1] - asked_for) <= 1
        assert picked == sorted(picked)


@settings(max_examples=150, deadline=None)
@given(charts(), bodies(), st.sampled_from(FITS))
def test_the_size_to_take_is_the_middle_one_or_its_neighbour(
    chart: SizeChart, person: Posterior, fit: FitPreference
) -> None:
    read = read_chart(chart, fit)
    chances, picked = chances_of(read, person), read.labels.index(choose(read, person, fit).recommended)
    below, with_it = chances.labels[: chances.middle].sum(), chances.labels[: chances.middle + 1].sum()
    assert below <= 0.5 + 1e-9
    assert with_it >= 0.5 - 1e-6
    step = {FitPreference.TIGHT: (-1, 0), FitPreference.LOOSE: (0, 1)}.get(fit, (0,))
    assert picked - chances.middle in step


def test_a_preference_takes_nobody_beyond_the_chart_away_from_its_end() -> None:
    """The outermost sizes are narrow, so that the ones beside them are nearly as likely."""
    loose, tight = FitPreference.LOOSE, FitPreference.TIGHT
    small = choose(read_chart(chest((86, 87), (87, 95), (95, 104)), loose), body(4.0, chest_cm=85.99), loose)
    assert small.smaller_than_chart >= 0.5
    assert (small.recommended, small.explanation) == ("A", "Even A is probably too large.")
    large = choose(
        read_chart(chest((86, 94), (94, 103), (103, 104)), tight), body(8.0, chest_cm=104.25), tight
    )
    assert large.larger_than_chart >= 0.5
    assert (large.recommended, large.explanation) == ("C", "Even C is probably too small in the chest.")


def test_nobody_is_sure_of_a_size_that_does_not_fit() -> None:
    children = read_chart(chest((60, 64), (64, 68)))
    answer = choose(children, body(3.0, chest_cm=99))
    assert (answer.recommended, answer.confidence, answer.larger_than_chart) == ("B", 0.0, 1.0)
    one_value = choose(read_chart(chest((100, 100))), body(3.0, chest_cm=100))
    assert one_value.confidence < 0.01


def test_an_exact_tie_is_the_smaller_size_unless_a_looser_fit_is_wanted() -> None:
    chart, person = chest((88, 96), (96, 104)), body(3.0, chest_cm=96.0)
    picked = [choose(read_chart(chart, fit), person, fit).recommended for fit in FITS]
    assert picked == ["A", "A", "B"]


def test_somebody_beyond_the_chart_is_told() -> None:
    chart = read_chart(chest((88, 96), (96, 104)))
    large, small = (choose(chart, body(2.0, chest_cm=value)) for value in (115.0, 75.0))
    assert (large.recommended, large.larger_than_chart) == ("B", 1.0)
    assert large.explanation == "Even B is probably too small in the chest."
    assert (small.recommended, small.smaller_than_chart) == ("A", 1.0)
    assert small.explanation == "Even A is probably too large."


def test_a_chart_open_at_its_ends_has_nobody_beyond_it() -> None:
    chart = read_chart(chest((None, 90), (90, None)))
    for value in (50.0, 150.0):
        answer = choose(chart, body(2.0, chest_cm=value))
        assert (answer.smaller_than_chart, answer.larger_than_chart) == (0, 0)


@pytest.mark.parametrize(
    ("chart", "complaint"),
    [
        (SizeChart(), "Give either rows or a standard."),
        (
            SizeChart.model_validate({**chest((88, 96)).model_dump(), "standard": "us_men"}),
            "Give either rows or a standard.",
        ),
        (SizeChart.model_validate({"rows": [{"label": "M"}]}), "Row 'M' has no measurement."),
        (SizeChart.model_validate({"rows": [{"label": "M", "chest_cm": {}}]}), "neither lower nor upper"),
        (chest((96, 88)), "lower end above its upper end"),
        (chest((88, 96), (88, 96)), "the same in every measurement"),
        (chest((80, 100), (85, 95)), "cannot be put in order"),
        (chest((80, None), (90, 96)), "cannot be put in order"),
        (chest((80, None), (90, None)), "is open between them"),
        (
            rows(
                S={"chest_cm": (88, 96), "hip_cm": (96, 104)}, M={"chest_cm": (97, 104), "hip_cm": (88, 95)}
            ),
            "cannot be put in order: hip_cm",
        ),
        (rows(S={"chest_cm": (88, 96)}, M={"hip_cm": (96, 104)}), "different measurements"),
        (
            SizeChart.model_validate(
                {"rows": [{"label": "M", "hip_cm": {"lower": 9.5 + i, "upper": 99}} for i in (1, 2)]}
            ),
            "Two rows have the same label.",
        ),
        (
            rows(**{"M": {"chest_cm": (88, 96)}, "M ": {"chest_cm": (96, 104)}}),
            "Two rows have the same label.",
        ),
        (rows(**{" ": {"chest_cm": (88, 96)}}), "A label is blank."),
        (rows(**{"M\x00": {"chest_cm": (88, 96)}}), "a character that cannot be seen"),
        (rows(**{"\u202eM": {"chest_cm": (88, 96)}}), "a character that cannot be seen"),
        (
            SizeChart.model_validate({**chest((88, 96)).model_dump(), "garment_ease_cm": {"hip_cm": 4}}),
            "garment_ease_cm lacks chest_cm",
        ),
        (
            SizeChart.model_validate(
                {**chest((88, 96)).model_dump(), "garment_ease_cm": {"chest_cm": 4, "hip_cm": 4}}
            ),
            "garment_ease_cm has hip_cm",
        ),
        (
            SizeChart.model_validate({"standard": "uk_men", "garment_ease_cm": {"chest_cm": 4}}),
            "goes with rows only",
        ),
    ],
)
def test_a_bad_chart_is_refused_with_what_is_wrong(chart: SizeChart, complaint: str) -> None:
    with pytest.raises(ChartError) as refusal:
        read_chart(chart)
    assert complaint in str(refusal.value)


def of_brand(name: str, height: float, weight: float, gender: Gender) -> ChartSize:
    """The answer to the example request with this brand's chart, for a shopper without a photo."""
    text = (EXAMPLES / f"size-chart-of-{name}.json").read_text()
    request = EstimateBodyRequest.model_validate(json.loads(text))
    assert request.size_chart is not None
    person = load_population().without_photo(height, weight, gender)
    return choose(read_chart(request.size_chart), person)


def test_three_brands_size_the_same_man_by_their_own_charts() -> None:
    """Charts written down from memory, not copied from the brands' pages: Nike's ranges touch, Adidas's leave
    1 cm free."""
    nike = of_brand("nike-men-tops", 178, 78, Gender.MALE)
    adidas = of_brand("adidas-men-tops", 178, 78, Gender.MALE)
    assert (nike.recommended, adidas.recommended) == ("M", "M")
    # Nike asks for the waist too, and this service measures it at the navel.
    assert nike.limiting_measurement == "waist_cm"


def test_an_overlapping_brand_chart_goes_by_its_narrowest_measurement() -> None:
    """Uniqlo's women's ranges overlap in chest, waist and hip between XS, S and M."""
    slim = of_brand("uniqlo-women", 162, 50, Gender.FEMALE)
    average = of_brand("uniqlo-women", 165, 62, Gender.FEMALE)
    labels = [entry.label for entry in slim.labels]
    assert labels == ["XS", "S", "M", "L", "XL"]
    assert labels.index(slim.recommended) < labels.index(average.recommended)
