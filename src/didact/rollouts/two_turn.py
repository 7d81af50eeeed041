"""answer → critique → revision (RLTF, arXiv:2602.02482, H = 2)."""

from __future__ import annotations

from collections.abc import Sequence

from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import multi_turn
from didact.types import Problem, Rollout


def two_turn(
    ctx: StepContext, problems: Sequence[Problem], n: int, *, early_stop: bool = True
) -> list[Rollout]:
    """n dialogues for each problem. The revision answers a *fresh* prompt, not a chat.

    First answers are sampled, or taken from `ctx.recorded`.

    Args:
        ctx: This step's context, with a feedback source.
        problems: P problems.
        n: Dialogues a problem, ≥ 1.
        early_stop: Do not criticise or revise a first answer that is right.

    Returns:
        P·n rollouts. One turn where the dialogue stopped early, the critic failed (the failed
        feedback is kept) or the revision's prompt leaves no room for an answer, else two.
    """
    return multi_turn(ctx, problems, n, turns=2, early_stop=early_stop)
