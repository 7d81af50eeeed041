"""From the reward of each token to its advantage: three estimators, a settings class each.

r_t is the reward of token t, V_t the value of the prefix before it.

    direct         A_t = r_t
    gae            d_t = r_t + γ V_{t+1} − V_t,   A_t = Σ_l (γλ)^l d_{t+l},   value target A_t + V_t
    critic_free    G_t = Σ_l γ^l r_{t+l},   A_t = G_t − mean of the group's G_t

The functions of arrays are `gae`, `token_returns` and `position_baselines` of advantages.py. Limits: gae with
V = 0 and γ = 0, and critic_free with γ = 0 and no baseline, equal direct; gae with V = 0 and λ = 1 equals
critic_free without a baseline; critic_free of one reward at the last token equals GRPO.

Papers: γ, λ arXiv:1506.02438; PPO's clip arXiv:1707.06347. An answer ends at its last token, also where it
was cut off: V = 0 after it.

Shape: T sampled tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from didact.advantages import Array, explained_variance, gae, position_baselines, token_returns, whitened
from didact.engines.base import Loss, ValueHeadSettings
from didact.errors import did_you_mean
from didact.rollouts.base import StepContext
from didact.types import Row

Clip = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Fields: TypeAlias = Mapping[str, Array]
"""[T] arrays by the name of a row's field."""


@dataclass(frozen=True, eq=False)
class TokenRewards:
    """An answer and the rewards of its tokens."""

    row: Row
    """Prompt and answer; the answer's tokens have weight 1/M."""
    group: str
    rewards_T: Array


class AdvantageEstimator(BaseModel):
    """The interface of the three estimators."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def value_head(self) -> ValueHeadSettings | None:
        """How the value head that it needs is trained; None without one."""
        return None

    @property
    def supports_off_policy(self) -> bool:
        """May answers come from a dataset?"""
        return False

    def fields(self, ctx: StepContext, answers: Sequence[TokenRewards]) -> list[Fields]:
        """For each answer the fields that the loss needs, `advantages` among them."""
        raise NotImplementedError

    def loss(self, settings: Mapping[str, float]) -> Loss:
        """The loss of rows with these fields, with further settings."""
        raise NotImplementedError


class Direct(AdvantageEstimator):
    """The advantage of a token is its own reward."""

    kind: Literal["direct"] = "direct"

    @property
    def supports_off_policy(self) -> bool:
        return True

    def fields(self, ctx: StepContext, answers: Sequence[TokenRewards]) -> list[Fields]:
        return [{"advantages": answer.rewards_T} for answer in answers]

    def loss(self, settings: Mapping[str, float]) -> Loss:
        return Loss("policy_gradient", settings)


class GAE(AdvantageEstimator):
    """Generalised advantage estimation with a value head, trained by PPO.

    Attributes:
        gamma: γ ∈ [0, 1].
        lam: λ ∈ [0, 1].
        whiten: Shift and scale a step's advantages to mean 0 and variance 1. This makes them relative: where
            no token is poor, the less good ones are pushed down.
        clip: PPO's ε.
        value_clip: ε of the value's clip; None for no clip.
        value_coef: c ≥ 0, coefficient of the value loss.
        value_lr_scale: Learning rate of the head over that of the model. The head starts at 0, also on a
            pretrained model, so that 1 is slow.
        value_shares_model: The value loss also trains the model below the head.
    """

    kind: Literal["gae"] = "gae"
    gamma: Share = 1.0
    lam: Share = 0.95
    whiten: bool = False
    clip: Clip = 0.2
    value_clip: Clip | None = 0.2
    value_coef: Annotated[float, Field(ge=0)] = 0.1
    value_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    value_shares_model: bool = True

    @property
    def value_head(self) -> ValueHeadSettings | None:
        return ValueHeadSettings(lr_scale=self.value_lr_scale, shares_model=self.value_shares_model)

    def fields(self, ctx: StepContext, answers: Sequence[TokenRewards]) -> list[Fields]:
        scored = ctx.engine.values([answer.row for answer in answers])
        values = [v[-len(a.rewards_T) :].astype(np.float64) for v, a in zip(scored, answers, strict=True)]
        advantages = [gae(a.rewards_T, v, self.gamma, self.lam) for a, v in zip(answers, values, strict=True)]
        returns = [a + v for a, v in zip(advantages, values, strict=True)]
        explained = explained_variance(np.concatenate(values), np.concatenate(returns))
        if not np.isnan(explained):
            ctx.metrics["explained_variance"] = explained
        if self.whiten:
            advantages = whitened(advantages)
        names = ("advantages", "returns", "old_values")
        return [dict(zip(names, own, strict=True)) for own in zip(advantages, returns, values, strict=True)]

    def loss(self, settings: Mapping[str, float]) -> Loss:
        value_clip = {} if self.value_clip is None else {"value_clip": self.value_clip}
        clip = {"clip_low": self.clip, "clip_high": self.clip}
        return Loss("actor_critic", {**settings, **clip, **value_clip, "value_coef": self.value_coef})


class CriticFree(AdvantageEstimator):
    """Return to go minus the group's mean return to go at the same position.

    An answer that has ended contributes its last token's return.

    Attributes:
        gamma: γ ∈ [0, 1].
        baseline: Subtract the group's mean; needs two samples a problem.
        whiten: As for GAE.
        clip: PPO's ε; None for the plain policy gradient.
    """

    kind: Literal["critic_free"] = "critic_free"
    gamma: Share = 1.0
    baseline: bool = True
    whiten: bool = False
    clip: Clip | None = None

    def fields(self, ctx: StepContext, answers: Sequence[TokenRewards]) -> list[Fields]:
        advantages = [token_returns(answer.rewards_T, self.gamma) for answer in answers]
        if self.baseline:
            means = position_baselines(advantages, [answer.group for answer in answers])
            advantages = [g - mean for g, mean in zip(advantages, means, strict=True)]
        if self.whiten:
            advantages = whitened(advantages)
        return [{"advantages": a} for a in advantages]

    def loss(self, settings: Mapping[str, float]) -> Loss:
        if self.clip is None:
            return Loss("policy_gradient", settings)
        return Loss("ppo", {**settings, "clip_low": self.clip, "clip_high": self.clip})


def _with_kind(value: Any) -> Any:
    """A name alone is a kind with its defaults; settings alone are those of gae."""
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, Mapping):
        value = {"kind": "gae", **value}
        if value["kind"] not in KINDS:
            raise ValueError(f"unknown credit {value['kind']!r}: {did_you_mean(str(value['kind']), KINDS)}")
    return value


AnyEstimator: TypeAlias = Annotated[
    Annotated[Direct | GAE | CriticFree, Field(discriminator="kind")], BeforeValidator(_with_kind)
]
"""`gae`, or `{kind: gae, lam: 0.9}`."""
KINDS = tuple(get_args(kind.model_fields["kind"].annotation)[0] for kind in (Direct, GAE, CriticFree))
