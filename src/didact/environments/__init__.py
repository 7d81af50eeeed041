"""Text environments, such as games: the protocol, two small ones, and TextArena's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from didact.environments.base import Environment, Step
from didact.environments.guessing import GuessNumber, GuessWord
from didact.environments.textarena import TextArena
from didact.settings import Entry, Registry

__all__ = ["ENVIRONMENTS", "Environment", "GuessNumber", "GuessWord", "Step", "make_environment"]

ENVIRONMENTS: Registry[Environment] = Registry(
    "environment",
    "didact.environments",
    {
        "guess-number": Entry(GuessNumber, "a number, guessed by higher and lower"),
        "guess-word": Entry(GuessWord, "letters, guessed by their places"),
    },
    prefixes={"textarena": lambda game: Entry(TextArena, defaults={"name": game})},
    requires=("reset", "step"),
)


def make_environment(spec: str, settings: Mapping[str, Any] | None = None) -> Environment:
    """Make an environment; an instance plays one episode at a time.

    Args:
        spec: A name, "textarena:GAME" as "textarena:GuessTheNumber-v0", or "file.py:Class".
        settings: Arguments of its class.

    Raises:
        UsageError: an unknown name or setting, or a value that the class refuses.
    """
    return ENVIRONMENTS.make(spec, settings)
