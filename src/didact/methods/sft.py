"""Supervised fine-tuning on references: a warm start, and the baseline that sees the references.

    L = −1/M Σᵢ log π(reference_i | x_i)

M problems a step; log π of a reference is the sum over its tokens and the end-of-turn token.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.engines.base import Loss
from didact.errors import DataError
from didact.methods.base import LossTerm, Method
from didact.rollouts.base import StepContext, problem_prompt
from didact.types import Problem, Rollout, Row, Turn


class SFT(Method):
    """Cross-entropy on each problem's reference."""

    @property
    def learns_from_references(self) -> bool:
        return True

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Each problem with its reference as the answer.

        Raises:
            DataError: a problem has no reference.
        """
        rollouts = []
        for i, problem in enumerate(problems):
            if problem.reference is None:
                raise DataError(
                    f"problem {problem.id!r} has no reference, and SFT learns from nothing else: "
                    "add a reference column, or take a method that learns from critiques"
                )
            turn = Turn(
                prompt_ids=problem_prompt(ctx.renderer, problem),
                completion_ids=ctx.renderer.answer(problem.reference),
                logprobs=None,
                text=problem.reference,
                stop_reason="eos",
                reward=ctx.task.verify(problem, problem.reference).reward,
            )
            group = f"{ctx.step}/{i}/{problem.id}"
            rollouts.append(Rollout(id=f"{group}/0", group=group, problem=problem, turns=(turn,)))
        return rollouts

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        rows = [
            Row.from_completion(
                rollout.turns[0].prompt_ids, rollout.turns[0].completion_ids, weights=1 / len(rollouts)
            )
            for rollout in rollouts
        ]
        return [LossTerm("sft", Loss("cross_entropy"), rows)] if rows else []
