"""GRPO in one or several turns.

    g = 1/M Σᵢ Aᵢ ∇ log π(yᵢ | x),   Aᵢ = Rᵢ − mean of its group [/ std of its group]

M rollouts a step; log π of an answer is the sum over its tokens. With H turns (RLTF, arXiv:2602.02482, whose
experiments have H = 2)

    G_h = Σ_{k ≥ h} γ^{k−h} r_k,   A_h = G_h − mean of G_h over the group's dialogues with a turn h
    g   = 1/M Σᵢ Σ_h A_hᵢ ∇ log π(y_hᵢ | x_hᵢ)

Paper: DeepSeekMath (arXiv:2402.03300); docs/algorithms/grpo.md lists the departures from it. Where a critique
failed, that turn and those before it have an unknown return: they are in no mean and have no row.

Shapes: N rollouts, H turns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from didact.advantages import Array, group_advantages, returns_to_go
from didact.engines.base import REFERENCE, Loss
from didact.methods.base import Clipped, LossTerm, PolicyGradientMethod
from didact.rollouts.base import StepContext, single_turn
from didact.rollouts.multi_turn import multi_turn
from didact.types import Problem, Rollout, Row, Turn


class GroupPolicyGradient(PolicyGradientMethod, Clipped):
    """What GRPO, RLTF and RL2F share: a group's answers are compared, and their likelihoods trained.

    The settings of `PolicyGradientMethod` and `Clipped`, and

    Attributes:
        samples: N, dialogues a problem, ≥ 2.
        turns: H, answers a dialogue, with a critique between any two.
        gamma: γ ∈ [0, 1], discount a turn (for two turns and more).
        divide_by_std: Divide a group's advantages by its standard deviation.
        kl_coef: β ≥ 0 of the k₃ penalty towards the initial weights.
    """

    samples: Annotated[int, Field(ge=2)] = 8
    turns: Annotated[int, Field(ge=1)] = 1
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.1
    divide_by_std: bool = False
    kl_coef: Annotated[float, Field(ge=0)] = 0.0

    @property
    def needs_feedback(self) -> bool:
        return self.turns > 1

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def policy_gradient(self) -> Loss:
        """The loss of sampled turns: `losses.policy_gradient`, or `losses.ppo` with a clip."""
        loss = self.clipped_loss({"kl_coef": self.kl_coef} if self.kl_coef else {})
        return dataclasses.replace(loss, entropy_coef=self.entropy_coef)

    @property
    def keeps_zero(self) -> bool:
        """Does the loss have a gradient where the advantage is 0?"""
        return self.kl_coef > 0 or self.entropy_coef > 0

    def turn_advantages(self, rewards_NH: Array, rollouts: Sequence[Rollout]) -> Array:
        """A_h of every turn, [N, H]; NaN where there is no turn or its return is unknown.

        A turn that was never reached adds nothing to the return, whether the dialogue stopped early or the
        revision's prompt did not fit. A turn without a reward makes the return unknown.
        """
        groups = [rollout.group for rollout in rollouts]
        returns_NH = returns_to_go(rewards_NH, [len(rollout.turns) for rollout in rollouts], self.gamma)
        by_turn = [group_advantages(g_N, groups, divide_by_std=self.divide_by_std) for g_N in returns_NH.T]
        return np.stack(by_turn, axis=1)

    def with_reference(self, ctx: StepContext, rows: list[Row]) -> list[Row]:
        """The rows; for a KL term with the log-probs under the initial weights as a field."""
        if not self.kl_coef or not rows:
            return rows
        reference = ctx.engine.logprobs(rows, weights=REFERENCE)
        return [
            dataclasses.replace(row, fields={**row.fields, "ref_logprobs": logprobs})
            for row, logprobs in zip(rows, reference, strict=True)
        ]

    def advantages(self, rollouts: Sequence[Rollout]) -> Array:
        """A_h of every turn, [N, H]."""
        return self.turn_advantages(rewards_by_turn(rollouts, self.turns), rollouts)

    def rl_term(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> LossTerm:
        """The policy-gradient term "rl" over all turns, normalised by the number of valid rollouts."""
        advantages_NH = self.advantages(rollouts)
        rows = self.turn_rows(ctx, by_turn(rollouts, advantages_NH), self.divide(rollouts, advantages_NH))
        return LossTerm("rl", self.policy_gradient, rows)

    def divide(self, rollouts: Sequence[Rollout], values_NH: Array) -> Callable[[Turn], int]:
        """`divisor` over the turns whose value is not NaN, and the dialogues whose first value is not."""
        known = [turn for turn, value in by_turn(rollouts, values_NH) if not np.isnan(value)]
        return self.divisor(num_valid_rollouts(values_NH[:, 0]), known)

    def turn_rows(
        self, ctx: StepContext, credited: Iterable[tuple[Turn, float]], divisor: Callable[[Turn], int]
    ) -> list[Row]:
        """Rows of sampled turns with their advantages, for the loss `policy_gradient`.

        Left out are turns with advantage NaN, with advantage 0 unless `keeps_zero`, and those from a dataset:
        they are no samples of π, so their likelihood has no policy gradient.
        """
        rows = []
        for turn, advantage in credited:
            if turn.logprobs is None or np.isnan(advantage) or (advantage == 0 and not self.keeps_zero):
                continue
            old = {} if self.clip is None else {"old_logprobs": turn.logprobs}
            prompt, answer, weight = turn.prompt_ids, turn.completion_ids, 1 / divisor(turn)
            rows.append(Row.from_completion(prompt, answer, weights=weight, advantages=advantage, **old))
        return self.with_reference(ctx, rows)


class GRPO(GroupPolicyGradient):
    """Group-relative policy optimisation.

    The settings of `GroupPolicyGradient`, and

    Attributes:
        early_stop: A correct answer ends the dialogue.
    """

    early_stop: bool = True

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        if self.turns == 1:
            return single_turn(ctx, problems, self.samples)
        return multi_turn(ctx, problems, self.samples, turns=self.turns, early_stop=self.early_stop)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        term = self.rl_term(ctx, rollouts)
        return [term] if term.rows else []


def by_turn(rollouts: Sequence[Rollout], values_NH: Array) -> list[tuple[Turn, float]]:
    """Every turn with its value."""
    return [
        (turn, float(value))
        for rollout, values_H in zip(rollouts, values_NH, strict=True)
        for turn, value in zip(rollout.turns, values_H, strict=False)
    ]


def rewards_by_turn(rollouts: Sequence[Rollout], turns: int) -> Array:
    """r_h of every turn, [N, H]; NaN where it is missing.

    Missing are turns that were not reached or not verified. Where a critique failed and so ended the
    dialogue, that turn and those before it are missing too. A failed critique of the last turn has no
    effect: no answer depends on it.
    """
    rewards_NH = np.full((len(rollouts), turns), np.nan)
    for i, rollout in enumerate(rollouts):
        failed = [h for h in range(max(1, turns - 1)) if rollout.feedback_failed(h)]
        for h, turn in enumerate(rollout.turns[:turns]):
            if turn.reward is not None and h > max(failed, default=-1):
                rewards_NH[i, h] = turn.reward
    return rewards_NH


def num_valid_rollouts(values_N: Array) -> int:
    """M, the number of values that are not NaN; at least 1."""
    return max(1, int(np.count_nonzero(~np.isnan(values_N))))
