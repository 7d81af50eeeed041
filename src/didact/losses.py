"""Losses as pure functions of target log-probs. Imports nothing of the project.

Shapes: B rows, T tokens of the longest row, K soft targets a token.

Every loss is a *sum* over tokens, weighted by `weights_BT`. The method puts its mask and its normaliser into
the weights; nothing here divides, so that accumulating two half batches equals one whole batch. Padding has
weight 0; its other fields may have any finite value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class LossOutput(NamedTuple):
    """A loss to minimise and what to log beside it."""

    loss: Tensor
    """Scalar, differentiable."""
    metrics: dict[str, float]
    """Sums over tokens by name; an engine adds them up over its micro-batches."""


def _check(logprobs_BT: Tensor, **others: Tensor) -> None:
    for name, value in others.items():
        if value.shape != logprobs_BT.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, log-probs {tuple(logprobs_BT.shape)}")


def _where_weighted(values_BT: Tensor, logprobs_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """The values, with log π where the weight is 0, so that a ratio there is 1 and never infinite."""
    return torch.where(weights_BT != 0, values_BT, logprobs_BT.detach())


def _count(weights_BT: Tensor) -> float:
    return float((weights_BT != 0).sum())


def _off_policy(logprobs_BT: Tensor, old_logprobs_BT: Tensor, weights_BT: Tensor) -> float:
    """Σ log π_old − log π in nats over the trained tokens: over many rows, rows times KL(π_old‖π)."""
    return float((old_logprobs_BT - logprobs_BT.detach())[weights_BT != 0].sum())


def _ratio(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, weights_BT: Tensor, advantages_BT: Tensor
) -> tuple[Tensor, float]:
    """ρ = π/π_old of each token, 1 where the weight is 0; and `_off_policy`."""
    _check(logprobs_BT, weights_BT=weights_BT, advantages_BT=advantages_BT, old_logprobs_BT=old_logprobs_BT)
    off_policy = _off_policy(logprobs_BT, old_logprobs_BT, weights_BT)
    old_logprobs_BT = _where_weighted(old_logprobs_BT, logprobs_BT, weights_BT)
    return (logprobs_BT - old_logprobs_BT).exp(), off_policy


def cross_entropy(
    logprobs_BT: Tensor, *, weights_BT: Tensor, target_probs_BT: Tensor | None = None
) -> LossOutput:
    """L = −Σ w log π(target); with soft targets −Σ w Σ_k q_k log π(target_k).

    With soft targets q, both `logprobs_BT` and `target_probs_BT` are [B, T, K].
    """
    if target_probs_BT is not None:
        _check(logprobs_BT, target_probs_BT=target_probs_BT)
        logprobs_BT = (target_probs_BT * logprobs_BT).sum(-1)
    _check(logprobs_BT, weights_BT=weights_BT)
    loss = -(weights_BT * logprobs_BT).sum()
    nats = float(-logprobs_BT.detach()[weights_BT != 0].sum())
    return LossOutput(loss, {"tokens": _count(weights_BT), "nll": nats})


def policy_gradient(
    logprobs_BT: Tensor,
    *,
    weights_BT: Tensor,
    advantages_BT: Tensor,
    old_logprobs_BT: Tensor | None = None,
    ref_logprobs_BT: Tensor | None = None,
    kl_coef: float = 0.0,
) -> LossOutput:
    """L = −Σ w A log π  (Williams 1992), plus β Σ w k₃ where a reference is given.

    Its gradient is the REINFORCE estimator; the value has no meaning. `old_logprobs_BT` does not change the
    loss; it adds the metric `off_policy`, how far the policy is from the sampling weights.
    """
    _check(logprobs_BT, weights_BT=weights_BT, advantages_BT=advantages_BT)
    loss = -(weights_BT * advantages_BT * logprobs_BT).sum()
    metrics = {}
    if old_logprobs_BT is not None:
        _check(logprobs_BT, old_logprobs_BT=old_logprobs_BT)
        metrics["off_policy"] = _off_policy(logprobs_BT, old_logprobs_BT, weights_BT)
    return _with_kl(loss, logprobs_BT, weights_BT, ref_logprobs_BT, kl_coef, metrics)


def ppo(
    logprobs_BT: Tensor,
    *,
    weights_BT: Tensor,
    advantages_BT: Tensor,
    old_logprobs_BT: Tensor,
    ref_logprobs_BT: Tensor | None = None,
    kl_coef: float = 0.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> LossOutput:
    """L = −Σ w min(ρ A, clip(ρ, 1−lo, 1+hi) A), ρ = π/π_old  (Schulman et al. 2017, 1707.06347).

    The metric `clipped` counts the tokens whose minimum is the clipped one, which have no gradient.
    """
    ratio_BT, off_policy = _ratio(logprobs_BT, old_logprobs_BT, weights_BT, advantages_BT)
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    objective_BT = torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    loss = -(weights_BT * objective_BT).sum()
    bound_BT = clipped_BT * advantages_BT < ratio_BT * advantages_BT
    metrics = {"clipped": float((bound_BT & (weights_BT != 0)).sum()), "off_policy": off_policy}
    return _with_kl(loss, logprobs_BT, weights_BT, ref_logprobs_BT, kl_coef, metrics)


def importance_sampling(
    logprobs_BT: Tensor, *, weights_BT: Tensor, advantages_BT: Tensor, old_logprobs_BT: Tensor
) -> LossOutput:
    """L = −Σ w ρ A, ρ = π/π_old a token: off-policy without a clip."""
    ratio_BT, off_policy = _ratio(logprobs_BT, old_logprobs_BT, weights_BT, advantages_BT)
    loss = -(weights_BT * ratio_BT * advantages_BT).sum()
    return LossOutput(loss, {"tokens": _count(weights_BT), "off_policy": off_policy})


def cispo(
    logprobs_BT: Tensor,
    *,
    weights_BT: Tensor,
    advantages_BT: Tensor,
    old_logprobs_BT: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> LossOutput:
    """L = −Σ w sg(clip(ρ, 1−lo, 1+hi)) A log π, ρ = π/π_old a token  (MiniMax-M1, arXiv:2506.13585).

    The clipped ratio is a constant factor: no token loses its gradient, as it does under PPO's clip.
    """
    ratio_BT, off_policy = _ratio(logprobs_BT.detach(), old_logprobs_BT, weights_BT, advantages_BT)
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss = -(weights_BT * clipped_BT * advantages_BT * logprobs_BT).sum()
    clipped = float(((ratio_BT != clipped_BT) & (weights_BT != 0)).sum())
    metrics = {"tokens": _count(weights_BT), "clipped": clipped, "off_policy": off_policy}
    return LossOutput(loss, metrics)


def clipped_value(
    values_BT: Tensor,
    *,
    weights_BT: Tensor,
    returns_BT: Tensor,
    old_values_BT: Tensor,
    value_clip: float = float("inf"),
) -> LossOutput:
    """L = ½ Σ w max((V − R)², (V_c − R)²),  V_c = V_old + clip(V − V_old, ±ε)  (as in OpenAI's PPO2).

    The maximum has no gradient where V has already moved by more than ε towards R.

    V_old are the values when the answers were scored, R the targets; ε = ∞ is the plain squared error.
    """
    _check(values_BT, weights_BT=weights_BT, returns_BT=returns_BT, old_values_BT=old_values_BT)
    old_values_BT = _where_weighted(old_values_BT, values_BT, weights_BT)
    returns_BT = _where_weighted(returns_BT, values_BT, weights_BT)
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-value_clip, value_clip)
    squared_BT = torch.maximum((values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2)
    loss = 0.5 * (weights_BT * squared_BT).sum()
    active_BT = weights_BT != 0
    metrics = {
        "value_error": float(((values_BT - returns_BT).detach() ** 2)[active_BT].sum()),
        "value_clipped": float((((values_BT - old_values_BT).abs() > value_clip) & active_BT).sum()),
    }
    return LossOutput(loss, metrics)


def actor_critic(
    logprobs_BT: Tensor,
    *,
    values_BT: Tensor,
    weights_BT: Tensor,
    advantages_BT: Tensor,
    old_logprobs_BT: Tensor,
    returns_BT: Tensor,
    old_values_BT: Tensor,
    ref_logprobs_BT: Tensor | None = None,
    kl_coef: float = 0.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    value_clip: float = float("inf"),
    value_coef: float = 0.1,
) -> LossOutput:
    """`ppo` + c · `clipped_value` without an entropy term (arXiv:1707.06347, Eq. 9)."""
    actor = ppo(
        logprobs_BT,
        weights_BT=weights_BT,
        advantages_BT=advantages_BT,
        old_logprobs_BT=old_logprobs_BT,
        ref_logprobs_BT=ref_logprobs_BT,
        kl_coef=kl_coef,
        clip_low=clip_low,
        clip_high=clip_high,
    )
    critic = clipped_value(
        values_BT,
        weights_BT=weights_BT,
        returns_BT=returns_BT,
        old_values_BT=old_values_BT,
        value_clip=value_clip,
    )
    return LossOutput(actor.loss + value_coef * critic.loss, {**actor.metrics, **critic.metrics})


def kl_k3(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """k₃ = e^d − d − 1 with d = log π_ref − log π: unbiased for KL(π‖π_ref) and never negative."""
    log_ratio_BT = ref_logprobs_BT - logprobs_BT
    return log_ratio_BT.exp() - log_ratio_BT - 1


def with_entropy(output: LossOutput, entropy_N: Tensor, weights_N: Tensor, coef: float) -> LossOutput:
    """L − c Σ w H: the entropy bonus (Mnih et al. 2016, arXiv:1602.01783), H in nats at each of N targets."""
    _check(entropy_N, weights_N=weights_N)
    metrics = {**output.metrics, "entropy": float(entropy_N.detach()[weights_N != 0].sum())}
    return LossOutput(output.loss - coef * (weights_N * entropy_N).sum(), metrics)


def _with_kl(
    loss: Tensor,
    logprobs_BT: Tensor,
    weights_BT: Tensor,
    ref_logprobs_BT: Tensor | None,
    kl_coef: float,
    metrics: dict[str, float],
) -> LossOutput:
    metrics = {"tokens": _count(weights_BT), **metrics}
    if ref_logprobs_BT is not None:
        _check(logprobs_BT, ref_logprobs_BT=ref_logprobs_BT)
        kl_BT = kl_k3(logprobs_BT, _where_weighted(ref_logprobs_BT, logprobs_BT, weights_BT))
        loss = loss + kl_coef * (weights_BT * kl_BT).sum()
        metrics["kl"] = float(kl_BT.detach()[weights_BT != 0].sum())
    return LossOutput(loss, metrics)


BUILTIN: dict[str, Callable[..., LossOutput]] = {
    loss.__name__: loss
    for loss in (cross_entropy, policy_gradient, ppo, importance_sampling, cispo, actor_critic)
}
"""Losses that every engine supports by name; `actor_critic` with a value head only."""
