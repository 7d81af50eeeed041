"""answer → critique → revision → critique → revision …  (RLTF, arXiv:2602.02482, H turns).

x_{h+1} = f(x₀, y_h, c_h): every revision answers a *fresh* prompt with the question, the latest attempt and
what was said about that. The paper writes f(x_h, y_h, c_h) and runs two turns only, where both are the same;
this way a prompt stays as short at the tenth turn as at the second.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.feedback_source import FeedbackRequest
from didact.rendering.renderer import revision_messages
from didact.rng import derive_seed
from didact.rollouts.base import StepContext, add_answers
from didact.rollouts.single_turn import recorded_turn, single_turn
from didact.types import Ids, Problem, Rollout


def multi_turn(
    ctx: StepContext,
    problems: Sequence[Problem],
    n: int,
    *,
    turns: int = 2,
    early_stop: bool = True,
) -> list[Rollout]:
    """n dialogues for each problem, of at most `turns` answers.

    First answers are sampled, or taken from `ctx.recorded`.

    Args:
        ctx: This step's context, with a feedback source.
        problems: P problems.
        n: Dialogues a problem, ≥ 1.
        turns: H ≥ 1, answers a dialogue.
        early_stop: Do not criticise or revise an answer that is right.

    Returns:
        P·n rollouts. Fewer turns where the dialogue stopped early, a critic failed (the failed feedback is
        kept) or a revision's prompt leaves no room for an answer.
    """
    first = single_turn if ctx.recorded is None else recorded_turn
    rollouts = first(ctx, problems, n)
    for h in range(turns - 1):
        revise(ctx, rollouts, criticise(ctx, rollouts, h, early_stop=early_stop), h)
    return rollouts


def criticise(ctx: StepContext, rollouts: list[Rollout], h: int, *, early_stop: bool) -> list[int]:
    """Have the answers of turn h criticised, in place.

    Returns:
        The indices of the rollouts that now have a usable critique of turn h.
    """
    critic = ctx.critic
    open_ = [
        i for i, r in enumerate(rollouts) if len(r.turns) == h + 1 and not (early_stop and r.turns[h].correct)
    ]
    if not open_:
        return []
    requests = [
        FeedbackRequest(rollouts[i].problem, rollouts[i].turns[h], h, rollout=rollouts[i].id) for i in open_
    ]
    for i, said in zip(open_, critic.critique(requests), strict=True):
        rollouts[i] = rollouts[i].model_copy(update={"feedback": (*rollouts[i].feedback, said)})
    return [i for i in open_ if rollouts[i].feedback[-1].ok]


def revise(
    ctx: StepContext, rollouts: list[Rollout], which: Sequence[int], h: int, stream: str = "turn"
) -> None:
    """Add an answer after the critique of turn h to some of the rollouts, in place.

    Args:
        ctx: This step's context.
        rollouts: All of them.
        which: Indices of those whose last feedback is to be answered.
        h: The turn that was criticised.
        stream: Names the draws, so that another branch of the same dialogues draws others.
    """
    prompts = {i: _revision_prompt(ctx, rollouts[i], h) for i in which}
    # How long an attempt or a critique is, is the models' doing, and must not end the run.
    fitting = {i: prompt for i, prompt in prompts.items() if ctx.fits(prompt)}
    add_answers(ctx, rollouts, fitting, seed=derive_seed(ctx.seed, stream, h + 1))


def _revision_prompt(ctx: StepContext, rollout: Rollout, h: int) -> Ids:
    attempt, critique = rollout.turns[h].text.strip(), rollout.feedback[-1].text
    return ctx.renderer.prompt(revision_messages(rollout.problem, attempt, critique))
