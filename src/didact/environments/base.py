"""The protocol of a text environment.

    text = environment.reset(seed)
    while not done:
        text, reward, done = environment.step(action)

In an episode the environment's texts are the user's messages and the model's actions the assistant's.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

SOLVED = 1.0
"""The return from which an episode counts as solved."""


class Step(NamedTuple):
    """Result of an action."""

    text: str
    """Observation shown to the player."""
    reward: float
    """Of this step. The rewards of an episode should sum to at most 1, and to 1 if it is solved."""
    done: bool
    """The episode has ended."""


class Environment(Protocol):
    """A single-player environment; an instance holds one episode at a time.

    Your own class needs these two methods and nothing of Didact; `step` may return a plain tuple.
    """

    def reset(self, seed: int) -> str:
        """Start an episode and return its first observation; the same seed gives the same episode."""
        ...

    def step(self, text: str) -> tuple[str, float, bool]:
        """Act, and return (text, reward, done).

        Args:
            text: Whatever the model wrote. An invalid action gets an explanation, never an exception.
        """
        ...
