"""A stand-in for the package textarena 0.7.4: the same calls, two games, and the global generator."""

from __future__ import annotations

import enum
import random
import types


class ObservationType(enum.Enum):
    PROMPT = 1
    PLAYER_ACTION = 2
    GAME_MESSAGE = 4


class Wrapper:
    def __init__(self, env):  # type: ignore[no-untyped-def]
        self.env = env

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        return getattr(self.env, name)


class History(Wrapper):
    """Repeats everything, as the package's own default wrapper does."""

    def get_observation(self):  # type: ignore[no-untyped-def]
        raise AssertionError("the wrapper's history was asked for")


class HighLow:
    """Three guesses; draws a decoy number at every step, so that foreign draws would be seen."""

    players = 1

    def reset(self, num_players, seed=None):  # type: ignore[no-untyped-def]
        assert num_players == self.players, f"The number of players has to be {self.players}"
        random.seed(seed)
        self.number, self.left, self.news, self.rewards = random.randint(1, 9), 3, [], None
        self.say(ObservationType.PROMPT, "Guess from 1 to 9.")

    def say(self, kind, text, who=-1):  # type: ignore[no-untyped-def]
        self.news.append((who, text, kind))

    def get_observation(self):  # type: ignore[no-untyped-def]
        said, self.news = self.news, []
        return 0, said

    def step(self, action):  # type: ignore[no-untyped-def]
        print("printed by the game")
        self.say(ObservationType.PLAYER_ACTION, action, 0)
        assert action.startswith("["), action
        guess, self.left = int(action.strip("[]")), self.left - 1
        if guess == self.number:
            self.rewards, self.reason = {0: 1}, "Congratulations!"
        else:
            word = "higher" if guess < self.number else "lower"
            self.say(ObservationType.GAME_MESSAGE, f"The target number is {word}. Lucky {random.random()}")
            if not self.left:
                self.rewards, self.reason = {0: 0.5}, f"Out of turns: {self.number}."
        return self.rewards is not None, {}

    def close(self):  # type: ignore[no-untyped-def]
        return self.rewards, {0: {"reason": self.reason}}


class Duel(HighLow):
    players = 2


def module() -> types.ModuleType:
    """The package."""
    found = types.ModuleType("textarena")
    games = {"HighLow-v0": lambda: History(HighLow()), "Duel-v0": lambda: History(Duel())}

    def make(name):  # type: ignore[no-untyped-def]
        if name == "Words-v0":
            raise LookupError("\n****\n  Resource 'words' not found.\n" + "  - '/data'\n" * 99)
        if name not in games:
            raise ValueError(f"Environment {name} not found in registry.")
        return games[name]()

    found.make, found.Wrapper = make, Wrapper  # type: ignore[attr-defined]
    return found
