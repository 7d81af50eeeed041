"""Confidence intervals and tests over problems and over runs (seeds).

Over problems: Wilson score intervals, and percentile bootstraps of paired differences and clustered means
(Efron & Tibshirani 1993). Over runs, the definitions of Agarwal et al. 2021 (arXiv:2108.13264):

    IQM        mean of the middle half of all runs: ⌊n/4⌋ of the n scores are cut at either end
    P(X > Y)   mean over tasks of  1/(n·m) Σᵢⱼ [xᵢ > yⱼ] + ½ [xᵢ = yⱼ]
    intervals  percentile bootstrap that resamples runs within each task, never across tasks

With fewer than four runs the IQM is the plain mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from didact.errors import DataError
from didact.rng import generator

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 10_000
"""Default number of bootstrap resamples."""
_BATCH = 1_000  # resamples in memory at once
_EXACT = 200_000  # permutations that are enumerated; above that, RESAMPLES random ones


class Estimate(NamedTuple):
    """A statistic with its 95 % confidence interval."""

    value: float
    low: float | None
    """None if there is nothing to resample: a single cluster, or no task with a second run."""
    high: float | None
    n: int
    """Number of values or runs."""

    @property
    def ci95(self) -> list[float] | None:
        """The interval as records hold it."""
        return None if self.low is None or self.high is None else [self.low, self.high]


class PairedDifference(NamedTuple):
    """The mean of a − b over problems, with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    n: int
    """Complete pairs."""
    dropped: int
    """Pairs with a missing value."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927).

    Raises:
        ValueError: not 0 ≤ successes ≤ n, or n < 1.

    >>> low, high = wilson(0, 200)
    >>> low, round(high, 4)
    (0.0, 0.0188)
    """
    found = stats.binomtest(int(successes), int(n)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def share(name: str, right: ArrayLike, interval: str | None = None) -> dict[str, Any]:
    """The share of right answers and its Wilson interval, as entries of a record.

    Args:
        right: At least one bool.
        interval: Key of the interval; "NAME_ci95" if None.
    """
    right_N = np.asarray(right, dtype=np.bool_)
    ends = wilson(int(right_N.sum()), len(right_N))
    return {name: float(right_N.mean()), interval or f"{name}_ci95": list(ends)}


def over_problems(name: str, values_P: Sequence[float], interval: str | None = None) -> dict[str, Any]:
    """The mean of one value a problem with its 95 % interval, as entries of a record.

    The interval is Wilson's where each value is 0 or 1, else a bootstrap; None for one other value. Its key
    is `interval`, or "NAME_ci95".
    """
    if set(values_P) <= {0, 1}:
        return share(name, values_P, interval)
    found = clustered_mean(values_P, [str(i) for i in range(len(values_P))])
    return {name: found.value, interval or f"{name}_ci95": found.ci95}


def paired_difference(a_N: ArrayLike, b_N: ArrayLike, *, seed: int) -> PairedDifference:
    """Mean of a − b with a bootstrap interval over problems.

    If all pairs differ by the same amount the interval has zero width; report the two Wilson intervals then.

    Args:
        a_N: One value per problem, NaN if missing.
        b_N: The same problems in the same order.

    Raises:
        DataError: fewer than two complete pairs.
        ValueError: one value a problem for one side only.
    """
    if np.shape(a_N) != np.shape(b_N):
        raise ValueError(f"the two sides have {np.size(a_N)} and {np.size(b_N)} problems")
    difference_N = np.asarray(a_N, dtype=np.float64) - np.asarray(b_N, dtype=np.float64)
    known_N = difference_N[~np.isnan(difference_N)]
    if len(known_N) < 2:
        raise DataError(
            f"a difference needs at least 2 complete pairs, not {len(known_N)} of {len(difference_N)}"
        )
    low, high = _bootstrap(np.mean, [known_N], generator(seed, "paired-bootstrap"), batch=_BATCH)
    dropped = len(difference_N) - len(known_N)
    return PairedDifference(float(known_N.mean()), low, high, len(known_N), dropped)


def clustered_mean(values: Sequence[float], clusters: Sequence[str], *, seed: int = 0) -> Estimate:
    """The mean of values with a bootstrap interval that resamples whole clusters.

    Args:
        values: N ≥ 1 finite values.
        clusters: The cluster of each value, such as the problem of a turn.

    Raises:
        DataError: no value, or one that is not finite.
    """
    value_N = _finite(values)
    names = {name: c for c, name in enumerate(dict.fromkeys(clusters))}
    of_N = [names[name] for name in clusters]
    mean = float(value_N.mean())
    if len(names) == 1:
        return Estimate(mean, None, None, len(value_N))
    low, high = _bootstrap(
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        [np.bincount(of_N, weights=value_N), np.bincount(of_N)],
        generator(seed, "clustered-bootstrap"),
        batch=_BATCH,
        paired=True,
    )
    return Estimate(mean, low, high, len(value_N))


def iqm_interval(tasks: Sequence[ArrayLike], *, seed: int, n_resamples: int = RESAMPLES) -> Estimate:
    """The interquartile mean over all runs of all tasks, with a stratified bootstrap interval.

    Args:
        tasks: One list of scores per task, at least one; lengths may differ.
        n_resamples: ≥ 1.

    Raises:
        DataError: a task without a score, or a score that is not finite.

    >>> iqm_interval([[0.0, 0.25, 0.5, 0.75, 9.0]], seed=0).value
    0.5
    """
    strata = [_finite(task) for task in tasks]

    def statistic(*draws: Floats, axis: int) -> Any:
        return stats.trim_mean(np.concatenate(draws, axis=axis), 0.25, axis=axis)

    return _stratified(statistic, strata, generator(seed, "stratified-bootstrap", "iqm"), n_resamples)


def probability_of_improvement(
    better: Sequence[ArrayLike], baseline: Sequence[ArrayLike], *, seed: int
) -> Estimate:
    """P(X > Y): how likely a run of one arm scores above a run of another.

    Args:
        better: X, one list of scores per task.
        baseline: Y, the same tasks in the same order; numbers of runs may differ.
        seed: Of the resamples; X and Y are resampled independently.

    Raises:
        DataError: a task without a score, or a score that is not finite.
    """
    strata = [_finite(task) for task in (*better, *baseline)]

    def statistic(*draws: Floats, axis: int) -> Any:
        pairs = zip(draws[: len(better)], draws[len(better) :], strict=True)
        return np.mean([_win_rate(x, y) for x, y in pairs], axis=0)

    return _stratified(statistic, strata, generator(seed, "stratified-bootstrap", "improvement"), RESAMPLES)


def area_under_curve(at: ArrayLike, score: ArrayLike, *, until: float) -> float:
    """The mean height of a learning curve from 0 to `until`, by trapezoids.

    A shorter curve keeps its last score, a longer one is cut.

    Args:
        at: [P] positions in sampled tokens or steps, rising from 0.
        score: [P] scores.
        until: End of the budget, > 0.

    Raises:
        DataError: no point, different lengths, or positions that do not rise from 0.

    >>> area_under_curve([0, 10], [0.0, 1.0], until=10)
    0.5
    >>> area_under_curve([0, 10], [0.0, 1.0], until=20)
    0.75
    """
    at_P, score_P = _finite(at), _finite(score)
    if at_P.shape != score_P.shape or at_P[0] != 0 or np.any(np.diff(at_P) <= 0) or not until > 0:
        raise DataError(
            f"a learning curve needs one score a position, positions that rise from 0 and an end above 0, "
            f"not {len(at_P)} positions from {at_P[0]:g}, {len(score_P)} scores and the end {until:g}"
        )
    grid = np.append(at_P[at_P < until], until)
    return float(np.trapezoid(np.interp(grid, at_P, score_P), grid) / until)


def permutation_p(x: ArrayLike, y: ArrayLike, *, seed: int = 0) -> float:
    """Two-sided permutation test of equal means: the share of relabellings that differ as much.

    Exact up to 200,000 relabellings, else from 10,000 random ones.

    Args:
        x: Scores of one arm, at least one.
        y: Scores of the other.

    >>> permutation_p([0.9, 0.8], [0.1, 0.2])
    0.3333333333333333
    """
    x_N, y_M = _finite(x), _finite(y)
    exact = math.comb(len(x_N) + len(y_M), len(x_N)) <= _EXACT
    found = stats.permutation_test(
        (x_N, y_M),
        lambda a, b, axis: np.abs(a.mean(axis) - b.mean(axis)).round(12),  # equal sums in any order
        n_resamples=_EXACT if exact else RESAMPLES,
        alternative="greater",
        vectorized=True,
        rng=generator(seed, "permutation"),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values in [0, 1] corrected for multiple comparisons by Holm's step-down procedure (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _finite(scores: ArrayLike) -> Floats:
    flat = np.asarray(scores, dtype=np.float64).ravel()
    if not len(flat) or not np.isfinite(flat).all():
        raise DataError(f"scores must be finite numbers, at least one, not {flat.tolist()}")
    return flat


def _win_rate(x_RN: Floats, y_RM: Floats) -> Floats:
    """[R]: the share of pairs in which x is larger, ties count half."""
    difference = x_RN[..., :, None] - y_RM[..., None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1)), dtype=np.float64)


def _stratified(
    statistic: Callable[..., Any], strata: Sequence[Floats], rng: np.random.Generator, n_resamples: int
) -> Estimate:
    """A statistic over runs, its interval from each stratum resampled separately."""
    value, n = float(statistic(*strata, axis=-1)), sum(map(len, strata))
    varying = [stratum for stratum in strata if len(stratum) > 1]
    if not varying:
        return Estimate(value, None, None, n)

    def with_singles(*draws: Floats, axis: int) -> Any:
        """The statistic with the strata of one run, which scipy refuses to resample, put back."""
        drawn, shape = iter(draws), (*draws[0].shape[:-1], 1)
        columns = [next(drawn) if len(s) > 1 else np.broadcast_to(s, shape) for s in strata]
        return statistic(*columns, axis=axis)

    low, high = _bootstrap(with_singles, varying, rng, n_resamples=n_resamples)
    return Estimate(value, low, high, n)


def _bootstrap(
    statistic: Callable[..., Any],
    samples: Sequence[NDArray[Any]],
    rng: np.random.Generator,
    *,
    n_resamples: int = RESAMPLES,
    **options: Any,
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic (scipy.stats.bootstrap)."""
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=n_resamples,
        confidence_level=0.95,
        method="percentile",
        vectorized=True,
        rng=rng,
        **options,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
