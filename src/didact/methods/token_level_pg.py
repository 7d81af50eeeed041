"""Policy optimisation with a reward for each token: the machinery of Text2Grad and PPO.

    r_t = s_t − β k_t,      g = 1/M Σᵢ Σ_t A_t ∇ log π(y_t | x, y_<t)

s_t is the reward that the subclass gives to token t, k_t an estimate of the KL divergence from the initial
weights at t, A_t the advantage that `credit` makes of r; docs/algorithms/text2grad.md has the formulas, and
the expected gradient of each `kl`. M answers a step; a sum over tokens, not divided by an answer's length
unless `normalise`, which is that of the value loss too. An answer without rewards is missing: it has no row
and is in no mean. An answer ends at its last token, also where it was cut off: V = 0 after it. π is scored
when the step begins, by the same kernel, so that k is exactly 0 at the start. Papers: γ, λ arXiv:1506.02438;
PPO's clip arXiv:1707.06347.

Shape: T sampled tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from didact.advantages import Array, explained_variance, gae, position_baselines, token_returns, whitened
from didact.engines.base import REFERENCE, Loss, ValueHeadSettings
from didact.errors import CapabilityError, UsageError, did_you_mean
from didact.methods.base import Clip, Clipped, LossTerm, PolicyGradientMethod, clip_range
from didact.rollouts.base import StepContext, first_turns
from didact.rollouts.multi_turn import criticise
from didact.types import Problem, Rollout, Row, Turn

Share = Annotated[float, Field(ge=0, le=1)]
Fields: TypeAlias = Mapping[str, Array]
"""[T] arrays by the name of a row's field."""
KL_COEF = "kl_coef"
"""The name of an adaptive β in the checkpoint and in the metrics."""


@dataclass(frozen=True, eq=False)
class TokenRewards:
    """An answer and the rewards of its tokens."""

    row: Row
    """Prompt and answer; the answer's tokens have weight 1/M."""
    group: str
    rewards_T: Array


class AdvantageEstimator(BaseModel):
    """Settings that make the fields of the loss, `advantages` among them, of each answer's rewards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Direct(AdvantageEstimator):
    """The advantage of a token is its own reward."""

    kind: Literal["direct"] = "direct"

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
        clip_high: ε above 1, where it differs from that below.
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
    clip_high: Clip | None = None
    value_clip: Clip | None = 0.2
    value_coef: Annotated[float, Field(ge=0)] = 0.1
    value_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    value_shares_model: bool = True

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
        clip = clip_range(self.clip, self.clip_high)
        return Loss("actor_critic", {**settings, **clip, **value_clip, "value_coef": self.value_coef})


class CriticFree(AdvantageEstimator, Clipped):
    """Return to go minus the group's mean return to go at the same position.

    An answer that has ended contributes its last token's return.

    Attributes:
        gamma: γ ∈ [0, 1].
        baseline: Subtract the group's mean; needs two samples a problem.
        whiten: As for GAE.
        clip, clip_high: Of `Clipped`.
    """

    kind: Literal["critic_free"] = "critic_free"
    gamma: Share = 1.0
    baseline: bool = True
    whiten: bool = False

    def fields(self, ctx: StepContext, answers: Sequence[TokenRewards]) -> list[Fields]:
        advantages = [token_returns(answer.rewards_T, self.gamma) for answer in answers]
        if self.baseline:
            means = position_baselines(advantages, [answer.group for answer in answers])
            advantages = [g - mean for g, mean in zip(advantages, means, strict=True)]
        if self.whiten:
            advantages = whitened(advantages)
        return [{"advantages": a} for a in advantages]

    def loss(self, settings: Mapping[str, float]) -> Loss:
        return self.clipped_loss(settings)


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
KINDS = ("direct", "gae", "critic_free")


class TokenLevelPolicyGradient(PolicyGradientMethod):
    """Single answers with a reward for each token.

    The settings of `PolicyGradientMethod`, and

    Attributes:
        samples: N, answers a problem.
        credit: The advantage estimator: `direct`, `gae` or `critic_free`, by name or with settings.
        kl_coef: β ≥ 0; 0 for no KL and no reference.
        kl: The KL estimate, and where it is added.
        kl_target: Adapt β so that an answer's summed k approaches this, in nats; None for a constant β.
        kl_horizon: Answers over which β adapts (arXiv:1909.08593, §2.2).
    """

    samples: Annotated[int, Field(ge=1)] = 8
    credit: AnyEstimator = GAE()
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    kl: Literal["k1", "k3", "full", "k3_loss"] = "k1"
    kl_target: Annotated[float, Field(gt=0)] | None = None
    kl_horizon: Annotated[int, Field(ge=1)] = 10_000

    @model_validator(mode="after")
    def _fits_together(self) -> TokenLevelPolicyGradient:
        if isinstance(self.credit, Direct) and self.kl_coef and self.kl in ("full", "k3"):
            raise ValueError(
                f"kl={self.kl} acts through the tokens that follow, which direct gives no credit for, so it "
                "would have no effect: take kl=k1 or kl=k3_loss"
            )
        if isinstance(self.credit, CriticFree) and self.credit.baseline and self.samples < 2:
            raise ValueError(
                "critic_free compares a problem's answers: take samples=2 or more, or baseline=false"
            )
        return self

    @property
    def is_multi_turn(self) -> bool:
        return False

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def value_head(self) -> ValueHeadSettings | None:
        credit = self.credit
        if not isinstance(credit, GAE):
            return None
        return ValueHeadSettings(lr_scale=credit.value_lr_scale, shares_model=credit.value_shares_model)

    def token_rewards(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Array | None]:
        """s_t of each rollout's answer, [T] each; None where they are unknown."""
        raise NotImplementedError

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Answers, sampled or from a dataset, and a critique of each, also of correct ones.

        Raises:
            CapabilityError: the engine lacks what the estimator or the KL needs.
            UsageError: the answers come from a dataset, and the estimator needs samples.
        """
        self.check(ctx)
        rollouts = first_turns(ctx, problems, self.samples)
        if self.needs_feedback:
            criticise(ctx, rollouts, 0, early_stop=False)
        return rollouts

    def check(self, ctx: StepContext) -> None:
        """Refuse an engine or answers that this method cannot train with."""
        able = ctx.engine.capabilities
        if self.value_head is not None and not able.value_head:
            raise CapabilityError(
                "credit=gae needs a value head, which this engine lacks: use credit=critic_free, which "
                "compares the answers of a group instead, or engine: local"
            )
        if self.kl == "full" and self.kl_coef and not able.full_kl:
            raise CapabilityError(
                "kl=full needs the probabilities of the whole vocabulary, which this engine does not give: "
                "take kl=k1 or kl=k3_loss"
            )
        if ctx.offline is not None and not isinstance(self.credit, Direct):
            raise UsageError(
                "this task's answers come from a dataset, and advantages that look ahead need answers that "
                "the policy sampled: take credit=direct"
            )

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        rewarded = zip(rollouts, self.token_rewards(ctx, rollouts), strict=True)
        known = [(rollout, s_T) for rollout, s_T in rewarded if s_T is not None]
        if not known:
            return []
        turns = [rollout.turns[0] for rollout, _ in known]
        divisor = self.divisor(len(turns), turns)
        bare = [_row(turn, {}, 1 / divisor(turn)) for turn in turns]
        beta = float(ctx.method_state.get(KL_COEF, self.kl_coef)) if self.kl_target else self.kl_coef
        kl, reference = self._divergences(ctx, bare)
        # r_t = s_t − β k_t, unless the KL is a term of the loss.
        penalty = 0.0 if self.kl == "k3_loss" else beta
        answers = [
            TokenRewards(row, rollout.group, s_T - penalty * kl_T)
            for row, (rollout, s_T), kl_T in zip(bare, known, kl, strict=True)
        ]
        fields = [dict(own) for own in self.credit.fields(ctx, answers)]
        settings = {} if reference is None else {"kl_coef": beta}
        loss = replace(self.credit.loss(settings), entropy_coef=self.entropy_coef)
        for i, turn in enumerate(turns):
            if loss.name != "policy_gradient":
                fields[i]["old_logprobs"] = np.asarray(turn.logprobs, np.float64)
            if reference is not None:
                fields[i]["ref_logprobs"] = reference[i]
        rows = [
            _row(turn, own, 1 / divisor(turn))
            for turn, own in zip(turns, fields, strict=True)
            if self.entropy_coef or _has_gradient(own)
        ]
        self._adapt(ctx, beta, kl)
        return [LossTerm("rl", loss, rows)] if rows else []

    def _divergences(self, ctx: StepContext, rows: Sequence[Row]) -> tuple[list[Array], list[Array] | None]:
        """k of each answer, [T] each; and log π_ref of its tokens if the loss needs it."""
        lengths = [int(np.count_nonzero(row.fields["weights"])) for row in rows]
        if not self.kl_coef:
            return [np.zeros(n) for n in lengths], None
        if self.kl == "full":
            return _answers(ctx.engine.full_kl(rows), lengths), None
        logprobs = _answers(ctx.engine.logprobs(rows), lengths)
        reference = _answers(ctx.engine.logprobs(rows, weights=REFERENCE), lengths)
        k1 = [lp_T - ref_T for lp_T, ref_T in zip(logprobs, reference, strict=True)]
        if self.kl == "k1":
            return k1, None
        return [np.exp(-k) + k - 1 for k in k1], reference if self.kl == "k3_loss" else None

    def _adapt(self, ctx: StepContext, beta: float, kl: Sequence[Array]) -> None:
        """Log the KL, and move β towards its target."""
        if not self.kl_coef:
            return
        divergence = float(np.mean([kl_T.sum() for kl_T in kl]))
        ctx.metrics.update({"kl": divergence, KL_COEF: beta})
        if self.kl_target is not None:
            # The controller of arXiv:1909.08593, §2.2.
            error = float(np.clip(divergence / self.kl_target - 1, -0.2, 0.2))
            ctx.method_state[KL_COEF] = beta * (1 + error * len(kl) / self.kl_horizon)


def _row(turn: Turn, fields: Fields, weight: float) -> Row:
    return Row.from_completion(turn.prompt_ids, turn.completion_ids, weights=weight, **fields)


def _has_gradient(fields: Fields) -> bool:
    """Are there advantages, or a value or KL term in the loss?"""
    return bool(fields["advantages"].any()) or bool({"returns", "ref_logprobs"} & fields.keys())


def _answers(columns: Sequence[NDArray[np.float32]], lengths: Sequence[int]) -> list[Array]:
    """The part of each row's column that belongs to the answer."""
    return [column[-n:].astype(np.float64) for column, n in zip(columns, lengths, strict=True)]
