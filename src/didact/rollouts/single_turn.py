"""prompt → answer."""

from __future__ import annotations

from collections.abc import Sequence

from didact.randomness import derive_seed
from didact.rollouts.base import Context, sample_turns
from didact.types import Problem, Rollout


def single_turn(ctx: Context, problems: Sequence[Problem], n: int) -> list[Rollout]:
    """n answers to each problem, grouped by problem.

    Args:
        ctx: This step's context.
        problems: P problems.
        n: Answers a problem, ≥ 1.

    Returns:
        P·n rollouts of one turn, the n of one problem side by side.
    """
    prompts = [ctx.renderer.prompt(problem.messages) for problem in problems]
    turns = sample_turns(ctx, problems, prompts, n, seed=derive_seed(ctx.seed, "turn", 0))
    rollouts = []
    for i, (problem, answers) in enumerate(zip(problems, turns, strict=True)):
        group = f"{ctx.step}/{i}/{problem.id}"
        rollouts += [
            Rollout(id=f"{group}/{j}", group=group, problem=problem, turns=(turn,))
            for j, turn in enumerate(answers)
        ]
    return rollouts
