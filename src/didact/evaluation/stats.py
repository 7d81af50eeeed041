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


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class ClusteredMean(NamedTuple):
    """A mean of clustered values, such as the turns of one problem."""

    mean: float
    low: float | None
    """None for a single cluster."""
    high: float | None
    n: int
    """Number of values."""
    clusters: int


class PairedDifference(NamedTuple):
    """The mean of a − b over problems."""

    mean: float
    low: float
    high: float
    n: int
    """Complete pairs."""
    dropped: int
    """Pairs with a missing value."""


class Estimate(NamedTuple):
    """A statistic over runs with its confidence interval."""

    value: float
    low: float | None
    """None if no task has a second run."""
    high: float | None
    n: int
    """Number of runs."""


# ── over problems ─────────────────────────────────────────────────────────────────────────────────


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a proportion (Wilson 1927).

    Args:
        successes: 0 to n.
        n: Independent trials, ≥ 1.
        confidence: In (0, 1).

    Raises:
        ValueError: a count out of range.

    >>> low, high = wilson(0, 200)
    >>> low, round(high, 4)
    (0.0, 0.0188)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"an interval needs 0 ≤ successes ≤ n and n ≥ 1, not {successes} of {n}")
    found = stats.binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def paired_difference(
    a_N: ArrayLike, b_N: ArrayLike, *, seed: int, n_resamples: int = RESAMPLES, confidence: float = 0.95
) -> PairedDifference:
    """Mean of a − b with a bootstrap interval over problems.

    If all pairs differ by the same amount the interval has zero width; report the two Wilson intervals then.

    Args:
        a_N: One value per problem, NaN if missing.
        b_N: The same problems in the same order.
        seed: Of the resamples.
        n_resamples: ≥ 1.
        confidence: In (0, 1).

    Raises:
        DataError: different lengths, or fewer than two complete pairs.
    """
    a_N, b_N = np.asarray(a_N, dtype=np.float64), np.asarray(b_N, dtype=np.float64)
    if a_N.shape != b_N.shape or a_N.ndim != 1:
        raise DataError(f"pairs need two lists of one length, not shapes {a_N.shape} and {b_N.shape}")
    difference_N = a_N - b_N
    known_N = difference_N[~np.isnan(difference_N)]
    if len(known_N) < 2:
        raise DataError(f"a difference needs at least 2 complete pairs, not {len(known_N)} of {len(a_N)}")
    low, high = _bootstrap(
        np.mean, [known_N], generator(seed, "paired-bootstrap"), n_resamples, confidence, batch=_BATCH
    )
    return PairedDifference(float(known_N.mean()), low, high, len(known_N), len(a_N) - len(known_N))


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int = 0,
    n_resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> ClusteredMean:
    """The mean of values with a bootstrap interval that resamples whole clusters.

    Args:
        values: N ≥ 1 finite values.
        clusters: The cluster of each value.
        seed: Of the resamples.
        n_resamples: ≥ 1.
        confidence: In (0, 1).

    Raises:
        DataError: no value, one that is not finite, or different lengths.
    """
    value_N = np.asarray(values, dtype=np.float64)
    if len(value_N) != len(clusters) or not len(value_N) or not np.isfinite(value_N).all():
        raise DataError(
            f"a mean over clusters needs finite values, at least one, and a cluster for each, not "
            f"{len(value_N)} values and {len(clusters)} clusters"
        )
    names = {name: c for c, name in enumerate(dict.fromkeys(clusters))}
    of_N = np.asarray([names[name] for name in clusters])
    sum_C, size_C = np.bincount(of_N, weights=value_N), np.bincount(of_N)
    mean = float(value_N.mean())
    if len(names) == 1:
        return ClusteredMean(mean, None, None, len(value_N), 1)
    low, high = _bootstrap(
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        [sum_C, size_C],
        generator(seed, "clustered-bootstrap"),
        n_resamples,
        confidence,
        batch=_BATCH,
        paired=True,
    )
    return ClusteredMean(mean, low, high, len(value_N), len(names))


# ── over runs ─────────────────────────────────────────────────────────────────────────────────────


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all scores, of any shape.

    Raises:
        DataError: no score, or one that is not finite.

    >>> interquartile_mean([0.0, 0.25, 0.5, 0.75, 9.0])
    0.5
    >>> interquartile_mean([0.0, 1.0])
    0.5
    """
    return float(stats.trim_mean(_finite(scores), 0.25))


def iqm_interval(
    tasks: Sequence[ArrayLike], *, seed: int, n_resamples: int = RESAMPLES, confidence: float = 0.95
) -> Estimate:
    """The interquartile mean over all runs of all tasks, with a stratified bootstrap interval.

    Args:
        tasks: One list of scores per task; lengths may differ.
        seed: Of the resamples.
        n_resamples: ≥ 1.
        confidence: In (0, 1).

    Raises:
        DataError: no task, an empty one, or a score that is not finite.
    """
    strata = _strata(tasks)
    low, high = _stratified_bootstrap(
        lambda *draws, axis: stats.trim_mean(np.concatenate(draws, axis=axis), 0.25, axis=axis),
        strata,
        generator(seed, "stratified-bootstrap", "iqm"),
        n_resamples,
        confidence,
    )
    return Estimate(interquartile_mean(np.concatenate(strata)), low, high, sum(map(len, strata)))


def probability_of_improvement(
    better: Sequence[ArrayLike],
    baseline: Sequence[ArrayLike],
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Estimate:
    """P(X > Y): how likely a run of one arm scores above a run of another.

    Args:
        better: X, one list of scores per task.
        baseline: Y, the same tasks in the same order; numbers of runs may differ.
        seed: Of the resamples; X and Y are resampled independently.
        n_resamples: ≥ 1.
        confidence: In (0, 1).

    Raises:
        DataError: different numbers of tasks, an empty one, or a score that is not finite.
    """
    x, y = _strata(better), _strata(baseline)
    if len(x) != len(y):
        raise DataError(f"two arms are compared on the same tasks, not on {len(x)} and {len(y)}")

    def statistic(*draws: Floats, axis: int) -> Floats:
        wins = [_win_rate(a, b) for a, b in zip(draws[: len(x)], draws[len(x) :], strict=True)]
        return np.asarray(np.mean(wins, axis=0), dtype=np.float64)

    rng = generator(seed, "stratified-bootstrap", "improvement")
    low, high = _stratified_bootstrap(statistic, [*x, *y], rng, n_resamples, confidence)
    return Estimate(float(statistic(*x, *y, axis=-1)), low, high, sum(map(len, [*x, *y])))


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
        seed: Of the random relabellings.

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
    """p-values corrected for multiple comparisons by Holm's step-down procedure (Holm 1979).

    Raises:
        DataError: a value outside [0, 1].

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise DataError(f"p-values lie in [0, 1], not {list(p_values)}")
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


def _strata(tasks: Sequence[ArrayLike]) -> list[Floats]:
    if not tasks:
        raise DataError("a statistic over runs needs the scores of at least one task")
    return [_finite(task) for task in tasks]


def _win_rate(x_RN: Floats, y_RM: Floats) -> Floats:
    """[R]: the share of pairs in which x is larger, ties count half."""
    difference = x_RN[..., :, None] - y_RM[..., None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1)), dtype=np.float64)


def _stratified_bootstrap(
    statistic: Callable[..., Any],
    strata: Sequence[Floats],
    rng: np.random.Generator,
    n_resamples: int,
    confidence: float,
) -> tuple[float, float] | tuple[None, None]:
    """The interval of a statistic, each stratum resampled separately; None if all hold a single run."""
    if all(len(stratum) == 1 for stratum in strata):
        return None, None
    several = [len(stratum) > 1 for stratum in strata]

    def with_singles(*draws: Floats, axis: int) -> Any:
        """The statistic with the strata of one run, which scipy refuses to resample, put back."""
        drawn, shape = iter(draws), (*draws[0].shape[:-1], 1)
        columns = (
            next(drawn) if many else np.broadcast_to(stratum, shape)
            for stratum, many in zip(strata, several, strict=True)
        )
        return statistic(*columns, axis=axis)

    varying = [stratum for stratum, many in zip(strata, several, strict=True) if many]
    return _bootstrap(with_singles, varying, rng, n_resamples, confidence)


def _bootstrap(
    statistic: Callable[..., Any],
    samples: Sequence[NDArray[Any]],
    rng: np.random.Generator,
    n_resamples: int,
    confidence: float,
    **options: Any,
) -> tuple[float, float]:
    """The percentile interval of a statistic (scipy.stats.bootstrap)."""
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=n_resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=rng,
        **options,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
