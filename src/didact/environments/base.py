"""What an environment is: something that answers what is said to it, in text, until an episode is over.

    text = environment.reset(seed)
    while not over:
        text, reward, over = environment.step(what was said)

For a language model an episode is one growing conversation: the environment's words are the user's messages,
and so its feedback after every step.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

SOLVED = 1.0
"""An episode whose rewards sum up to this is solved."""


class Step(NamedTuple):
    """What an environment answers."""

    text: str
    """Shown to the player."""
    reward: float
    """Of this step alone. Over an episode they should sum up to at most 1, and to 1 where all is achieved."""
    done: bool
    """Is the episode over?"""


class Environment(Protocol):
    """One player's world. An instance holds one episode at a time.

    A class of your own needs these two methods and nothing of Didact; `step` may return a plain tuple.
    """

    def reset(self, seed: int) -> str:
        """Begin the episode that the seed says, and tell the player what it is about.

        The same seed is the same episode: the same first text, and the same answers to the same words.
        """
        ...

    def step(self, text: str) -> tuple[str, float, bool]:
        """Take what the player said, in whatever form, and answer: (text, reward, done).

        Words that are no move are answered by saying so; this never raises for what a model wrote.
        """
        ...
