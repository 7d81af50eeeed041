"""A growing conversation: question, answer, what was said about it, answer, …

What is said stands in the user's messages, so that a model sees its own answers as its own and the critiques
as what somebody told it.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.randomness import derive_seed
from didact.rollouts.base import Context, sample_turns
from didact.rollouts.multi_turn import criticise
from didact.rollouts.single_turn import single_turn
from didact.types import Message, Problem, Rollout


def conversation(problem: Problem, said: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """A problem's messages, then each answer and what was said about it; ready for the next answer.

    >>> [m.role for m in conversation(Problem.ask("2 + 2?", id="p"), [("5", "Too many.")])]
    ['user', 'assistant', 'user']
    """
    return (
        *problem.messages,
        *(
            message
            for answer, words in said
            for message in (Message(role="assistant", content=answer), Message(role="user", content=words))
        ),
    )


def public_contexts(rollout: Rollout) -> list[tuple[Message, ...]]:
    """o_0, o_1, …: the conversation before any answer, after the first critique, after the second, …

    It ends with the last turn that has a usable critique, or before the first that has none.
    """
    said: list[tuple[str, str]] = []
    contexts = [conversation(rollout.problem, said)]
    for h, turn in enumerate(rollout.turns):
        feedback = rollout.feedback_on(h)
        if feedback is None:
            break
        said.append((turn.text, feedback.text))
        contexts.append(conversation(rollout.problem, said))
    return contexts


def converse(
    ctx: Context, problems: Sequence[Problem], *, turns: int, early_stop: bool = True
) -> list[Rollout]:
    """One growing conversation a problem, for evaluation: every prompt is rendered from the texts so far.

    Args:
        ctx: Engine, task and critic.
        problems: P problems.
        turns: Answers a conversation at most, ≥ 1.
        early_stop: Do not speak after an answer that is right.

    Returns:
        P rollouts. Fewer turns where a conversation stopped early, the critic failed, or it left the model
        no room for another answer.
    """
    rollouts = single_turn(ctx, problems, 1)
    for h in range(turns - 1):
        heard = criticise(ctx, rollouts, h, early_stop=early_stop)
        prompts = {i: ctx.renderer.prompt(public_contexts(rollouts[i])[-1]) for i in heard}
        fitting = [i for i in heard if ctx.fits(prompts[i])]
        answers = sample_turns(
            ctx,
            [rollouts[i].problem for i in fitting],
            [prompts[i] for i in fitting],
            1,
            seed=derive_seed(ctx.seed, "converse", h + 1),
        )
        for i, (turn,) in zip(fitting, answers, strict=True):
            rollouts[i] = rollouts[i].model_copy(update={"turns": (*rollouts[i].turns, turn)})
    return rollouts
