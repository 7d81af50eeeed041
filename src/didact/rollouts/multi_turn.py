"""answer → critique → revision → critique → revision … (RLTF, arXiv:2602.02482, H turns).

x_{h+1} = f(x₀, y_h, c_h): every revision answers a *fresh* prompt with the question, the latest attempt and
its critique. The paper writes f(x_h, y_h, c_h) and runs two turns, where both are the same; this way a prompt
is as short at the tenth turn as at the second.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.feedback_source import FeedbackRequest
from didact.prompts import revision_messages
from didact.rng import derive_seed
from didact.rollouts.base import StepContext, add_answers, first_turns
from didact.types import Problem, Rollout


def two_turn(
    ctx: StepContext, problems: Sequence[Problem], n: int, *, early_stop: bool = True
) -> list[Rollout]:
    """answer → critique → revision: `multi_turn` with two turns."""
    return multi_turn(ctx, problems, n, turns=2, early_stop=early_stop)


def multi_turn(
    ctx: StepContext, problems: Sequence[Problem], n: int, *, turns: int = 2, early_stop: bool = True
) -> list[Rollout]:
    """n ≥ 1 dialogues for each of P problems, of at most `turns` answers.

    First answers are sampled, or taken from `ctx.offline`.

    Args:
        turns: H ≥ 1, answers a dialogue.
        early_stop: Do not criticise or revise a correct answer.

    Returns:
        P·n rollouts. Fewer turns where the dialogue stopped early, the feedback source failed (the failed
        feedback is kept) or a revision's prompt leaves no room for an answer.
    """
    rollouts = first_turns(ctx, problems, n)
    for h in range(turns - 1):
        revise(ctx, rollouts, criticise(ctx, rollouts, h, early_stop=early_stop), h)
    return rollouts


def criticise(ctx: StepContext, rollouts: list[Rollout], h: int, *, early_stop: bool) -> list[int]:
    """Add critiques of turn h, in place; the indices of the rollouts that now have a usable one."""
    source = ctx.feedback_source
    open_ = [
        i for i, r in enumerate(rollouts) if len(r.turns) == h + 1 and not (early_stop and r.turns[h].correct)
    ]
    if not open_:
        return []
    requests = [
        FeedbackRequest(rollouts[i].problem, rollouts[i].turns[h], h, rollout=rollouts[i].id) for i in open_
    ]
    for i, feedback in zip(open_, source.critique(requests), strict=True):
        rollouts[i] = rollouts[i].model_copy(update={"feedback": (*rollouts[i].feedback, feedback)})
    return [i for i in open_ if rollouts[i].feedback[-1].ok]


def revise(
    ctx: StepContext, rollouts: list[Rollout], which: Sequence[int], h: int, stream: str = "turn"
) -> None:
    """Add an answer after the critique of turn h to some of the rollouts, in place.

    Another branch of the same dialogues has another random stream, hence other draws.
    """
    prompts = {}
    for i in which:
        attempt, critique = rollouts[i].turns[h].answer.strip(), rollouts[i].feedback[-1].text
        prompts[i] = ctx.renderer.prompt(revision_messages(rollouts[i].problem, attempt, critique))
    # The length of an attempt or a critique is up to the models and must not end the run.
    fitting = {i: prompt for i, prompt in prompts.items() if ctx.fits(prompt)}
    add_answers(ctx, rollouts, fitting, seed=derive_seed(ctx.seed, stream, h + 1))
