"""A growing conversation as chat messages: question, answer, critique, answer, …

Answers are assistant messages and critiques user messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.types import Message, Problem, Rollout


def conversation(problem: Problem, exchanges: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """A problem's messages, then each answer and its critique, up to the next answer.

    >>> [m.role for m in conversation(Problem.ask("2 + 2?", id="p"), [("5", "Too many.")])]
    ['user', 'assistant', 'user']
    """
    return (
        *problem.messages,
        *(
            message
            for answer, critique in exchanges
            for message in (Message(role="assistant", content=answer), Message(role="user", content=critique))
        ),
    )


def public_contexts(rollout: Rollout) -> list[tuple[Message, ...]]:
    """o_0, o_1, …: the conversation before any answer, after the first critique, after the second, …

    The list ends before the first turn without a usable critique.
    """
    exchanges: list[tuple[str, str]] = []
    contexts = [conversation(rollout.problem, exchanges)]
    for h, turn in enumerate(rollout.turns):
        feedback = rollout.feedback_on(h)
        if feedback is None:
            break
        exchanges.append((turn.text, feedback.text))
        contexts.append(conversation(rollout.problem, exchanges))
    return contexts
