"""RLTF: self-distillation (SD) and feedback modelling (FM) beside two-turn GRPO.

Paper: "Expanding the Capabilities of Reinforcement Learning via Text Feedback" (arXiv:2602.02482). One
dialogue: question x₀, answer y₀, critique c₀, revision y₁ ~ π(·|x₁) of a fresh prompt x₁ = f(x₀, y₀, c₀);
rewards r₀, r₁ against the original question; M dialogues a step, N a question.

    ĝ    = ĝ_RL + λ_SD ĝ_SD + λ_FM ĝ_FM
    ĝ_RL = two-turn GRPO (methods/grpo.py): R = r₀ + γ r₁, centred, no std division       (Alg. 1)
    ĝ_SD = 1/M Σᵢ wᵢ Aᵢ ∇ log π(y₁ᵢ | x₀)                                                  (§3.1)
    ĝ_FM = 1/M Σᵢ ∇ log π(c₀ᵢ | f_FeeMol(x₀, y₀ᵢ))                                         (Alg. 3)
           or, with fm_turns: every, Σ_h ∇ log π(c_hᵢ | f_FeeMol(x₀, y_hᵢ)), h < H         (Eq. 9)

SD trains the plain prompt x₀ on the revision, with any baseline in A and any weighting w at the same λ_SD.
docs/algorithms/rltf.md has their formulas, the expected gradient of each, and the departures from the paper.
FM is cross-entropy on the critique's tokens, requested without private input. With λ_SD = λ_FM = 0 the method
is exactly two-turn GRPO.

Shapes: N rollouts, H turns, T tokens of one row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from didact.engines.base import Loss, fits_context
from didact.errors import UsageError
from didact.leakage import mentions_critique
from didact.methods.base import Clip, LossTerm, clip_range
from didact.methods.grpo import GroupPolicyGradient, rewards_by_turn
from didact.prompts import critique_messages
from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import criticise, multi_turn
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

WEIGHTINGS: dict[Weighting, Callable[[Mapping[str, float]], Loss]] = {
    "awr": lambda clip: Loss("policy_gradient"),
    "is": lambda clip: Loss("policy_gradient"),  # the ratio is in the rows' advantages
    "token_is": lambda clip: Loss("importance_sampling"),
    "ppo": lambda clip: Loss("ppo", clip),
    "cispo": lambda clip: Loss("cispo", clip),
}
"""The clip's settings → the loss of the SD rows."""


class RLTF(GroupPolicyGradient):
    """RL from text feedback.

    The settings of `GroupPolicyGradient`, with at least two turns, and

    Attributes:
        early_stop: A correct answer ends the dialogue.
        lambda_sd: λ_SD ≥ 0; 0 switches self-distillation off.
        lambda_sd_ramp: λ_SD rises linearly from 0 over this share of the run (the paper's 0 → 0.1 on
            mathematics is 1.0); 0 for a constant.
        sd_baseline: The baseline of r₁.
        sd_weighting: The weighting of y₁, sampled from π(·|x₁) and trained under π(·|x₀).
        sd_clip: ε > 0 of ppo and cispo; the paper's ablation clips to [0.8, 1.2].
        sd_clip_high: ε above 1, where it differs from that below.
        mask_below: SD masks tokens of y₁ with log π(token | x₀) below this, in nats; None for no mask.
        sd_drop_mentions: Leave out revisions that mention their critique or an earlier attempt.
        lambda_fm: λ_FM ≥ 0; 0 switches feedback modelling off.
        lambda_fm_ramp: λ_FM rises linearly from 0 over this share of the run; 0 for a constant.
        fm_turns: Model the critique of the first answer only, or of every answer.
    """

    turns: Annotated[int, Field(ge=2)] = 2
    early_stop: bool = True
    lambda_sd: Annotated[float, Field(ge=0)] = 0.1
    lambda_sd_ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    sd_baseline: Baseline = "first_turn"
    sd_weighting: Weighting = "awr"
    sd_clip: Clip = 0.2
    sd_clip_high: Clip | None = None
    mask_below: Annotated[float, Field(lt=0)] | None = None
    sd_drop_mentions: bool = False
    lambda_fm: Annotated[float, Field(ge=0)] = 0.2
    lambda_fm_ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    fm_turns: Literal["first", "every"] = "first"

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Dialogues of up to H answers.

        Raises:
            UsageError: the weighting needs the sampling probabilities, but sampling has a temperature, top-p,
                top-k or penalties, of which a turn's log-probs take no account.
        """
        if self.lambda_sd and self.sd_weighting != "awr" and not ctx.sampling.plain:
            raise UsageError(
                f"sd_weighting={self.sd_weighting} weighs by the probabilities that revisions were sampled "
                "with: set sampling.temperature=1, sampling.top_p=1, sampling.top_k=0, "
                "sampling.repetition_penalty=1 and sampling.min_tokens=0, or take awr"
            )
        rollouts = multi_turn(ctx, problems, self.samples, turns=self.turns, early_stop=self.early_stop)
        if self.lambda_fm and self.fm_turns == "every":
            criticise(ctx, rollouts, self.turns - 1, early_stop=self.early_stop)
        return rollouts

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        terms = [self.rl_term(ctx, rollouts), self.sd_term(ctx, rollouts), self.fm_term(ctx, rollouts)]
        return [term for term in terms if term.rows]

    def sd_term(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> LossTerm:
        """Rows x₀ → y_h, h ≥ 1, with advantage A (times the answer's ratio, for `is`) and weight λ_SD / M."""
        loss = WEIGHTINGS[self.sd_weighting](clip_range(self.sd_clip, self.sd_clip_high))
        coefficient = linear_warmup(self.lambda_sd, self.lambda_sd_ramp, ctx.progress)
        if not coefficient:
            return LossTerm("sd", loss, [])
        rewards_NH = rewards_by_turn(rollouts, self.turns)
        divisor = self.divide(rollouts, rewards_NH)
        if self.sd_drop_mentions:
            rewards_NH = without_mentions(rewards_NH, rollouts)
        groups, baseline = [rollout.group for rollout in rollouts], BASELINES[self.sd_baseline]
        advantages_HN = [baseline(second_N, rewards_NH[:, 0], groups) for second_N in rewards_NH[:, 1:].T]
        rows = [
            sd_row(rollout, h, float(advantages_N[i]), coefficient / divisor(rollout.turns[h]))
            for i, rollout in enumerate(rollouts)
            for h, advantages_N in enumerate(advantages_HN, start=1)
            if not np.isnan(advantages_N[i]) and advantages_N[i] != 0.0
        ]
        if rows and (self.sd_weighting == "is" or self.mask_below is not None):
            logprobs = ctx.engine.logprobs(rows)
            if self.sd_weighting == "is":
                rows = [with_importance_weight(row, lp_T) for row, lp_T in zip(rows, logprobs, strict=True)]
            if self.mask_below is not None:
                below = self.mask_below
                rows = [with_mask(row, lp_T >= below) for row, lp_T in zip(rows, logprobs, strict=True)]
        return LossTerm("sd", loss, rows)

    def fm_term(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> LossTerm:
        """Rows f_FeeMol(x₀, y_h) → c_h with weight λ_FM / M; none for answers without a critique."""
        coefficient = linear_warmup(self.lambda_fm, self.lambda_fm_ramp, ctx.progress)
        known = [r for r in rollouts if not any(map(r.feedback_failed, range(self.turns - 1)))]
        weight = coefficient / max(1, len(known))
        rows = [
            fm_row(ctx, rollout, h, weight)
            for rollout in (known if coefficient else ())
            for h in range(1 if self.fm_turns == "first" else len(rollout.turns))
        ]
        # The length of an attempt or a critique is up to the models and must not end the run.
        fitting = [row for row in rows if row is not None and fits_context(ctx.engine, len(row))]
        return LossTerm("fm", Loss("cross_entropy"), fitting)


def linear_warmup(coefficient: float, ramp: float, progress: float) -> float:
    """A coefficient that rises linearly from 0 over the first `ramp` of a run; constant for ramp 0."""
    return coefficient * min(1.0, progress / ramp) if ramp else coefficient


def sd_row(rollout: Rollout, h: int, advantage: float, weight: float) -> Row:
    """The row x₀ → y_h."""
    revision = rollout.turns[h]
    assert revision.logprobs is not None, "a revision is sampled"
    return Row.from_completion(
        rollout.turns[0].prompt_ids,
        revision.completion_ids,
        weights=weight,
        advantages=advantage,
        old_logprobs=revision.logprobs,
    )


def with_importance_weight(row: Row, logprobs_T: NDArray[np.float32]) -> Row:
    """A row whose advantages are multiplied by π(y₁|x₀) / π(y₁|x₁) of the whole answer."""
    trained_T = row.fields["weights"] != 0
    log_ratio_T = logprobs_T.astype(np.float64) - row.fields["old_logprobs"]
    ratio = float(np.exp(log_ratio_T[trained_T].sum()))
    advantages_T = (row.fields["advantages"] * ratio).astype(np.float32)
    return dataclasses.replace(row, fields={**row.fields, "advantages": advantages_T})


def with_mask(row: Row, kept_T: NDArray[np.bool_]) -> Row:
    """A row with weight 0 where the mask is False."""
    weights_T = np.where(kept_T, row.fields["weights"], 0.0).astype(np.float32)
    return dataclasses.replace(row, fields={**row.fields, "weights": weights_T})


def without_mentions(rewards_NH: Array, rollouts: Sequence[Rollout]) -> Array:
    """The rewards with NaN where a revision mentions its critique: it leaves the revisions' means too."""
    kept_NH = rewards_NH.copy()
    for i, rollout in enumerate(rollouts):
        for h in range(1, min(len(rollout.turns), kept_NH.shape[1])):
            if mentions_critique(rollout.turns[h].answer):
                kept_NH[i, h] = np.nan
    return kept_NH


def fm_row(ctx: StepContext, rollout: Rollout, h: int, weight: float) -> Row | None:
    """The row f_FeeMol(x₀, y_h) → c_h; None without a critique."""
    critique = rollout.feedback_on(h)
    if critique is None or not critique.text:
        return None
    request = critique_messages(rollout.problem, rollout.turns[h].answer.strip())
    return Row.from_completion(
        ctx.renderer.prompt(request), ctx.renderer.answer(critique.text), weights=weight
    )
