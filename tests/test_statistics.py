"""Statistics over seeds, against values worked out by hand and against the definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, trim_mean

from didact.errors import DataError
from didact.evaluation.stats import (
    Estimate,
    area_under_curve,
    holm,
    iqm_interval,
    permutation_p,
    probability_of_improvement,
)

scores = st.lists(st.integers(0, 20).map(lambda i: i / 20), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.7], 0.7),
        ([0.0, 1.0], 0.5),
        ([0.0, 0.0, 0.9], 0.3),  # fewer than four: nothing is cut
        ([0.0, 0.4, 0.6, 1.0], 0.5),
        ([1.0, 0.2, 0.3, 0.4, 0.0], 0.3),  # one of five is cut at either end
        ([9.0, 1, 2, 3, 4, 5, 6, -90], 3.5),
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(values: list[float], expected: float) -> None:
    assert iqm_interval([[value] for value in values], seed=0).value == pytest.approx(expected)


@given(scores)
def test_the_interquartile_mean_is_the_trimmed_mean_of_its_definition(values: list[float]) -> None:
    found = iqm_interval([[value] for value in values], seed=0)
    assert found.value == pytest.approx(trim_mean(values, 0.25))


def test_an_interval_over_runs_covers_all_resamples_of_two() -> None:
    # Two runs: a quarter of the resamples is (0, 0), half has the mean 0.5, a quarter is (1, 1).
    found = iqm_interval([[0.0, 1.0]], seed=0, n_resamples=2000)
    assert found == Estimate(0.5, 0.0, 1.0, 2)


def test_runs_are_resampled_within_their_task() -> None:
    # Across tasks a resample could hold four 0s; within tasks every one has two 0s and two 1s.
    found = iqm_interval([[0.0, 0.0], [1.0, 1.0]], seed=0, n_resamples=500)
    assert found == Estimate(0.5, 0.5, 0.5, 4)


def test_one_run_has_no_interval() -> None:
    assert iqm_interval([[0.4]], seed=0) == Estimate(0.4, None, None, 1)
    assert probability_of_improvement([[0.4]], [[0.3]], seed=0) == Estimate(1.0, None, None, 2)


def test_an_interval_repeats_with_its_seed_and_not_with_another() -> None:
    runs = [np.linspace(0, 1, 9) ** 2]
    first = iqm_interval(runs, seed=1, n_resamples=300)
    assert first == iqm_interval(runs, seed=1, n_resamples=300)
    assert first != iqm_interval(runs, seed=2, n_resamples=300)


def test_the_interval_is_that_of_the_enumerated_bootstrap() -> None:
    runs = [0.1, 0.5, 0.6, 1.0]
    every = [trim_mean(draw, 0.25) for draw in itertools.product(runs, repeat=4)]
    low, high = np.quantile(every, [0.025, 0.975])
    found = iqm_interval([runs], seed=0, n_resamples=20_000)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([[1.0, 2.0]], [[0.0, 0.5]], 1.0),
        ([[0.0, 0.5]], [[1.0, 2.0]], 0.0),
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.5),
        ([[1.0, 3.0]], [[2.0, 3.0]], 0.375),  # 1<2, 1<3, 3>2, 3=3: 1.5 of 4
        ([[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.5], [1.0, 1.0]], 0.5),  # all of one task, none of the other
        ([[1.0], [0.0] * 9], [[0.0], [1.0] * 9], 0.5),  # a task counts once, however many runs it has
    ],
)
def test_the_probability_of_improvement_counts_pairs(
    x: list[list[float]], y: list[list[float]], expected: float
) -> None:
    assert probability_of_improvement(x, y, seed=0).value == pytest.approx(expected)


@given(scores, scores)
def test_the_probability_of_improvement_is_mann_and_whitneys(x: list[float], y: list[float]) -> None:
    found = probability_of_improvement([x], [y], seed=0)
    u, _ = mannwhitneyu(x, y, alternative="greater", method="asymptotic")
    assert found.value == pytest.approx(u / (len(x) * len(y)))
    back = probability_of_improvement([y], [x], seed=0)
    assert found.value + back.value == pytest.approx(1)


def test_two_arms_are_resampled_apart() -> None:
    # Resampled together, equal arms would tie in every resample and the interval would have no width.
    runs = [np.arange(6.0)]
    found = probability_of_improvement(runs, runs, seed=0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.4 < 0.6 < found.high


@pytest.mark.parametrize(
    ("at", "score", "until", "expected"),
    [
        ([0, 10], [0.0, 1.0], 10, 0.5),
        ([0, 10], [0.0, 1.0], 5, 0.25),  # cut at 5, where it has reached 0.5
        ([0, 10], [0.0, 1.0], 20, 0.75),  # goes on at its last score
        ([0, 2, 10], [0.0, 1.0, 1.0], 10, 0.9),
        ([0], [0.3], 10, 0.3),
    ],
)
def test_the_area_under_a_curve_is_its_mean_height(
    at: list[float], score: list[float], until: float, expected: float
) -> None:
    assert area_under_curve(at, score, until=until) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("at", "score", "until"),
    [([], [], 1), ([0, 1], [0.5], 1), ([1, 2], [0, 1], 1), ([0, 1, 1], [0, 1, 1], 1), ([0], [0], 0)],
)
def test_a_curve_that_is_none_is_refused(at: list[float], score: list[float], until: float) -> None:
    with pytest.raises(DataError):
        area_under_curve(at, score, until=until)


@pytest.mark.parametrize("bad", [[], [float("nan")], [0.5, float("inf")]])
def test_scores_that_are_no_numbers_are_refused(bad: list[float]) -> None:
    for call in (
        lambda: iqm_interval([[0.5], bad], seed=0),
        lambda: permutation_p(bad, [0.5]),
    ):
        with pytest.raises(DataError, match="finite"):
            call()


def test_the_permutation_test_is_exact() -> None:
    # 2 of the 252 ways to choose 5 of 10 are as extreme: the given one and its mirror image.
    assert permutation_p([6, 7, 8, 9, 10], [1, 2, 3, 4, 5]) == pytest.approx(2 / 252)
    assert permutation_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert permutation_p([0.3, 0.3], [0.1, 0.2]) == pytest.approx(2 / 6)


def test_many_runs_are_relabelled_at_random() -> None:
    x, y = np.linspace(0, 1, 30), np.linspace(0.05, 1.05, 30)
    assert permutation_p(x + 5, y) == pytest.approx(1 / 10_001)
    assert 0.3 < permutation_p(x, y) < 0.9


def test_holm_steps_down() -> None:
    # Sorted: 4·0.01, 3·0.02, 2·0.04, 1·0.05 → 0.04, 0.06, 0.08, and never less than the one before.
    assert holm([0.04, 0.01, 0.05, 0.02]) == pytest.approx([0.08, 0.04, 0.08, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis(p_values: list[float]) -> None:
    for p, corrected in zip(p_values, holm(p_values), strict=True):
        assert p <= corrected <= min(1.0, len(p_values) * p) + 1e-12
