"""Intervals: goldens, symmetries, and whether they cover what they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.evaluation.stats import paired_difference, wilson
from didact.rng import generator


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # by hand from (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (0, 200, 0.0, 0.018845),
        (81, 263, 0.255289, 0.366210),  # Newcombe 1998: 0.2553 to 0.3662
    ],
)
def test_wilson_equals_the_formula(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-6)


@given(st.integers(1, 400), st.data())
def test_wilson_holds_the_estimate_and_mirrors(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert low < high
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match=r"\b[kn]\b"):
        wilson(k, n)


def test_a_difference_needs_the_same_problems_on_both_sides():
    with pytest.raises(ValueError, match="1 and 3 problems"):
        paired_difference([1.0], [0.0, 1.0, 1.0], seed=0)


@pytest.mark.parametrize("p", [0.03, 0.3, 0.9])
def test_wilson_covers_about_as_often_as_it_says(p):
    n = 120
    counts = generator(0, "coverage", str(p)).binomial(n, p, size=600)
    intervals = {int(k): wilson(int(k), n) for k in np.unique(counts)}
    covered = np.mean([intervals[int(k)][0] <= p <= intervals[int(k)][1] for k in counts])
    assert 0.92 <= covered <= 0.985


def test_the_bootstrap_covers_about_as_often_as_it_says():
    rng, covered = generator(1, "coverage"), 0
    for trial in range(200):
        skill = rng.random(80)  # a shared difficulty makes the pairs correlated
        a, b = (rng.random(80) < 0.2 + 0.6 * skill), (rng.random(80) < 0.1 + 0.6 * skill)
        found = paired_difference(a, b, seed=trial)
        covered += found.low <= 0.1 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_bootstrap_agrees_with_scipy():
    from scipy.stats import bootstrap

    rng = generator(2, "scipy")
    a, b = rng.random(60), rng.random(60)
    ours = paired_difference(a, b, seed=0)
    theirs = bootstrap((a - b,), np.mean, method="percentile", random_state=0).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert ours.mean == pytest.approx(np.mean(a - b))


pairs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=30)


@given(pairs)
def test_swapping_the_methods_flips_the_sign(values):
    a, b = np.array(values).T
    one, other = (paired_difference(x, y, seed=3) for x, y in ((a, b), (b, a)))
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))
    assert one.low - 1e-12 <= one.mean <= one.high + 1e-12 or len(values) < 8


@given(pairs)
def test_a_method_does_not_differ_from_itself(values):
    a, _ = np.array(values).T
    assert paired_difference(a, a, seed=0)[:3] == (0.0, 0.0, 0.0)


def test_the_seed_fixes_the_interval_and_only_the_interval():
    a, b = np.sin(np.arange(40)), np.cos(np.arange(40))
    first, again, other = (paired_difference(a, b, seed=s) for s in (0, 0, 1))
    assert first == again
    assert other.mean == first.mean
    assert other != first


def test_missing_values_drop_their_pair_and_are_counted():
    a, b = [1, math.nan, 0, 1, 1], [0, 1, math.nan, 1, 0]
    found = paired_difference(a, b, seed=0)
    assert (found.n, found.dropped) == (3, 2)
    assert found == paired_difference([1, 1, 1], [0, 1, 0], seed=0)._replace(dropped=2)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1], [0], "at least 2 complete pairs, not 1 of 1"),
        ([1, math.nan], [0, 0], "not 1 of 2"),
        ([], [], "not 0 of 0"),
    ],
)
def test_what_cannot_be_paired_is_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b, seed=0)
