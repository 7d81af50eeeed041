"""Games and other worlds that answer in text: the protocol, two small ones, and TextArena's."""

from didact.environments.base import Environment, Step
from didact.environments.guessing import GuessNumber, GuessWord
from didact.environments.registry import BUILT_IN, make_environment

__all__ = ["BUILT_IN", "Environment", "GuessNumber", "GuessWord", "Step", "make_environment"]
