"""Two guessing games for demonstrations and tests; an observation depends on the last guess alone."""

from __future__ import annotations

import re

from didact.environments.base import Step
from didact.errors import UsageError
from didact.rng import generator


class GuessNumber:
    """Guess a number between two bounds, by "higher" and "lower".

    Args:
        low: Lowest possible number.
        high: Highest, above `low`.
        guesses: Number of guesses, ≥ 1.
    """

    def __init__(self, low: int = 1, high: int = 20, guesses: int = 6) -> None:
        if not low < high or guesses < 1:
            raise UsageError(
                f"guess-number needs low < high and a guess, not low={low}, high={high}, guesses={guesses}"
            )
        self.low, self.high, self.guesses = low, high, guesses
        self._number, self._left = low, 0

    def reset(self, seed: int) -> str:
        """Draw the number."""
        self._number = int(generator(seed, "guess-number").integers(self.low, self.high + 1))
        self._left = self.guesses
        return f"Guess a number from {self.low} to {self.high}. You have {self.guesses} guesses."

    def step(self, text: str) -> Step:
        """Guess the last integer of the text; a text without one costs a guess too."""
        self._left -= 1
        found = re.findall(r"-?\d{1,9}", text)
        guess = int(found[-1]) if found else None
        if guess == self._number:
            return Step("That is right.", 1.0, True)
        if guess is None:
            said = "That is no number."
        else:
            said = f"It is {'higher' if self._number > guess else 'lower'} than {guess}."
        return Step(said, 0.0, True) if self._left <= 0 else Step(f"{said} Guess again.", 0.0, False)


class GuessWord:
    """Guess a sequence of letters, by which are right, elsewhere or nowhere.

    A letter counts as elsewhere at most as often as the secret has unmatched copies of it.

    Args:
        letters: Length of the sequence, ≥ 1.
        alphabet: Possible letters, at least two.
        guesses: Number of guesses, ≥ 1.
    """

    def __init__(self, letters: int = 3, alphabet: str = "abcdef", guesses: int = 8) -> None:
        if letters < 1 or len(set(alphabet)) < 2 or guesses < 1:
            raise UsageError(
                "guess-word needs a letter, an alphabet of two and a guess, not "
                f"letters={letters}, alphabet={alphabet!r}, guesses={guesses}"
            )
        self.letters, self.alphabet, self.guesses = letters, "".join(sorted(set(alphabet))), guesses
        self._secret, self._left = "", 0

    def reset(self, seed: int) -> str:
        """Draw the letters."""
        drawn = generator(seed, "guess-word").integers(len(self.alphabet), size=self.letters)
        self._secret = "".join(self.alphabet[i] for i in drawn)
        self._left = self.guesses
        return (
            f"Guess {self.letters} letters, each one of {' '.join(self.alphabet)}. "
            f"You have {self.guesses} guesses. Write the letters and nothing else."
        )

    def step(self, text: str) -> Step:
        """Guess the text, without white space and case."""
        self._left -= 1
        guess = "".join(text.split()).lower()
        if guess == self._secret.lower():
            return Step("That is right.", 1.0, True)
        said = self._about(guess)
        return Step(said, 0.0, True) if self._left <= 0 else Step(f"{said} Guess again.", 0.0, False)

    def _about(self, guess: str) -> str:
        if len(guess) != self.letters:
            return f"It should have {self.letters} letters, not {len(guess)}."
        secret = self._secret.lower()
        spare = [s for s, g in zip(secret, guess, strict=True) if s != g]
        said = []
        for i, (s, g) in enumerate(zip(secret, guess, strict=True)):
            where = "right"
            if s != g:
                where = "elsewhere" if g in spare else "nowhere"
            if where == "elsewhere":
                spare.remove(g)
            said.append(f"Character {i + 1} is {where}.")
        return " ".join(said)
