"""Probabilities of a normal vector below edges, against closed forms and against plain sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wearon_contracts.sizing import Gender
from wearon_sizing.normal import Array, below_all, cumulative
from wearon_sizing.population import load_population


def below_one(mean: Array, covariance: Array, edges: Array) -> Array:
    return below_all(np.ones(1), mean[None], covariance[None], edges)


def random_covariance(random: np.random.Generator, size: int) -> Array:
    """Standard deviations of 1 to 8 cm with correlations of any strength."""
    factors = random.normal(size=(size, size)) @ np.diag(random.uniform(0.05, 2, size))
    covariance = factors @ factors.T + 0.05 * np.eye(size)
    scale = random.uniform(1, 8, size) / np.sqrt(np.diag(covariance))
    scaled: Array = covariance * np.outer(scale, scale)
    return scaled


def test_one_measurement_agrees_with_the_error_function() -> None:
    edges = np.linspace(80, 120, 41)[:, None]
    got = below_one(np.array([101.3]), np.array([[12.25]]), edges)
    want = [0.5 * math.erfc((101.3 - edge) / 3.5 / math.sqrt(2)) for edge in edges[:, 0]]
    assert np.abs(got - want).max() < 1e-6


@pytest.mark.parametrize("correlation", [-0.95, -0.5, 0.0, 0.3, 0.8, 0.99, 1.0])
def test_two_measurements_agree_with_sheppards_formula(correlation: float) -> None:
    covariance = np.array([[1.0, correlation], [correlation, 1.0]])
    got = below_one(np.zeros(2), covariance, np.zeros((1, 2)))[0]
    assert got == pytest.approx(0.25 + math.asin(correlation) / (2 * math.pi), abs=1e-3)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_many_measurements_agree_with_sampling(size: int) -> None:
    random = np.random.default_rng(size)
    for _ in range(12):
        covariance = random_covariance(random, size)
        spread = np.sqrt(np.diag(covariance))
        edges = random.normal(0.5, 1, (6, size)) * spread
        samples = random.multivariate_normal(np.zeros(size), covariance, 200_000)
        want = np.array([(samples < edge).all(axis=1).mean() for edge in edges])
        # Sampling itself is off by up to 0.0011 (one standard error) here.
        assert np.abs(below_one(np.zeros(size), covariance, edges) - want).max() < 0.006


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_higher_edges_are_never_less_likely(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    covariance = random_covariance(random, size)
    rising = np.cumsum(random.exponential(1, (20, size)) * random.integers(0, 2, (20, size)), axis=0) - 8
    got = below_one(np.zeros(size), covariance, rising)
    assert (np.diff(got) >= 0).all()
    assert ((got >= 0) & (got <= 1)).all()


def test_a_mixture_agrees_with_sampling() -> None:
    """Bodies of whom only the height is known: fourteen parts, or seven of one sex."""
    random = np.random.default_rng(5)
    for gender in (None, Gender.FEMALE):
        body = load_population().without_photo(165.0, None, gender)
        edges = body.mean + np.linspace(-1.5, 2.5, 12)[:, None] * np.sqrt(np.diag(body.covariance))
        parts = random.choice(len(body.weights), 200_000, p=body.weights)
        samples = np.empty((len(parts), len(body.mean)))
        for part, (mean, covariance) in enumerate(zip(body.means, body.covariances, strict=True)):
            rows = parts == part
            samples[rows] = random.multivariate_normal(mean, covariance, rows.sum())
        want = np.array([(samples < edge).all(axis=1).mean() for edge in edges])
        got = below_all(body.weights, body.means, body.covariances, edges)
        assert np.abs(got - want).max() < 0.01


def test_measurements_without_any_uncertainty_are_below_or_not() -> None:
    edges = np.array([[1.0, 1.0], [1.0, -1.0], [np.inf, np.inf], [-np.inf, 1.0]])
    assert below_one(np.zeros(2), np.zeros((2, 2)), edges).tolist() == [1, 0, 1, 0]


def test_infinite_edges_are_welcome() -> None:
    covariance = np.array([[4.0, 3.0], [3.0, 4.0]])
    got = below_one(np.zeros(2), covariance, np.array([[np.inf, np.inf], [0, np.inf], [-np.inf, 0]]))
    assert got == pytest.approx([1.0, 0.5, 0.0], abs=1e-4)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        below_one(np.array([np.nan]), np.eye(1), np.zeros((1, 1)))


def test_cumulative_agrees_with_the_error_function_everywhere() -> None:
    at = np.linspace(-9, 9, 10_007)
    want = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in at])
    assert np.abs(cumulative(at) - want).max() < 2e-7
    assert cumulative(np.array([-np.inf, np.inf])).tolist() == [0.0, 1.0]
