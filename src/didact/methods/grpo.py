"""GRPO, in one turn or in several, and the RL part of RLTF.

    g = 1/M Σᵢ Aᵢ ∇ log π(yᵢ | x)      Aᵢ = Rᵢ − mean of its group [/ std of its group]

M rollouts a step; log π of a whole answer is the sum over its tokens. With two turns (RLTF,
arXiv:2602.02482, Alg. 1)

    R = r₀ + γ r₁,   A₀ = R − mean R,   A₁ = r₁ − mean r₁ over those that had a second turn
    g = 1/M Σᵢ [ A₀ᵢ ∇ log π(y₀ | x₀) + A₁ᵢ ∇ log π(y₁ | x₁) ]

and with H turns, the paper's R = Σ_h γ^h r_h for the first turn and what is still to come of it for each
later one: A_h = G_h − mean G_h over those that had a turn h, G_h = Σ_{k ≥ h} γ^{k−h} r_k. (The paper's
problem statement has H turns, its algorithms and experiments two.)

Paper: DeepSeekMath (arXiv:2402.03300). Departures from it, all towards RLTF and Dr. GRPO
(arXiv:2503.20783): 1. no division by the group's standard deviation unless `divide_by_std`;
2. token sums, no division by an answer's length; 3. plain policy gradient, because a single step on
fresh samples never leaves the clip; `clip` switches PPO's clip on for several passes; 4. no KL
unless `kl_coef`. A turn whose critic failed is missing, and with it those before it, whose return nobody
knows: they leave every mean and have no row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from didact.advantages import Array, group_advantages, returns_to_go
from didact.engines.base import REFERENCE, Loss
from didact.methods.base import Method, Term
from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import multi_turn
from didact.rollouts.single_turn import single_turn
from didact.types import Problem, Rollout, Row, Turn


class GRPO(Method):
    """Group-relative policy optimisation. See the top of this file for the formula.

    Attributes:
        samples: N, dialogues a problem; below 2 no group has a signal.
        turns: H, answers a dialogue; a critique stands between any two.
        gamma: γ ∈ [0, 1], what a turn's reward counts for the turn before (from two turns on).
        early_stop: No further turn after a right answer.
        divide_by_std: Divide a group's advantages by its standard deviation.
        clip: PPO's ε; None for the plain policy gradient.
        kl_coef: β ≥ 0 of the k₃ penalty towards the starting weights.
    """

    samples: Annotated[int, Field(ge=2)] = 8
    turns: Annotated[int, Field(ge=1)] = 1
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.1
    early_stop: bool = True
    divide_by_std: bool = False
    clip: Annotated[float, Field(gt=0)] | None = None
    kl_coef: Annotated[float, Field(ge=0)] = 0.0

    @property
    def needs_feedback(self) -> bool:
        return self.turns > 1

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        if self.turns == 1:
            return single_turn(ctx, problems, self.samples)
        return multi_turn(ctx, problems, self.samples, turns=self.turns, early_stop=self.early_stop)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        advantages_NH = self.advantages(rollouts)
        credited = [
            (turn, float(advantage))
            for rollout, advantages_H in zip(rollouts, advantages_NH, strict=True)
            for turn, advantage in zip(rollout.turns, advantages_H, strict=False)
        ]
        rows = self.credited_rows(ctx, credited, 1 / num_valid_rollouts(advantages_NH[:, 0]))
        return [Term("rl", self.loss, rows)] if rows else []

    def advantages(self, rollouts: Sequence[Rollout]) -> Array:
        """A_h of every turn, [N, H]; NaN where there is no turn, or where it is missing."""
        groups = [rollout.group for rollout in rollouts]
        # A turn that never came adds nothing to R, whether the dialogue stopped early or its revision did not
        # fit into the model. One that nobody could verify makes R unknown, as a failed critic does.
        turns_N = [len(rollout.turns) for rollout in rollouts]
        returns_NH = returns_to_go(rewards_by_turn(rollouts, self.turns), turns_N, self.gamma)
        return np.stack(
            [group_advantages(g, groups, divide_by_std=self.divide_by_std) for g in returns_NH.T], axis=1
        )

    def credited_rows(
        self, ctx: StepContext, credited: Iterable[tuple[Turn, float]], weight: float
    ) -> list[Row]:
        """Rows of sampled turns that have an advantage, each with the same weight."""
        rows = [
            self._row(turn, advantage, weight)
            for turn, advantage in credited
            # An answer that was given is no sample of π, so its likelihood has no policy gradient.
            if turn.logprobs is not None and self._counts(advantage)
        ]
        return with_reference(ctx, rows) if self.kl_coef else rows

    def _counts(self, advantage: float) -> bool:
        """A zero advantage has a zero gradient, unless the KL term has one."""
        return not np.isnan(advantage) and (advantage != 0.0 or self.kl_coef > 0)

    def _row(self, turn: Turn, advantage: float, weight: float) -> Row:
        fields: dict[str, float | Sequence[float]] = {"weights": weight, "advantages": advantage}
        if self.clip is not None:
            assert turn.logprobs is not None, "only sampled turns are trained by RL"
            fields["old_logprobs"] = turn.logprobs
        return Row.from_completion(turn.prompt_ids, turn.completion_ids, **fields)

    @property
    def loss(self) -> Loss:
        """What sampled turns are trained with."""
        settings = {"kl_coef": self.kl_coef} if self.kl_coef else {}
        if self.clip is None:
            return Loss("policy_gradient", settings)
        return Loss("ppo", {**settings, "clip_low": self.clip, "clip_high": self.clip})


def rewards_by_turn(rollouts: Sequence[Rollout], turns: int) -> Array:
    """r_h of N rollouts by turn, [N, H]; NaN is missing.

    Missing is a turn that never came or that nobody verified; and where a critic was asked, failed, and so
    ended the dialogue, that turn and those before it. A critique of the last turn may fail: nothing would
    have followed.
    """
    rewards_NH = np.full((len(rollouts), turns), np.nan)
    for i, rollout in enumerate(rollouts):
        failed = [h for h in range(max(1, turns - 1)) if rollout.feedback_failed(h)]
        for h, turn in enumerate(rollout.turns[:turns]):
            if turn.reward is not None and h > max(failed, default=-1):
                rewards_NH[i, h] = turn.reward
    return rewards_NH


def num_valid_rollouts(values_N: Array) -> int:
    """M: how many dialogues are not missing, at least 1 because it divides."""
    return max(1, int(np.count_nonzero(~np.isnan(values_N))))


def with_reference(ctx: StepContext, rows: Sequence[Row]) -> list[Row]:
    """The rows with log-probs under the starting weights beside them."""
    reference = ctx.engine.logprobs(rows, weights=REFERENCE)
    return [
        dataclasses.replace(row, fields={**row.fields, "ref_logprobs": logprobs})
        for row, logprobs in zip(rows, reference, strict=True)
    ]
