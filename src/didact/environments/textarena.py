"""Single-player games of TextArena (an optional package) as environments.

Each observation holds only what is new, because the conversation has the rest. A game's reward comes at its
end, 1 if it is solved. An action without square brackets is put into them, as TextArena's own wrapper does.

TextArena draws from Python's global generator: each call here swaps in the game's own state of it, and
restores the old one after.

Tested with textarena 0.7.4, of which GuessTheNumber-v0, Mastermind-v0, TowerOfHanoi-v0 and FrozenLake-v0 need
no download.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from typing import Any

from didact.environments.base import Step
from didact.errors import UsageError, install_command

_ME = 0
_OWN_MOVE = "PLAYER_ACTION"


class TextArena:
    """One single-player game.

    Args:
        name: TextArena's name for it, as "GuessTheNumber-v0".
        brackets: Put an action without square brackets into them.

    Raises:
        UsageError: textarena is not installed, or cannot make the game.
    """

    def __init__(self, name: str, brackets: bool = True) -> None:
        self.name, self.brackets = name, brackets
        self._state: Any = None
        try:
            import textarena
        except ImportError as error:
            raise UsageError(f"textarena is not installed: {install_command('games')}") from error
        arena: Any = textarena
        with self._own_random():
            try:
                game: Any = arena.make(name)
            except Exception as error:  # a third party's game, its word lists and its downloads
                raise UsageError(f"{_cannot(name)}: {_words(error)}. {_cure(error)}") from error
        # Wrappers repeat the whole history in every observation; the conversation has it.
        while isinstance(game, arena.Wrapper):
            game = game.env
        self._game: Any = game

    def reset(self, seed: int) -> str:
        """Start the game of a seed.

        Raises:
            UsageError: it is not a single-player game.
        """
        with self._own_random():
            try:
                self._game.reset(num_players=1, seed=seed)
            except Exception as error:  # each game refuses in its own way
                raise UsageError(
                    f"{_cannot(self.name)} for one player: {_words(error)}. Choose a single-player game"
                ) from error
            return self._new_text()

    def step(self, text: str) -> Step:
        """Act; an action that the game cannot take, or that breaks it, ends the episode without reward."""
        move = text if "[" in text or not self.brackets else f"[{text.strip()}]"
        with self._own_random():
            try:
                done, _ = self._game.step(move)
            except Exception as error:  # any error of a game's own parser
                return Step(f"The game cannot take that move ({type(error).__name__}).", 0.0, True)
            new_text = self._new_text()
            if not done:
                return Step(new_text, 0.0, False)
            rewards, about = self._game.close()
        reason = str((about or {}).get(_ME, {}).get("reason") or "")
        text = "\n".join(part for part in (new_text, reason) if part)
        return Step(text, float((rewards or {}).get(_ME, 0.0)), True)

    def _new_text(self) -> str:
        """The game's messages since the last call."""
        _, messages = self._game.get_observation()
        texts = [str(text).strip() for _, text, kind in messages if getattr(kind, "name", "") != _OWN_MOVE]
        return "\n".join(text for text in texts if text)

    @contextlib.contextmanager
    def _own_random(self) -> Iterator[None]:
        before = random.getstate()
        if self._state is not None:
            random.setstate(self._state)
        try:
            # Games print; their words are not the command's output.
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            self._state = random.getstate()
            random.setstate(before)


def _cannot(name: str) -> str:
    return f"TextArena cannot make the game {name!r}"


def _words(error: Exception) -> str:
    """An error on one line; NLTK's fill a page."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _cure(error: Exception) -> str:
    if isinstance(error, LookupError):
        return (
            "Games on words, as Hangman and Wordle, need NLTK's corpora on this machine: "
            "python -m nltk.downloader words averaged_perceptron_tagger_eng"
        )
    return "Choose another game, as GuessTheNumber-v0 or Mastermind-v0"
