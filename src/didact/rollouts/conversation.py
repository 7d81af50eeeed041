"""A growing conversation: question, answer, what was said about it, answer, …

What is said stands in the user's messages, so that a model sees its own answers as its own and the critiques
as what somebody told it.
"""

from __future__ import annotations

from collections.abc import Sequence

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
