r"""Length control: a judge's preferences or scores, corrected for the length of the texts.

Judges prefer longer texts. Dubois, Galambosi, Liang & Hashimoto (2024, "Length-Controlled AlpacaEval",
arXiv:2404.04475) model the preference with a logistic regression and predict it at a length difference
of zero. With preferences p_i ∈ [0, 1] for a over b and lengths |a_i|, |b_i|:

    Δ_i  = |a_i| − |b_i|,   σ = sd(Δ)
    p_i  ~ sigmoid(θ + φ · tanh(Δ_i / σ))
    length-controlled win rate = sigmoid(θ)

Scores s_i ∈ [0, 1] of single texts have the same model, s_i ~ sigmoid(θ + φ · tanh((|a_i| − L) / σ)), and are
predicted at a length of L. This is not in the paper.

Departures from the paper: there is no term for the difficulty of an instruction, which needs many models on
the same instructions; and φ has a small ridge penalty instead of one chosen by cross-validation. If all Δ
have one sign, the value at zero is an extrapolation (`extrapolated`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from didact.errors import DataError
from didact.rng import generator

RIDGE = 0.1
"""Penalty ½·RIDGE·φ² on the log-likelihood's length term."""
CONFIDENCE = 0.95
_TINY = 1e-6  # keeps θ finite where one side wins every time
_NEWTON_STEPS = 50

Array = NDArray[np.float64]


class LengthControlled(NamedTuple):
    """The mean preference or score, raw and at equal lengths. Intervals are percentile bootstraps."""

    raw: float
    """The mean, in [0, 1]."""
    controlled: float
    """The same at a length difference of zero."""
    low: float
    """Interval of `controlled`."""
    high: float
    length_effect: float
    """φ: above 0 the judge prefers the longer text."""
    n: int
    """Verdicts."""
    missing: int
    """Failed verdicts, which are left out."""
    extrapolated: bool
    """The same side is longer in every pair, so that zero lies outside the data."""


def mean_interval(scores_N: ArrayLike, *, n_resamples: int) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of at least one score; NaN is left out."""
    s_N = np.asarray(scores_N, dtype=np.float64)
    s_N = s_N[~np.isnan(s_N)]
    rng = generator(0, "score-bootstrap")
    means = s_N[rng.integers(len(s_N), size=(n_resamples, len(s_N)))].mean(axis=1)
    return _interval(means)


def score_at(
    scores_N: ArrayLike, lengths_N: ArrayLike, length: float, *, n_resamples: int
) -> LengthControlled:
    """The mean score, raw and at a given length: the win rate against a constant opponent."""
    lengths = np.asarray(lengths_N, dtype=np.float64)
    return win_rate(scores_N, lengths, np.full_like(lengths, length), n_resamples=n_resamples)


def win_rate(
    preferences_N: ArrayLike, lengths_a_N: ArrayLike, lengths_b_N: ArrayLike, *, n_resamples: int = 1_000
) -> LengthControlled:
    """The raw and the length-controlled win rate of a over b.

    Args:
        preferences_N: For a, in [0, 1]; NaN if the verdict is missing.
        lengths_a_N: Lengths of a's texts in any unit, as characters.
        lengths_b_N: Of b's.
        n_resamples: Of the bootstrap, at least 1.

    Raises:
        DataError: the lists differ in length, a value is out of range, or fewer than two preferences.
    """
    p_N, a_N, b_N = (np.asarray(x, dtype=np.float64) for x in (preferences_N, lengths_a_N, lengths_b_N))
    if not p_N.shape == a_N.shape == b_N.shape or p_N.ndim != 1:
        raise DataError(
            f"a win rate needs three lists of one length, not {p_N.shape}, {a_N.shape}, {b_N.shape}"
        )
    known_N = ~np.isnan(p_N)
    missing = int((~known_N).sum())
    p_N, delta_N = p_N[known_N], (a_N - b_N)[known_N]
    if len(p_N) < 2:
        raise DataError(f"a win rate needs at least 2 preferences, not {len(p_N)} of {len(known_N)}")
    if p_N.min() < 0 or p_N.max() > 1 or not np.isfinite(delta_N).all():
        raise DataError("preferences lie between 0 and 1, and lengths are finite")
    theta, phi = _fit(p_N, delta_N)
    rng = generator(0, "length-controlled-bootstrap")
    resampled = [_fit(p_N[i], delta_N[i])[0] for i in rng.integers(len(p_N), size=(n_resamples, len(p_N)))]
    low, high = _interval(_sigmoid(np.asarray(resampled)))
    return LengthControlled(
        raw=float(p_N.mean()),
        controlled=float(_sigmoid(np.asarray(theta))),
        low=low,
        high=high,
        length_effect=phi,
        n=len(p_N),
        missing=missing,
        extrapolated=bool((delta_N > 0).all() or (delta_N < 0).all()),
    )


def _interval(samples: Array) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _fit(p_N: Array, delta_N: Array) -> tuple[float, float]:
    """(θ, φ) of the penalised likelihood, by Newton's method with halved steps; it is concave."""
    spread = float(delta_N.std())
    x_N = np.tanh(delta_N / spread) if spread > 0 else np.zeros_like(delta_N)
    X_N2 = np.stack([np.ones_like(x_N), x_N], axis=1)
    penalty_2 = np.array([_TINY, RIDGE])
    w_2 = np.zeros(2)
    best = _objective(w_2, X_N2, p_N, penalty_2)
    for _ in range(_NEWTON_STEPS):
        q_N = _sigmoid(X_N2 @ w_2)
        gradient_2 = X_N2.T @ (p_N - q_N) - penalty_2 * w_2
        hessian_22 = (X_N2 * (q_N * (1 - q_N))[:, None]).T @ X_N2 + np.diag(penalty_2)
        step_2 = np.linalg.solve(hessian_22, gradient_2)
        size = 1.0
        while (value := _objective(w_2 + size * step_2, X_N2, p_N, penalty_2)) < best and size > 1e-8:
            size /= 2
        if value <= best + 1e-12:
            break
        w_2, best = w_2 + size * step_2, value
    return float(w_2[0]), float(w_2[1])


def _objective(w_2: Array, X_N2: Array, p_N: Array, penalty_2: Array) -> float:
    z_N = X_N2 @ w_2
    return float((p_N * z_N - np.logaddexp(0, z_N)).sum() - 0.5 * (penalty_2 * w_2 * w_2).sum())


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))
