"""ILF: refine with feedback, keep the best, fine-tune on it.

Paper: "Training Language Models with Language Feedback at Scale" (arXiv:2303.16755), its loop of feedback,
refinements, choice and supervised fine-tuning.

    L = −1/M Σ over problems of log π(y* | x₀),   y* = the best refinement of the problem

An answer y₀ is sampled and criticised, and the critique answered by a refinement y₁ ~ π(·|x₁); N such
dialogues a problem, of which the refinement with the highest reward is kept, the first of equals; M problems
that have one. The plain prompt x₀ learns it by cross-entropy: no advantage, no baseline, no ratio.

Departures from the paper: 1. the best is chosen by the task's reward, not by a model that is asked which
refinement incorporates the feedback; 2. the N refinements are of N answers with a critique each, not of one,
so that a step costs what a step of rltf-sd costs; 3. a refinement that is no better than its answer teaches
nothing and is left out, unless `improved_only` is off; 4. one step of SFT on each batch of samples, in place
of three rounds of it on a fixed set. An answer whose critic failed has no refinement, so that nothing is lost
by it but itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from didact.engines.base import Loss
from didact.methods.base import Method, Term
from didact.rollouts.base import StepContext
from didact.rollouts.two_turn import two_turn
from didact.types import Problem, Rollout, Row


class ILF(Method):
    """Imitation of the best refinements. See the top of this file.

    Attributes:
        samples: N, dialogues a problem.
        improved_only: Leave out refinements whose reward is not above their first answer's.
        early_stop: No critique and no refinement of a right answer.
    """

    samples: Annotated[int, Field(ge=1)] = 8
    improved_only: bool = True
    early_stop: bool = True

    @property
    def needs_feedback(self) -> bool:
        return True

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        return two_turn(ctx, problems, self.samples, early_stop=self.early_stop)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        best = self.best(rollouts)
        rows = [
            Row.from_completion(r.turns[0].prompt_ids, r.turns[1].completion_ids, weights=1 / len(best))
            for r in best
        ]
        return [Term("sft", Loss("cross_entropy"), rows)] if rows else []

    def best(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Of each group, the dialogue whose refinement is best; groups without one are left out."""
        best: dict[str, tuple[float, Rollout]] = {}
        for rollout in rollouts:
            gain = self._reward(rollout)
            if gain is not None and (rollout.group not in best or gain > best[rollout.group][0]):
                best[rollout.group] = gain, rollout
        return [rollout for _, rollout in best.values()]

    def _reward(self, rollout: Rollout) -> float | None:
        """r₁; None where there is no refinement, nobody verified it, or it is no better."""
        if len(rollout.turns) < 2 or rollout.turns[1].reward is None:
            return None
        first, second = rollout.turns[0].reward, rollout.turns[1].reward
        if self.improved_only and first is not None and second <= first:
            return None
        return second
