"""How sure a measured accuracy is: Wilson intervals and paired bootstrap differences.

The unit is the problem. Two methods are compared on the same problems, pair by pair, which is much
sharper than comparing their two intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from didact.errors import DataError
from didact.rng import generator

_CHUNK = 1_000  # resamples drawn at once: bounds memory to _CHUNK × n numbers


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class ClusteredMean(NamedTuple):
    """A mean over values that come in clusters, as the turns of one problem."""

    mean: float
    low: float | None
    """None where a single cluster leaves nothing to resample."""
    high: float | None
    n: int
    """Values."""
    clusters: int


class PairedDifference(NamedTuple):
    """The mean of a − b over problems."""

    mean: float
    low: float
    high: float
    n: int
    """Pairs that were compared."""
    dropped: int
    """Pairs left out because one of the two values was missing."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a proportion (Wilson 1927), good down to 0 of n and n of n.

    Args:
        successes: From 0 to n.
        n: Independent trials, at least 1.
        confidence: In (0, 1).

    Raises:
        ValueError: a count out of range.

    >>> low, high = wilson(0, 200)
    >>> low, round(high, 4)
    (0.0, 0.0188)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"an interval needs 0 ≤ successes ≤ n and n ≥ 1, not {successes} of {n}")
    found = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def paired_difference(
    a_N: ArrayLike, b_N: ArrayLike, *, seed: int, n_resamples: int = 10_000, confidence: float = 0.95
) -> PairedDifference:
    """Mean of a − b with a percentile bootstrap interval over problems (Efron & Tibshirani 1993).

    Where all pairs differ by the same amount (all solved against none) the bootstrap cannot see any
    spread and the interval has no width; the two Wilson intervals then say more.

    Args:
        a_N: One value a problem, NaN where missing.
        b_N: The same problems in the same order.
        seed: Fixes the resamples.
        n_resamples: How many, at least 1.
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
    rng = generator(seed, "paired-bootstrap")
    means = np.concatenate(
        [
            known_N[rng.integers(len(known_N), size=(min(_CHUNK, n_resamples - start), len(known_N)))].mean(1)
            for start in range(0, n_resamples, _CHUNK)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(
        float(known_N.mean()), float(low), float(high), len(known_N), len(a_N) - len(known_N)
    )


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int = 0,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
) -> ClusteredMean:
    """The mean of values with a percentile bootstrap interval that resamples whole clusters.

    Values of one cluster hang together; taking them for independent would make an interval too narrow.

    Args:
        values: N finite values, at least one.
        clusters: The cluster of each.
        seed: Fixes the resamples.
        n_resamples: How many, at least 1.
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
    sum_C = np.bincount(of_N, weights=value_N)
    size_C = np.bincount(of_N)
    count, mean = len(names), float(value_N.mean())
    if count == 1:
        return ClusteredMean(mean, None, None, len(value_N), 1)
    rng = generator(seed, "clustered-bootstrap")
    means = []
    for start in range(0, n_resamples, _CHUNK):
        drawn = rng.integers(count, size=(min(_CHUNK, n_resamples - start), count))
        means.append(sum_C[drawn].sum(1) / size_C[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return ClusteredMean(mean, float(low), float(high), len(value_N), count)
