"""Advantages, returns and baselines, as functions of arrays. Imports nothing of the project.

A missing reward is NaN, never 0: it is in no mean and gets a NaN advantage, for which a method builds no row.

Shapes: N answers or dialogues, H turns, T tokens of one answer, K branches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def group_mean(values_N: ArrayLike, groups_N: Sequence[object]) -> Array:
    """The NaN-aware mean of each value's group, one per value; NaN for a group without any value."""
    values_N = np.asarray(values_N, dtype=np.float64)
    if len(values_N) != len(groups_N):
        raise ValueError(f"{len(values_N)} values for {len(groups_N)} group keys")
    index = {key: i for i, key in enumerate(dict.fromkeys(groups_N))}
    group_N = np.asarray([index[key] for key in groups_N], dtype=np.int64)
    known_N = ~np.isnan(values_N)
    count_G = np.bincount(group_N[known_N], minlength=len(index))
    total_G = np.bincount(group_N[known_N], weights=values_N[known_N], minlength=len(index))
    mean_G = np.full(len(index), np.nan)
    np.divide(total_G, count_G, out=mean_G, where=count_G > 0)
    return mean_G[group_N]


def group_advantages(
    rewards_N: ArrayLike, groups_N: Sequence[object], *, divide_by_std: bool = False, eps: float = 1e-6
) -> Array:
    """A_i = r_i − mean of its group, optionally divided by (std of the group + eps).

    GRPO (arXiv:2402.03300) divides, RLTF and Dr. GRPO (arXiv:2503.20783) do not. A group of one
    value, or of equal values, gives 0.
    """
    rewards_N = np.asarray(rewards_N, dtype=np.float64)
    centred_N: Array = rewards_N - group_mean(rewards_N, groups_N)
    if divide_by_std:
        std_N = np.sqrt(group_mean(centred_N**2, groups_N))
        centred_N = centred_N / (std_N + eps)
    return centred_N


def first_turn_baseline(
    second_rewards_N: ArrayLike, first_rewards_N: ArrayLike, groups_N: Sequence[object]
) -> Array:
    """RLTF-SD's A_i = r₁ᵢ − mean_j r₀ⱼ over the group (arXiv:2602.02482, Eq. for A⁽⁰⁾).

    The mean is over *all* first turns of the group, also those without a second turn. The result is NaN where
    r₁ is missing, and where fewer than two first rewards of the group are known. It is 0 only where first
    answers already succeed.
    """
    first_N = np.asarray(first_rewards_N, dtype=np.float64)
    known_N = group_mean(~np.isnan(first_N), groups_N) * group_size(groups_N)
    baseline_N = np.where(known_N > 1.5, group_mean(first_N, groups_N), np.nan)
    return np.asarray(second_rewards_N, dtype=np.float64) - baseline_N


def group_size(groups_N: Sequence[object]) -> Array:
    """The number of values in each value's group, [N]."""
    count = Counter(groups_N)
    return np.array([count[key] for key in groups_N], dtype=np.float64)


def second_turn_baseline(
    second_rewards_N: ArrayLike, first_rewards_N: ArrayLike, groups_N: Sequence[object]
) -> Array:
    """A_i = r₁ᵢ − mean_j r₁ⱼ over the group's second turns; r₀ is not used.

    Under importance weights its expected gradient is 1 − 1/n of that of `first_turn_baseline`. It is 0 with
    probability p₁ⁿ + (1 − p₁)ⁿ: the signal vanishes as second turns become reliable.
    """
    return group_advantages(second_rewards_N, groups_N)


def leave_one_out_baseline(
    second_rewards_N: ArrayLike, first_rewards_N: ArrayLike, groups_N: Sequence[object]
) -> Array:
    """A_i = r₁ᵢ − mean of the group's *other* second turns (RLOO, arXiv:2402.14740); r₀ is not used.

    n / (n − 1) times `second_turn_baseline`, hence unbiased; NaN where there is no other.
    """
    second_N = np.asarray(second_rewards_N, dtype=np.float64)
    count = Counter(g for g, r in zip(groups_N, second_N, strict=True) if not np.isnan(r))
    count_N = np.array([count[g] for g in groups_N], dtype=np.float64)
    factor_N = np.divide(count_N, count_N - 1, out=np.full(len(count_N), np.nan), where=count_N > 1)
    advantages_N: Array = factor_N * group_advantages(second_N, groups_N)
    return advantages_N


def first_reward_baseline(
    second_rewards_N: ArrayLike, first_rewards_N: ArrayLike, groups_N: Sequence[object]
) -> Array:
    """A_i = r₁ᵢ − r₀ᵢ, the dialogue's own gain; unbiased, but usually of more variance than the mean."""
    return np.asarray(second_rewards_N, dtype=np.float64) - np.asarray(first_rewards_N, dtype=np.float64)


def no_baseline(second_rewards_N: ArrayLike, first_rewards_N: ArrayLike, groups_N: Sequence[object]) -> Array:
    """A_i = r₁ᵢ: rejection sampling, if rewards are 0 and 1."""
    return np.array(second_rewards_N, dtype=np.float64)


def returns_to_go(rewards_NH: ArrayLike, turns_N: ArrayLike, gamma: float) -> Array:
    """G_h = r_h + γ G_{h+1} over the turns of a dialogue, so that G₀ = Σ_h γ^h r_h.

    A turn after the dialogue's last one adds nothing; one without a reward (NaN) makes its return and those
    before it NaN.
    """
    returns_NH = np.array(rewards_NH, dtype=np.float64)
    for h in reversed(range(returns_NH.shape[1] - 1)):
        came_N = np.asarray(turns_N) > h + 1
        returns_NH[:, h] += np.where(came_N, gamma * returns_NH[:, h + 1], 0.0)
    return returns_NH


def last_reward_returns(rewards_NH: ArrayLike, turns_N: ArrayLike, gamma: float) -> Array:
    """R = γ^(τ−1) r_τ of each dialogue, [N]; τ ≥ 1 is its last turn, counted from 1."""
    rewards_NH = np.asarray(rewards_NH, dtype=np.float64)
    last_N = np.asarray(turns_N) - 1
    returns_N: Array = gamma**last_N * rewards_NH[np.arange(len(rewards_NH)), last_N]
    return returns_N


def mean_of_known(values_KN: ArrayLike) -> Array:
    """The mean over the first axis without NaN; NaN where all values are."""
    values_KN = np.asarray(values_KN, dtype=np.float64)
    count_N = (~np.isnan(values_KN)).sum(0)
    mean_N = np.full(values_KN.shape[1:], np.nan)
    np.divide(np.nansum(values_KN, axis=0), count_N, out=mean_N, where=count_N > 0)
    return mean_N


def token_returns(rewards_T: ArrayLike, gamma: float) -> Array:
    """G_t = r_t + γ G_{t+1} of one answer, [T]; 0 after its last token."""
    returns_T = np.array(rewards_T, dtype=np.float64)
    for t in reversed(range(len(returns_T) - 1)):
        returns_T[t] += gamma * returns_T[t + 1]
    return returns_T


def gae(rewards_T: ArrayLike, values_T: ArrayLike, gamma: float, lam: float) -> Array:
    """Generalised advantage estimation of one answer (Schulman et al., arXiv:1506.02438).

        d_t = r_t + γ V_{t+1} − V_t,   A_t = d_t + γ λ A_{t+1};   V = A = 0 after the last token

    V is the value of the prefix before each token. λ = 0 relies on the values, 1 on the rewards.
    """
    rewards_T, values_T = np.asarray(rewards_T, np.float64), np.asarray(values_T, np.float64)
    if rewards_T.shape != values_T.shape:
        raise ValueError(f"{len(rewards_T)} rewards for {len(values_T)} values")
    errors_T = rewards_T + gamma * np.append(values_T[1:], 0.0) - values_T
    return token_returns(errors_T, gamma * lam)


def position_baselines(returns_N: Sequence[ArrayLike], groups_N: Sequence[object]) -> list[Array]:
    """b_t of each answer: the mean of G_t over its group.

    An answer that has ended by t contributes its last return. With one reward at the last token, b is thus
    the mean reward of the group and G − b equals `group_advantages`, for answers of any length.
    """
    arrays = [np.asarray(r, dtype=np.float64) for r in returns_N]
    longest = max(map(len, arrays), default=0)
    if not longest:
        return arrays
    extended_NT = np.stack([np.pad(array, (0, longest - len(array)), "edge") for array in arrays])
    means_NT = np.stack([group_mean(column_N, groups_N) for column_N in extended_NT.T], axis=1)
    return [mean_T[: len(array)] for mean_T, array in zip(means_NT, arrays, strict=True)]


def whitened(values_N: Sequence[ArrayLike], *, eps: float = 1e-8) -> list[Array]:
    """The values shifted and scaled to mean 0 and variance 1 over all tokens of all answers.

    This makes rewards relative: where every token is good, the less good ones are pushed down. The variance
    is that of the population, Σ(x − x̄)²/N; TRL's `masked_whiten`, which Text2Grad's code calls, has N − 1.
    """
    arrays = [np.asarray(v, dtype=np.float64) for v in values_N]
    if not arrays:
        return []
    flat = np.concatenate(arrays)
    mean, std = flat.mean(), flat.std()
    return [(array - mean) / (std + eps) for array in arrays]


def explained_variance(values: ArrayLike, returns: ArrayLike) -> float:
    """1 − Var(R − V) / Var(R): 1 for perfect values, 0 for constant ones; NaN where all returns are equal."""
    returns = np.asarray(returns, dtype=np.float64)
    spread = float(returns.var()) if returns.size else 0.0
    return 1 - float((returns - np.asarray(values)).var()) / spread if spread > 0 else float("nan")
