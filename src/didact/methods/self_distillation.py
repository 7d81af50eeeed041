"""RLTF-SD: train the plain prompt on the answer that a critique made better.

Paper: "Expanding the Capabilities of Reinforcement Learning via Text Feedback" (arXiv:2602.02482, §3.1).
One dialogue: question x₀, answer y₀, critique c₀, revision y₁ ~ π(·|x₁) of a fresh prompt x₁ = f(x₀, y₀, c₀);
rewards r₀, r₁ against the original question; M dialogues a step, N a question.

    ĝ_SD = 1/M Σᵢ wᵢ Aᵢ ∇ log π(y₁ᵢ | x₀)

`sd_baseline` says what A is, `sd_weighting` what w is; any goes with any, at the same λ_SD.

    first_turn      r₁ᵢ − mean of r₀             the paper's. 0 only where the student succeeds by itself
    second_turn     r₁ᵢ − mean of r₁             what the authors' scripts run; 0 once all revisions succeed
    leave_one_out   r₁ᵢ − mean of the others' r₁
    delta           r₁ᵢ − r₀ᵢ
    none            r₁ᵢ                          rejection sampling

    awr        1                                 the paper's: π_ref = π(·|x₀), no importance weight
    is         π(y₁|x₀) / π(y₁|x₁)               the whole answer's ratio; vanishes on long answers
    token_is   each token's own ratio ρ
    ppo        min(ρ A, clip(ρ) A) in place of ρ A
    cispo      clip(ρ), held constant

With `is` the expected gradient is that of E[R(y)], y ~ π(·|x₀), for first_turn, leave_one_out, delta and
none; 1 − 1/n of it for second_turn. With `early_stop` first_turn gives that times the probability of a wrong
first answer, so that hard questions weigh more. tests/test_bandit.py enumerates all of this.

Departures from the paper: 1. `mask_below` (their code's −5: drop the tokens of y₁ that x₀ makes unlikely,
not in the paper) is off unless set; 2. ĝ is divided by M, where their code takes a plain sum; 3. of more
than two turns, every revision is trained, each against the same first turns; 4. `sd_drop_mentions` leaves out
revisions that speak of their critique, which the plain prompt does not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from didact.advantages import (
    Array,
    first_reward_baseline,
    first_turn_baseline,
    leave_one_out_baseline,
    no_baseline,
    second_turn_baseline,
)
from didact.engines.base import Loss
from didact.errors import UsageError
from didact.leakage import mentions_critique
from didact.methods.base import Term
from didact.methods.grpo import GRPO, num_valid_rollouts, rewards_by_turn
from didact.rollouts.base import StepContext
from didact.types import Problem, Rollout, Row

Baseline: TypeAlias = Literal["first_turn", "second_turn", "leave_one_out", "delta", "none"]
Weighting: TypeAlias = Literal["awr", "is", "token_is", "ppo", "cispo"]

BASELINES: dict[Baseline, Callable[[ArrayLike, ArrayLike, Sequence[object]], Array]] = {
    "first_turn": first_turn_baseline,
    "second_turn": second_turn_baseline,
    "leave_one_out": leave_one_out_baseline,
    "delta": first_reward_baseline,
    "none": no_baseline,
}
"""(r₁, r₀, groups) → A."""

LOSSES: dict[Weighting, Callable[[float], Loss]] = {
    "awr": lambda clip: Loss("policy_gradient"),
    "is": lambda clip: Loss("policy_gradient"),  # the ratio is in the rows' advantages
    "token_is": lambda clip: Loss("importance_sampling"),
    "ppo": lambda clip: Loss("ppo", {"clip_low": clip, "clip_high": clip}),
    "cispo": lambda clip: Loss("cispo", {"clip_low": clip, "clip_high": clip}),
}
"""ε → the loss that rows are trained with."""


class SelfDistillation(GRPO):
    """GRPO in two or more turns, and self-distillation. See the top of this file.

    Attributes:
        lambda_sd: λ_SD ≥ 0; 0 switches self-distillation off.
        lambda_sd_ramp: λ_SD rises linearly from 0 over this share of the run (the paper's 0 → 0.1
            on mathematics is 1.0); 0 for none.
        sd_baseline: What is taken from r₁.
        sd_weighting: How y₁, which π(·|x₁) sampled, is weighted for π(·|x₀), which learns it.
        sd_clip: ε > 0 of ppo and cispo; the paper's ablation clips to [0.8, 1.2].
        mask_below: SD ignores tokens of y₁ with log π(token | x₀) below this, in nats; None for none.
        sd_drop_mentions: Leave out revisions that mention their critique or an attempt before them.
    """

    turns: Annotated[int, Field(ge=2)] = 2
    lambda_sd: Annotated[float, Field(ge=0)] = 0.1
    lambda_sd_ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    sd_baseline: Baseline = "first_turn"
    sd_weighting: Weighting = "awr"
    sd_clip: Annotated[float, Field(gt=0)] = 0.2
    mask_below: Annotated[float, Field(lt=0)] | None = None
    sd_drop_mentions: bool = False

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Dialogues as GRPO's.

        Raises:
            UsageError: the weighting needs the probabilities that were sampled from, and sampling is tempered
                or truncated, which is not what a turn's log-probs are of.
        """
        params = ctx.sampling
        plain = params.temperature == 1.0 and params.top_p == 1.0 and params.top_k == 0
        if self.lambda_sd and self.sd_weighting != "awr" and not plain:
            raise UsageError(
                f"sd_weighting={self.sd_weighting} weighs by the probabilities that revisions were sampled "
                "with: set sampling.temperature=1, sampling.top_p=1 and sampling.top_k=0, or take awr"
            )
        return super().collect(ctx, problems)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        terms = [*super().rows(ctx, rollouts), self.sd_term(ctx, rollouts)]
        return [term for term in terms if term.rows]

    def sd_term(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> Term:
        """The rows of `self_distillation` with the weighting's loss."""
        loss = LOSSES[self.sd_weighting](self.sd_clip)
        return Term("sd", loss, self.self_distillation(ctx, rollouts))

    def self_distillation(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Row]:
        """Rows x₀ → y_h, h ≥ 1, with advantage A (times the answer's ratio, for `is`) and weight λ_SD / M."""
        strength = linear_warmup(self.lambda_sd, self.lambda_sd_ramp, ctx.progress)
        if not strength:
            return []
        rewards_NH = rewards_by_turn(rollouts, self.turns)
        weight = strength / num_valid_rollouts(rewards_NH[:, 0])
        if self.sd_drop_mentions:
            rewards_NH = _without_mentions(rewards_NH, rollouts)
        groups = [rollout.group for rollout in rollouts]
        credit = BASELINES[self.sd_baseline]
        advantages_KN = [credit(rewards_N, rewards_NH[:, 0], groups) for rewards_N in rewards_NH.T[1:]]
        rows = [
            self._distilled(rollout, h, float(advantage), weight)
            for i, rollout in enumerate(rollouts)
            for h, advantage in enumerate((a_N[i] for a_N in advantages_KN), start=1)
            if not np.isnan(advantage) and advantage != 0.0
        ]
        return self._scored(ctx, rows)

    def _distilled(self, rollout: Rollout, h: int, advantage: float, weight: float) -> Row:
        revision = rollout.turns[h]
        assert revision.logprobs is not None, "a revision is sampled"
        return Row.from_completion(
            rollout.turns[0].prompt_ids,
            revision.completion_ids,
            weights=weight,
            advantages=advantage,
            old_logprobs=revision.logprobs,
        )

    def _scored(self, ctx: StepContext, rows: list[Row]) -> list[Row]:
        """The rows with what needs log π(y₁|x₀): the answer's ratio, then the mask."""
        weighs = self.sd_weighting == "is"
        if not rows or not (weighs or self.mask_below is not None):
            return rows
        scored = []
        for row, logprobs_T in zip(rows, ctx.engine.logprobs(rows), strict=True):
            fields = dict(row.fields)
            if weighs:
                fields["advantages"] = (row.fields["advantages"] * _ratio(row, logprobs_T)).astype(np.float32)
            if self.mask_below is not None:
                unlikely_T = logprobs_T < self.mask_below
                fields["weights"] = np.where(unlikely_T, 0.0, row.fields["weights"]).astype(np.float32)
            scored.append(dataclasses.replace(row, fields=fields))
        return scored


def linear_warmup(strength: float, ramp: float, progress: float) -> float:
    """A coefficient that rises linearly from 0 over the first `ramp` of a run; 0 for no ramp."""
    return strength * min(1.0, progress / ramp) if ramp else strength


def _ratio(row: Row, logprobs_T: NDArray[np.float32]) -> float:
    """π(y₁|x₀) / π(y₁|x₁) of the whole answer, also of tokens that a mask may drop afterwards."""
    trained_T = row.fields["weights"] != 0
    log_ratio_T = logprobs_T.astype(np.float64) - row.fields["old_logprobs"]
    return float(np.exp(log_ratio_T[trained_T].sum()))


def _without_mentions(rewards_NH: Array, rollouts: Sequence[Rollout]) -> Array:
    """The rewards, NaN where a revision mentions its critique: it leaves the revisions' means too."""
    kept_NH = rewards_NH.copy()
    for i, rollout in enumerate(rollouts):
        for h in range(1, min(len(rollout.turns), kept_NH.shape[1])):
            if mentions_critique(rollout.turns[h].text):
                kept_NH[i, h] = np.nan
    return kept_NH
