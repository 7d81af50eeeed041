"""Policy optimisation with a reward for each token: the machinery of Text2Grad and PPO.

    r_t = s_t − β k_t,      g = 1/M Σᵢ Σ_t A_t ∇ log π(y_t | x, y_<t)

s_t is the reward that the subclass gives to token t, k_t an estimate of the KL divergence from the initial
weights at t, A_t the advantage that `credit` makes of r (methods/advantage_estimators.py). M answers a step;
a sum over tokens, without division by an answer's length. An answer without rewards is missing: it has no row
and is in no mean.

    kl        k_t                                        expected gradient, at one token
    k1        log π(y_t) − log π_ref(y_t), in the reward of β KL(π ‖ π_ref)
    k3        e^−k₁ + k₁ − 1, in the reward              of β KL(π ‖ π_ref) − β KL(π_ref ‖ π), ≈ 0 nearby
    full      Σ_v π(v) log π(v)/π_ref(v), in the reward  none: no token changes its own k_t
    k3_loss   k₃, with β Σ_t k₃ added to the loss        of β KL(π_ref ‖ π); GRPO's

A KL in the reward also acts through the tokens that follow, if the estimator looks ahead. `direct` does not,
so it takes k1 or k3_loss only. tests/test_text2grad.py enumerates the table. π_ref is REFERENCE of the
engine: a copy of the initial weights, or the model without its adapter. π is scored when the step begins, by
the same kernel, so that k is exactly 0 at the start.

Shape: T sampled tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from didact.advantages import Array
from didact.engines.base import REFERENCE, ValueHeadSettings
from didact.errors import CapabilityError, UsageError
from didact.methods.advantage_estimators import (
    GAE,
    AnyEstimator,
    CriticFree,
    Direct,
    Fields,
    TokenRewards,
)
from didact.methods.base import LossTerm, Method
from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import criticise
from didact.rollouts.single_turn import first_turns
from didact.types import Problem, Rollout, Row, Turn

KL_COEF = "kl_coef"
"""The name of an adaptive β in the checkpoint and in the metrics."""


class TokenLevelPolicyGradient(Method):
    """Single answers with a reward for each token.

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
        return self.credit.value_head

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
        """Refuse an engine or answers that this method cannot train with; see `collect`."""
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
        if ctx.offline is not None and not self.credit.supports_off_policy:
            raise UsageError(
                "this task's answers come from a dataset, and advantages that look ahead need answers that "
                "the policy sampled: take credit=direct"
            )

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        rewarded = zip(rollouts, self.token_rewards(ctx, rollouts), strict=True)
        known = [(rollout, s_T) for rollout, s_T in rewarded if s_T is not None]
        if not known:
            return []
        turns, weight = [rollout.turns[0] for rollout, _ in known], 1 / len(known)
        bare = [_row(turn, {}, weight) for turn in turns]
        beta, (kl, reference) = self._coefficient(ctx), self._divergences(ctx, bare)
        # r_t = s_t − β k_t, unless the KL is a term of the loss.
        penalty = 0.0 if self.kl == "k3_loss" else beta
        answers = [
            TokenRewards(row, rollout.group, s_T - penalty * kl_T)
            for row, (rollout, s_T), kl_T in zip(bare, known, kl, strict=True)
        ]
        fields = [dict(own) for own in self.credit.fields(ctx, answers)]
        loss = self.credit.loss({} if reference is None else {"kl_coef": beta})
        for i, turn in enumerate(turns):
            if loss.name != "policy_gradient":
                fields[i]["old_logprobs"] = np.asarray(turn.logprobs, np.float64)
            if reference is not None:
                fields[i]["ref_logprobs"] = reference[i]
        rows = [
            _row(turn, own, weight) for turn, own in zip(turns, fields, strict=True) if _has_gradient(own)
        ]
        self._adapt(ctx, beta, kl)
        return [LossTerm("rl", loss, rows)] if rows else []

    def _coefficient(self, ctx: StepContext) -> float:
        """β of this step."""
        if self.kl_target is None:
            return self.kl_coef
        return float(ctx.method_state.get(KL_COEF, self.kl_coef))

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
            ctx.method_state[KL_COEF] = adapted_coefficient(
                beta, divergence, self.kl_target, answers=len(kl), horizon=self.kl_horizon
            )


def adapted_coefficient(
    beta: float, divergence: float, target: float, *, answers: int, horizon: int
) -> float:
    """β (1 + clip(KL / target − 1, ±0.2) · answers / horizon): the controller of arXiv:1909.08593, §2.2."""
    error = float(np.clip(divergence / target - 1, -0.2, 0.2))
    return beta * (1 + error * answers / horizon)


def _row(turn: Turn, fields: Fields, weight: float) -> Row:
    return Row.from_completion(turn.prompt_ids, turn.completion_ids, weights=weight, **fields)


def _has_gradient(fields: Fields) -> bool:
    """Are there advantages, or a value or KL term in the loss?"""
    return bool(fields["advantages"].any()) or bool({"returns", "ref_logprobs"} & fields.keys())


def _answers(columns: Sequence[NDArray[np.float32]], lengths: Sequence[int]) -> list[Array]:
    """The part of each row's column that belongs to the answer."""
    return [column[-n:].astype(np.float64) for column, n in zip(columns, lengths, strict=True)]
