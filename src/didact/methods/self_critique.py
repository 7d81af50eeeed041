"""RLTF with self-critique: the policy also criticises its own answers, and learns which critiques help.

Paper: "Expanding the Capabilities of Reinforcement Learning via Text Feedback" (arXiv:2602.02482, Alg. 4).
Two branches leave one first answer y₀. A critic says c₀ and y₁ answers x₁ = f(x₀, y₀, c₀), as in
methods/rltf.py; the policy says c̃₀ ~ π(·|f_FeeMol(x₀, y₀)) and ỹ₁ answers x̃₁ = f(x₀, y₀, c̃₀). Rewards
r₀, r₁, r̃₁; M dialogues a step; no early stop.

    R = r₀ + γ/2 (r₁ + r̃₁),   A₀ = R − mean R,   A₁ = r₁ − b⁽¹⁾,   Ã₁ = r̃₁ − b̃⁽¹⁾
    ĝ = 1/M Σᵢ [ A₀ ∇ log π(y₀|x₀) + A₁ ∇ log π(y₁|x₁) + Ã₁ ∇ log π(c̃₀|f_FeeMol(x₀, y₀)) ] + λ_FM ĝ_FM

`own_baseline: separate` (the paper's) takes b⁽¹⁾ over the group's critic branches and b̃⁽¹⁾ over its own;
`pooled` (the authors' code) takes one mean over both. As the paper prints it, ỹ₁ gets no gradient;
`train_own_revision` (the authors' code) adds Ã₁ ∇ log π(ỹ₁|x̃₁).

Departures from the paper: 1. those of methods/rltf.py; 2. where one branch has no revision, because its
prompt did not fit into the model, R has γ times the other's reward; 3. y₀ has one row, where the authors'
code has one for each branch; 4. SD can be switched on beside it, from the critic's branch. A dialogue whose
critic failed has no second branch and leaves everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
from pydantic import Field

from didact.advantages import (
    Array,
    group_advantages,
    mean_of_known,
    pooled_advantages,
    separate_advantages,
)
from didact.methods.base import Term
from didact.methods.grpo import num_valid_rollouts, rewards_by_turn
from didact.methods.rltf import RLTF
from didact.rollouts.base import StepContext
from didact.rollouts.self_critique_rollout import own_branch, own_critique, own_id
from didact.types import Problem, Rollout, Turn

BranchBaseline: TypeAlias = Literal["separate", "pooled"]

BRANCH_BASELINES: dict[BranchBaseline, Callable[..., list[Array]]] = {
    "separate": separate_advantages,
    "pooled": pooled_advantages,
}
"""([r₁, r̃₁], groups) → [A₁, Ã₁]."""


class Branches(NamedTuple):
    """N dialogues, and the branch of each in which the policy criticised itself."""

    critics: list[Rollout]
    own: list[Rollout | None]


class BranchCredit(NamedTuple):
    """Advantages of N dialogues; NaN is missing."""

    first: Array
    """A₀ of y₀."""
    second: Array
    """A₁ of y₁."""
    own: Array
    """Ã₁ of c̃₀ and ỹ₁."""


class SelfCritiqueRL(RLTF):
    """RLTF-FM with self-critiques that are trained by what comes of them. See the top of this file.

    The settings of `RLTF`, with `early_stop` off for good, `lambda_sd` 0 unless set, and

    Attributes:
        critique_tokens: At most this many tokens a self-critique; None for `sampling.max_tokens`.
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
        """Each dialogue, and next to it the branch with the policy's own critique of its first answer."""
        dialogues = super().collect(ctx, problems)
        tokens = self.critique_tokens or ctx.sampling.max_tokens
        heard = [r for r in dialogues if not r.feedback_failed(0)]
        branches = {r.id: r for r in own_branch(ctx, heard, max_tokens=tokens)}
        return [
            part
            for rollout in dialogues
            for part in (rollout, branches.get(own_id(rollout.id)))
            if part is not None
        ]

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        branches = paired(rollouts)
        credit = self.branch_credit(branches)
        weight = 1 / num_valid_rollouts(credit.first)
        answers: list[tuple[Turn, float]] = []
        critiques: list[tuple[Turn, float]] = []
        for i, (rollout, own) in enumerate(zip(*branches, strict=True)):
            answers += zip(rollout.turns, (float(credit.first[i]), float(credit.second[i])), strict=False)
            critiques += [(turn, float(credit.own[i])) for turn in self._trained(own)]
        terms = [
            Term("rl", self.loss, self.credited_rows(ctx, answers, weight)),
            Term("own", self.loss, self.credited_rows(ctx, critiques, weight)),
            self.sd_term(ctx, branches.critics),
            self.fm_term(ctx, branches.critics),
        ]
        return [term for term in terms if term.rows]

    def branch_credit(self, branches: Branches) -> BranchCredit:
        """A₀, A₁ and Ã₁ of N dialogues."""
        groups = [rollout.group for rollout in branches.critics]
        rewards_N2 = rewards_by_turn(branches.critics, 2)
        first_N, second_N = rewards_N2.T
        own_N = np.array([_own_reward(r, own) for r, own in zip(*branches, strict=True)], dtype=np.float64)
        # A branch without a revision adds nothing; one whose revision nobody could verify makes R unknown.
        came_2N = np.array([[_revised(r) for r in branches.critics], [_revised(r) for r in branches.own]])
        rewards_2N = np.stack([second_N, own_N])
        follows_N = np.nan_to_num(mean_of_known(rewards_2N))
        follows_N[(came_2N & np.isnan(rewards_2N)).any(axis=0)] = np.nan
        returns_N = first_N + self.gamma * follows_N
        baseline = BRANCH_BASELINES[self.own_baseline]
        second_N, own_N = baseline([second_N, own_N], groups, divide_by_std=self.divide_by_std)
        return BranchCredit(
            group_advantages(returns_N, groups, divide_by_std=self.divide_by_std), second_N, own_N
        )

    def _trained(self, own: Rollout | None) -> list[Turn]:
        """What Ã₁ is the advantage of: c̃₀, and ỹ₁ if it is to be trained."""
        critique = None if own is None else own_critique(own)
        if own is None or critique is None:
            return []
        return [critique.sampled, *(own.turns[1:] if self.train_own_revision else ())]


def paired(rollouts: Sequence[Rollout]) -> Branches:
    """Each dialogue with the branch that left it."""
    branches = {r.id: r for r in rollouts if own_critique(r) is not None}
    critics = [r for r in rollouts if own_critique(r) is None]
    return Branches(critics, [branches.get(own_id(r.id)) for r in critics])


def _revised(rollout: Rollout | None) -> bool:
    return rollout is not None and len(rollout.turns) > 1


def _own_reward(rollout: Rollout, own: Rollout | None) -> float:
    """r̃₁; NaN where there is no revision or no verdict, or where the dialogue's critic failed."""
    if own is None or len(own.turns) < 2 or rollout.feedback_failed(0):
        return np.nan
    reward = own.turns[1].reward
    return np.nan if reward is None else reward
