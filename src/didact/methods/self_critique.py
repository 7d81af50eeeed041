"""RLTF with self-critique: the policy also criticises its own answers, and is trained by the outcome.

Paper: "Expanding the Capabilities of Reinforcement Learning via Text Feedback" (arXiv:2602.02482, Alg. 4).
Two branches start from one first answer y₀. In one, the feedback source writes c₀ and y₁ answers
x₁ = f(x₀, y₀, c₀), as in methods/rltf.py; in the other the policy writes c̃₀ ~ π(·|f_FeeMol(x₀, y₀)) and ỹ₁
answers x̃₁ = f(x₀, y₀, c̃₀). Rewards r₀, r₁, r̃₁; M dialogues a step; no early stop.

    R = r₀ + γ/2 (r₁ + r̃₁),   A₀ = R − mean R,   A₁ = r₁ − b⁽¹⁾,   Ã₁ = r̃₁ − b̃⁽¹⁾
    ĝ = 1/M Σᵢ [ A₀ ∇ log π(y₀|x₀) + A₁ ∇ log π(y₁|x₁) + Ã₁ ∇ log π(c̃₀|f_FeeMol(x₀, y₀)) ] + λ_FM ĝ_FM

`own_baseline: separate` (the paper's) takes b⁽¹⁾ over the group's source branches and b̃⁽¹⁾ over its
self-critique branches; `pooled` (the authors' code) takes one mean over both. As printed, ỹ₁ gets no
gradient; `train_own_revision` (the authors' code) adds Ã₁ ∇ log π(ỹ₁|x̃₁).

Departures are in docs/algorithms/rltf.md. A dialogue whose feedback source failed has no second branch and is
in no mean and no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
from pydantic import Field

from didact.advantages import Array, group_advantages, mean_of_known
from didact.methods.base import LossTerm
from didact.methods.grpo import num_valid_rollouts, rewards_by_turn
from didact.methods.rltf import RLTF
from didact.rollouts.base import StepContext
from didact.rollouts.self_critique_rollout import branch_id, sampled_critique, self_critique_branches
from didact.types import Problem, Rollout, Turn

BranchBaseline: TypeAlias = Literal["separate", "pooled"]


class Branches(NamedTuple):
    """N dialogues, and the self-critique branch of each."""

    source: list[Rollout]
    own: list[Rollout | None]


class BranchAdvantages(NamedTuple):
    """Advantages of N dialogues; NaN is missing."""

    first: Array
    """A₀ of y₀."""
    second: Array
    """A₁ of y₁."""
    own: Array
    """Ã₁ of c̃₀ and ỹ₁."""


class SelfCritiqueRL(RLTF):
    """RLTF-FM with self-critiques that are trained by the reward of the revision.

    The settings of `RLTF`, with `early_stop` always off, `lambda_sd` 0 unless set, and

    Attributes:
        critique_tokens: Maximum number of tokens of a self-critique; None for `sampling.max_tokens`.
        own_baseline: A mean for each branch, or one for both.
        train_own_revision: Also train the revisions that follow self-critiques.
    """

    turns: Literal[2] = 2
    early_stop: Literal[False] = False
    lambda_sd: Annotated[float, Field(ge=0)] = 0.0
    critique_tokens: Annotated[int, Field(ge=1)] | None = None
    own_baseline: BranchBaseline = "separate"
    train_own_revision: bool = False

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Each dialogue, followed by the branch with the policy's own critique of its first answer."""
        dialogues = super().collect(ctx, problems)
        tokens = self.critique_tokens or ctx.sampling.max_tokens
        valid = [r for r in dialogues if not r.feedback_failed(0)]
        branches = {r.id: r for r in self_critique_branches(ctx, valid, max_tokens=tokens)}
        pairs = [(rollout, branches.get(branch_id(rollout.id))) for rollout in dialogues]
        return [rollout for pair in pairs for rollout in pair if rollout is not None]

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        branches = paired(rollouts)
        advantages = branch_advantages(
            branches, self.gamma, self.own_baseline, divide_by_std=self.divide_by_std
        )
        answers: list[tuple[Turn, float]] = []
        critiques: list[tuple[Turn, float]] = []
        for i, (rollout, own) in enumerate(zip(*branches, strict=True)):
            by_turn = (float(advantages.first[i]), float(advantages.second[i]))
            answers += zip(rollout.turns, by_turn, strict=False)
            critique = None if own is None else sampled_critique(own)
            if own is not None and critique is not None:
                trained = [critique.sampled, *(own.turns[1:] if self.train_own_revision else ())]
                critiques += [(turn, float(advantages.own[i])) for turn in trained]
        known = [turn for turn, advantage in (*answers, *critiques) if not np.isnan(advantage)]
        divisor = self.divisor(num_valid_rollouts(advantages.first), known)
        terms = [
            LossTerm(name, self.policy_gradient, self.turn_rows(ctx, credited, divisor))
            for name, credited in (("rl", answers), ("own", critiques))
        ]
        terms += [self.sd_term(ctx, branches.source), self.fm_term(ctx, branches.source)]
        return [term for term in terms if term.rows]


def branch_advantages(
    branches: Branches, gamma: float, own_baseline: BranchBaseline, *, divide_by_std: bool = False
) -> BranchAdvantages:
    """A₀, A₁ and Ã₁ of N dialogues."""
    groups = [rollout.group for rollout in branches.source]
    first_N, second_N = rewards_by_turn(branches.source, 2).T
    own_N = np.array([_own_reward(r, own) for r, own in zip(*branches, strict=True)], dtype=np.float64)
    # A branch without a revision adds nothing; one whose revision was not verified makes R unknown.
    came_2N = np.array([[_revised(r) for r in branches.source], [_revised(r) for r in branches.own]])
    rewards_2N = np.stack([second_N, own_N])
    follows_N = np.nan_to_num(mean_of_known(rewards_2N))
    follows_N[(came_2N & np.isnan(rewards_2N)).any(axis=0)] = np.nan
    returns_N = first_N + gamma * follows_N
    # b⁽¹⁾ and b̃⁽¹⁾ are means over the group's branch, or over both of its branches.
    keys = [*groups, *(groups if own_baseline == "pooled" else [("own", group) for group in groups])]
    both_2N = group_advantages([*second_N, *own_N], keys, divide_by_std=divide_by_std)
    first_N = group_advantages(returns_N, groups, divide_by_std=divide_by_std)
    return BranchAdvantages(first_N, *np.split(both_2N, 2))


def paired(rollouts: Sequence[Rollout]) -> Branches:
    """Each dialogue with its self-critique branch."""
    branches = {r.id: r for r in rollouts if sampled_critique(r) is not None}
    source = [r for r in rollouts if sampled_critique(r) is None]
    return Branches(source, [branches.get(branch_id(r.id)) for r in source])


def _revised(rollout: Rollout | None) -> bool:
    return rollout is not None and len(rollout.turns) > 1


def _own_reward(rollout: Rollout, own: Rollout | None) -> float:
    """r̃₁; NaN without a revision or a verdict, or where the dialogue's feedback source failed."""
    if own is None or len(own.turns) < 2 or rollout.feedback_failed(0):
        return np.nan
    reward = own.turns[1].reward
    return np.nan if reward is None else reward
