"""verl plug-in: Didact's advantage estimators and losses under names of verl's registries.

verl loads it through the entry-point group `verl.plugins`, in every process. Then

    algorithm.adv_estimator=didact_span_critic_free
    actor_rollout_ref.actor.policy_loss.loss_mode=didact_ppo

use advantages.py and losses.py inside verl's trainer. Without verl, importing this module has no effect.

In verl 0.9.1 an estimator gets rewards and mask [B, T], the prompts' uids as groups, and the config, but not
the critic's values: `gae` is a branch of verl's own, which computes GAE on token rewards and then whitens it.
`didact_span_gae` is therefore for trainers that pass `values`.

Masked tokens (a tool's output, padding) are no part of an answer: estimators run over the others. A NaN
reward is a missing one: it is in no mean, and its tokens get advantage 0, because verl cannot leave out the
row; the loss's normaliser still counts them. Nothing is whitened.

docs/scaling.md has the launch line, what was run and what these registries cannot express.

Shapes: B rows, T tokens of the longest response, padded.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from didact import advantages as adv
from didact import losses
from didact.errors import CapabilityError, DataError

LOG = logging.getLogger("didact")
Advantages: TypeAlias = tuple[Tensor, Tensor]
"""Advantages and returns, [B, T] each."""
Rows: TypeAlias = list[adv.Array]


def direct(token_level_rewards: Tensor, response_mask: Tensor, **_: Any) -> Advantages:
    """A_t = r_t: Text2Grad's NL-gradient, if the rewards are those of spans."""
    rewards = _answers(token_level_rewards, response_mask)
    return _padded(rewards, rewards, response_mask, token_level_rewards)


def span_critic_free(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[object] | None = None,
    config: Any = None,
    **_: Any,
) -> Advantages:
    """A_t = G_t − the group's mean G_t, G_t = Σ_l γ^l r_{t+l}: Text2Grad without a critic.

    γ is from the config. With one reward at the last token and γ = 1 it equals GRPO without division by
    the std.
    """
    gamma = float(_setting(config, "gamma", 1.0))
    returns = [adv.token_returns(r, gamma) for r in _answers(token_level_rewards, response_mask)]
    groups = _groups(index, returns)
    kept = [i for i, g in enumerate(returns) if len(g)]  # a row without a token has no last return
    means = adv.position_baselines([returns[i] for i in kept], [groups[i] for i in kept])
    advantages = list(returns)
    for i, mean in zip(kept, means, strict=True):
        advantages[i] = returns[i] - mean
    return _padded(advantages, returns, response_mask, token_level_rewards)


def span_gae(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    values: Tensor | None = None,
    config: Any = None,
    **_: Any,
) -> Advantages:
    """GAE on token rewards, not whitened; γ and λ from the config.

    Raises:
        CapabilityError: the trainer passes no values; verl's own trainer does not.
    """
    if values is None:
        raise CapabilityError(
            "verl passes the critic's values to its own estimator alone: set algorithm.adv_estimator=gae, "
            "which is GAE on the same token rewards, whitened; or didact_span_critic_free, without a critic"
        )
    gamma, lam = float(_setting(config, "gamma", 1.0)), float(_setting(config, "lam", 1.0))
    rewards, known = (_answers(x, response_mask) for x in (token_level_rewards, values))
    advantages = [adv.gae(r, v, gamma, lam) for r, v in zip(rewards, known, strict=True)]
    # Where the reward is missing, the target of the critic is its own value.
    returns = [np.nan_to_num(a, nan=0.0) + v for a, v in zip(advantages, known, strict=True)]
    return _padded(advantages, returns, response_mask, token_level_rewards)


def grpo(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[object] | None = None,
    config: Any = None,
    **_: Any,
) -> Advantages:
    """A = R − mean of its group, divided by the population std under `norm_adv_by_std_in_grpo`."""
    rewards_N = _totals(token_level_rewards, response_mask)
    divide = bool(_setting(config, "norm_adv_by_std_in_grpo", True))
    found_N = adv.group_advantages(rewards_N, _groups(index, rewards_N), divide_by_std=divide)
    return _spread(found_N, response_mask, token_level_rewards)


def rltf_sd(*args: Any, **kwargs: Any) -> Advantages:
    """A = r₁ − mean of the group's r₀: RLTF-SD's, for rows that train y₁ under the first prompt."""
    return _second_turn(adv.first_turn_baseline, *args, **kwargs)


def rltf_first_reward(*args: Any, **kwargs: Any) -> Advantages:
    """A = r₁ − r₀, the dialogue's own gain; otherwise as `rltf_sd`."""
    return _second_turn(adv.first_reward_baseline, *args, **kwargs)


def _second_turn(
    baseline: Callable[..., adv.Array],
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[object] | None = None,
    reward_baselines: Tensor | None = None,
    **_: Any,
) -> Advantages:
    """Advantages of second turns: `baseline` of r₁ (the sum of a row's rewards), r₀ [B], and the groups."""
    if reward_baselines is None:
        raise DataError(
            "the batch has no reward_baselines: let the agent loop or trainer put r₀, the first answer's "
            "reward, of each row's dialogue there, [B]"
        )
    second_N = _totals(token_level_rewards, response_mask)
    first_N = reward_baselines.detach().double().cpu().numpy()
    found_N = baseline(second_N, first_N, _groups(index, second_N))
    return _spread(found_N, response_mask, token_level_rewards)


def rltf_leave_one_out(
    token_level_rewards: Tensor, response_mask: Tensor, index: Sequence[object] | None = None, **_: Any
) -> Advantages:
    """A = R − mean of the group's others (RLOO); 0 where there is no other."""
    rewards_N = _totals(token_level_rewards, response_mask)
    found_N = adv.leave_one_out_baseline(rewards_N, rewards_N, _groups(index, rewards_N))
    return _spread(found_N, response_mask, token_level_rewards)


ESTIMATORS: Mapping[str, Callable[..., Advantages]] = {
    "didact_direct": direct,
    "didact_grpo": grpo,
    "didact_rltf_first_reward": rltf_first_reward,
    "didact_rltf_leave_one_out": rltf_leave_one_out,
    "didact_rltf_sd": rltf_sd,
    "didact_span_critic_free": span_critic_free,
    "didact_span_gae": span_gae,
}
"""By name for `algorithm.adv_estimator`."""


def policy_loss(name: str, agg_loss: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, dict[str, Any]]]:
    """A loss of losses.py with verl's signature.

    verl's mask and `loss_agg_mode` become the weights of Didact's loss, which is a sum: verl's `agg_loss` is
    linear in the token losses, and its gradient with respect to them is the weight of each token.
    """
    function, clips = LOSSES[name]

    def compute(
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        weights_BT = _weights(agg_loss, response_mask, loss_agg_mode, config).to(log_prob.dtype)
        if rollout_is_weights is not None:
            weights_BT = weights_BT * rollout_is_weights
        output = function(
            log_prob,
            weights_BT=weights_BT,
            advantages_BT=advantages,
            old_logprobs_BT=old_log_prob,
            **(_clip(config) if clips else {}),
        )
        tokens = max(1.0, output.metrics.get("tokens", float((weights_BT != 0).sum())))
        metrics = {"actor/ppo_kl": output.metrics["off_policy"] / tokens}
        if "clipped" in output.metrics:
            metrics["actor/pg_clipfrac"] = output.metrics["clipped"] / tokens
        return output.loss, metrics

    compute.__name__ = name
    return compute


LOSSES: Mapping[str, tuple[Callable[..., losses.LossOutput], bool]] = {
    "didact_cispo": (losses.cispo, True),
    "didact_importance_sampling": (losses.importance_sampling, False),
    "didact_policy_gradient": (losses.policy_gradient, False),
    "didact_ppo": (losses.ppo, True),
}
"""By name for `actor.policy_loss.loss_mode`: the function, and whether it takes verl's clip ratios."""


def _weights(agg_loss: Callable[..., Tensor], mask_BT: Tensor, mode: str, config: Any) -> Tensor:
    with torch.enable_grad():
        ones_BT = torch.ones_like(mask_BT, dtype=torch.float32, requires_grad=True)
        batch = _setting(config, "global_batch_info", {})
        total = agg_loss(loss_mat=ones_BT, loss_mask=mask_BT, loss_agg_mode=mode, **batch)
        (found_BT,) = torch.autograd.grad(total, ones_BT)
    return found_BT


def _clip(config: Any) -> dict[str, float]:
    both = _setting(config, "clip_ratio", 0.2)
    low, high = _setting(config, "clip_ratio_low", None), _setting(config, "clip_ratio_high", None)
    return {"clip_low": both if low is None else low, "clip_high": both if high is None else high}


def _setting(config: Any, name: str, otherwise: Any) -> Any:
    """A setting of a dataclass or of a mapping, both of which verl uses."""
    if isinstance(config, Mapping):
        return config.get(name, otherwise)
    return getattr(config, name, otherwise)


def _answers(values_BT: Tensor, mask_BT: Tensor) -> Rows:
    """Each row's unmasked entries."""
    values, mask = values_BT.detach().double().cpu().numpy(), mask_BT.detach().bool().cpu().numpy()
    return [row[kept] for row, kept in zip(values, mask, strict=True)]


def _totals(rewards_BT: Tensor, mask_BT: Tensor) -> adv.Array:
    """R of each row: the sum of its unmasked rewards, NaN where one is missing."""
    return np.array([row.sum() for row in _answers(rewards_BT, mask_BT)])


def _groups(index: Sequence[object] | None, rows: Sequence[object] | adv.Array) -> list[object]:
    if index is None:
        raise DataError("the batch has no uid, which groups the rows that answer the same prompt")
    if len(index) != len(rows):
        raise DataError(f"{len(index)} uids for {len(rows)} rows")
    return list(index)


def _padded(advantages: Rows, returns: Rows, mask_BT: Tensor, like: Tensor) -> Advantages:
    """The rows at their unmasked places; 0 elsewhere and for NaN."""
    found = np.zeros((2, *mask_BT.shape))
    mask = mask_BT.detach().bool().cpu().numpy()
    for i in range(len(mask)):
        found[:, i, mask[i]] = np.nan_to_num([advantages[i], returns[i]], nan=0.0)
    padded = torch.from_numpy(found).to(like)
    return padded[0], padded[1]


def _spread(values_N: adv.Array, mask_BT: Tensor, like: Tensor) -> Advantages:
    """One value for all tokens of a row, as advantages and as returns."""
    counts = mask_BT.detach().bool().sum(-1).tolist()
    rows = [np.full(n, value) for n, value in zip(counts, values_N, strict=True)]
    return _padded(rows, rows, mask_BT, like)


def register(core_algos: Any) -> None:
    """Register everything with verl's `trainer.ppo.core_algos`; idempotent."""
    for name, estimator in ESTIMATORS.items():
        core_algos.register_adv_est(name)(estimator)
    for name in LOSSES:
        core_algos.register_policy_loss(name)(policy_loss(name, core_algos.agg_loss))


def _register_if_installed() -> None:
    if importlib.util.find_spec("verl") is None:
        return
    try:
        from verl.trainer.ppo import core_algos
    except ImportError as error:
        # verl does not report plug-ins that register nothing, so a missing name needs a reason in the log.
        LOG.warning("didact is not registered with verl, which fails to import: %s", error)
        return
    register(core_algos)


_register_if_installed()
