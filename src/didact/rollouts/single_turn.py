"""prompt → answer."""

from __future__ import annotations

from collections.abc import Sequence

from didact.rng import derive_seed
from didact.rollouts.base import StepContext, dataset_turn, sample_turns
from didact.types import Problem, Rollout, Turn


def single_turn(ctx: StepContext, problems: Sequence[Problem], n: int) -> list[Rollout]:
    """n sampled answers to each problem, grouped by problem.

    Args:
        ctx: The step's context.
        problems: P problems.
        n: Answers a problem, ≥ 1.

    Returns:
        P·n rollouts of one turn; those of one problem are adjacent.
    """
    prompts = [ctx.renderer.prompt(problem.messages) for problem in problems]
    turns = sample_turns(ctx, problems, prompts, n, seed=derive_seed(ctx.seed, "turn", 0))
    return _rollouts(ctx, problems, turns)


def first_turns(ctx: StepContext, problems: Sequence[Problem], n: int) -> list[Rollout]:
    """`single_turn`, or with `ctx.offline` the dataset's answers to each problem, repeated up to n."""
    if ctx.offline is None:
        return single_turn(ctx, problems, n)
    turns = []
    for problem in problems:
        prompt, texts = ctx.renderer.prompt(problem.messages), ctx.offline.answers(problem)
        turns.append([dataset_turn(ctx, problem, prompt, texts[j % len(texts)]) for j in range(n)])
    return _rollouts(ctx, problems, turns)


def _rollouts(
    ctx: StepContext, problems: Sequence[Problem], turns: Sequence[Sequence[Turn]]
) -> list[Rollout]:
    rollouts = []
    for i, (problem, answers) in enumerate(zip(problems, turns, strict=True)):
        group = f"{ctx.step}/{i}/{problem.id}"
        rollouts += [
            Rollout(id=f"{group}/{j}", group=group, problem=problem, turns=(turn,))
            for j, turn in enumerate(answers)
        ]
    return rollouts
