"""ILF: refine with feedback, keep the best refinement, fine-tune on it.

Paper: "Training Language Models with Language Feedback at Scale" (arXiv:2303.16755), its loop of feedback,
refinement, selection and supervised fine-tuning.

    L = −1/M Σ over problems of log π(y* | x₀),   y* = the best refinement of the problem

An answer y₀ is sampled and criticised, and the critique answered by a refinement y₁ ~ π(·|x₁). Of N such
dialogues a problem the refinement with the highest reward is kept, the first of equals; M problems have one.
The plain prompt x₀ is trained on it by cross-entropy: no advantage, no baseline, no ratio.

An answer whose feedback failed has no refinement. docs/algorithms/ilf.md lists the departures from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from didact.engines.base import Loss
from didact.methods.base import LossTerm, Method
from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import two_turn
from didact.types import Problem, Rollout, Row


class ILF(Method):
    """Imitation of the best refinements.

    Attributes:
        samples: N, dialogues a problem.
        improved_only: Leave out refinements whose reward is not above their first answer's.
        early_stop: No critique and no refinement of a correct answer.
    """

    samples: Annotated[int, Field(ge=1)] = 8
    improved_only: bool = True
    early_stop: bool = True

    @property
    def needs_feedback(self) -> bool:
        return True

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        return two_turn(ctx, problems, self.samples, early_stop=self.early_stop)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        best = best_refinements(rollouts, improved_only=self.improved_only)
        rows = [
            Row.from_completion(r.turns[0].prompt_ids, r.turns[1].completion_ids, weights=1 / len(best))
            for r in best
        ]
        return [LossTerm("sft", Loss("cross_entropy"), rows)] if rows else []


def best_refinements(rollouts: Sequence[Rollout], *, improved_only: bool) -> list[Rollout]:
    """Of each group the dialogue with the best refinement; none for groups without a refinement."""
    best: dict[str, tuple[float, Rollout]] = {}
    for rollout in rollouts:
        first, *later = [turn.reward for turn in rollout.turns[:2]]
        second = later[0] if later else None
        if second is None or (improved_only and first is not None and second <= first):
            continue
        if rollout.group not in best or second > best[rollout.group][0]:
            best[rollout.group] = second, rollout
    return [rollout for _, rollout in best.values()]
