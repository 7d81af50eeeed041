"""What several seeds show: robust means, chances of being better, and how sure they are.

The unit is the run (one seed of one arm on one task); `intervals.py` has the same for problems. The
definitions are those of Agarwal et al. 2021 (arXiv:2108.13264):

    IQM        mean of the middle half of all runs: ⌊n/4⌋ of the n scores are cut at either end
    P(X > Y)   mean over tasks of  1/(n·m) Σᵢⱼ [xᵢ > yⱼ] + ½ [xᵢ = yⱼ]
    intervals  percentile bootstrap that resamples runs within each task, never across tasks

With five runs the IQM is the mean of the middle three, with fewer than four it is the plain mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from didact.errors import DataError
from didact.rng import generator

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 10_000
"""Bootstrap resamples, unless said otherwise."""
_EXACT = 200_000  # relabellings that are enumerated; above that, as many random ones as RESAMPLES


class Estimate(NamedTuple):
    """A statistic over runs with its 95 % interval (or another, where one was asked for)."""

    value: float
    low: float | None
    """None where a single run a task leaves nothing to resample."""
    high: float | None
    n: int
    """Runs behind it."""


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all scores, whatever their shape.

    Raises:
        DataError: no score, or one that is not finite.

    >>> interquartile_mean([0.0, 0.25, 0.5, 0.75, 9.0])
    0.5
    >>> interquartile_mean([0.0, 1.0])
    0.5
    """
    flat_N = _checked(scores)
    return float(_iqm(flat_N[None])[0])


def iqm_interval(
    tasks: Sequence[ArrayLike], *, seed: int, n_resamples: int = RESAMPLES, confidence: float = 0.95
) -> Estimate:
    """The interquartile mean over all runs of all tasks, with a stratified bootstrap interval.

    Args:
        tasks: One list of scores a task; tasks may have different numbers of runs.
        seed: Fixes the resamples.
        n_resamples: How many, at least 1.
        confidence: In (0, 1).

    Raises:
        DataError: no task, an empty one, or a score that is not finite.
    """
    strata = _strata(tasks)
    low, high = _bootstrap(
        lambda draws: _iqm(np.concatenate(draws, axis=1)),
        [strata],
        ("iqm", seed, n_resamples, confidence),
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
    """How likely a run of one arm beats a run of another: 0.5 where they are alike.

    Args:
        better: X, one list of scores a task.
        baseline: Y, the same tasks in the same order; the numbers of runs may differ.
        seed: Fixes the resamples; X and Y are resampled apart from each other.
        n_resamples: How many, at least 1.
        confidence: In (0, 1).

    Raises:
        DataError: different numbers of tasks, an empty one, or a score that is not finite.
    """
    x, y = _strata(better), _strata(baseline)
    if len(x) != len(y):
        raise DataError(f"two arms are compared on the same tasks, not on {len(x)} and {len(y)}")

    def statistic(draws: Sequence[Floats]) -> Floats:
        wins = [_wins(a, b) for a, b in zip(draws[: len(x)], draws[len(x) :], strict=True)]
        return np.asarray(np.mean(wins, axis=0), dtype=np.float64)

    value = float(statistic([task[None] for task in (*x, *y)])[0])
    low, high = _bootstrap(statistic, [x, y], ("improvement", seed, n_resamples, confidence))
    return Estimate(value, low, high, sum(map(len, x)) + sum(map(len, y)))


def area_under_curve(at: ArrayLike, score: ArrayLike, *, until: float) -> float:
    """The mean height of a learning curve from 0 to `until`: trapezoids, divided by `until`.

    A curve that ends before keeps its last score, one that goes further is cut, so that runs which
    overshoot a budget by part of a step can be compared.

    Args:
        at: [P] where the curve was measured, in sampled tokens or steps, rising, from 0 on.
        score: [P] the scores there.
        until: The end of the budget, above 0.

    Raises:
        DataError: no point, different lengths, or positions that do not rise from 0.

    >>> area_under_curve([0, 10], [0.0, 1.0], until=10)
    0.5
    >>> area_under_curve([0, 10], [0.0, 1.0], until=20)
    0.75
    """
    at_P, score_P = _checked(at), _checked(score)
    if at_P.shape != score_P.shape or at_P[0] != 0 or np.any(np.diff(at_P) <= 0) or not until > 0:
        raise DataError(
            f"a learning curve needs one score a position, positions that rise from 0 and an end above 0, "
            f"not {len(at_P)} positions from {at_P[0]:g}, {len(score_P)} scores and the end {until:g}"
        )
    inside = at_P[at_P < until]
    grid = np.append(inside, until)
    return float(np.trapezoid(np.interp(grid, at_P, score_P), grid) / until)


def permutation_p(x: ArrayLike, y: ArrayLike, *, seed: int = 0) -> float:
    """Two-sided permutation test of equal means: how often a relabelling of the runs differs as much.

    Exact by enumeration for up to 200,000 relabellings, beyond that by random ones. No p-value can be
    below 1 divided by their number (twice that for arms of the same size).

    Args:
        x: Scores of one arm, at least one.
        y: Scores of the other.
        seed: Fixes the random relabellings.

    >>> permutation_p([0.9, 0.8], [0.1, 0.2])
    0.3333333333333333
    """
    x_N, y_M = _checked(x), _checked(y)
    pooled, n = np.concatenate([x_N, y_M]), len(x_N)
    total, size = float(pooled.sum()), len(pooled)

    def differ(sums_R: Floats) -> Floats:
        return np.asarray(np.abs(sums_R / n - (total - sums_R) / (size - n)), dtype=np.float64)

    seen = differ(np.asarray([x_N.sum()]))[0] * (1 - 1e-12) - 1e-12
    if math.comb(size, n) <= _EXACT:
        sums = np.array([pooled[list(chosen)].sum() for chosen in itertools.combinations(range(size), n)])
        return float(np.mean(differ(sums) >= seen))
    rng = generator(seed, "permutation")
    sums = np.array([rng.permutation(pooled)[:n].sum() for _ in range(RESAMPLES)])
    return float((1 + np.count_nonzero(differ(sums) >= seen)) / (1 + RESAMPLES))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being many (Holm 1979): step-down, never below the given ones.

    Rejecting where the corrected value is below α keeps the chance of any false finding among all of
    them below α, however the comparisons depend on each other.

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


def _checked(scores: ArrayLike) -> Floats:
    flat = np.asarray(scores, dtype=np.float64).ravel()
    if not len(flat) or not np.isfinite(flat).all():
        raise DataError(f"scores must be finite numbers, at least one, not {flat.tolist()}")
    return flat


def _strata(tasks: Sequence[ArrayLike]) -> list[Floats]:
    if not len(tasks):
        raise DataError("a statistic over runs needs the scores of at least one task")
    return [_checked(task) for task in tasks]


def _iqm(scores_RN: Floats) -> Floats:
    """Row by row: sort, cut a quarter (rounded down) at both ends, average."""
    n = scores_RN.shape[1]
    cut = n // 4
    return np.asarray(np.sort(scores_RN, axis=1)[:, cut : n - cut].mean(axis=1), dtype=np.float64)


def _wins(x_RN: Floats, y_RM: Floats) -> Floats:
    """Row by row: the share of pairs in which x is larger, ties for half."""
    difference = x_RN[:, :, None] - y_RM[:, None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2)), dtype=np.float64)


def _bootstrap(
    statistic: Callable[[Sequence[Floats]], Floats],
    arms: Sequence[Sequence[Floats]],
    how: tuple[str, int, int, float],
) -> tuple[float, float] | tuple[None, None]:
    """The percentile interval of a statistic; every stratum of every arm is resampled by itself."""
    stream, seed, n_resamples, confidence = how
    strata = [task for arm in arms for task in arm]
    if all(len(task) == 1 for task in strata):
        return None, None
    rng = generator(seed, "stratified-bootstrap", stream)
    draws = [task[rng.integers(len(task), size=(n_resamples, len(task)))] for task in strata]
    low, high = np.quantile(statistic(draws), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
