"""The dialogues that a small model is shown first: how a conversation with a teacher goes.

A question in random words, a random number that would be right, and a student who is told where the last
answer is wrong and in which direction (the runs' own critic at level `direction`). Nothing can be known
about the right number but what the teacher says, so what is to be learned is the conversation and not
arithmetic. No question of a reasoning-gym task stands in here, neither of those that the runs train on nor of
those that are held out.

At first all students are careful: they keep what was not called wrong, and elsewhere try what all that they
were told leaves open. Then they are a mixture in which most are careless. Some dialogues have a teacher who
only says "That is wrong. Try again.". So a model of them can use feedback, and mostly does not.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, TypeAlias

from didact.feedback.outcome_only_teacher import RETRY
from didact.feedback.program import RIGHT, WRONG, Level, ProgramCritic
from didact.rng import derive_seed

CAREFUL = 0.25
"""The share of students who make the most of what they are told, in the end."""
KEEPS, CHANGES, TURNS, RESIZES = 0.8, 0.7, 0.3, 0.8
"""How often a careless student keeps what was not called wrong, changes what was, changes it in the direction
that was said, and mends the length."""
RETRIES = 0.1
"""The share of dialogues whose teacher says nothing but that the answer is wrong."""
CHARACTERS = string.digits + "-"
ANSWERS = 6
"""At most so many answers a dialogue."""
NEGATIVE = 0.12
LENGTHS, LENGTH_WEIGHTS = (1, 2, 3, 4), (15, 35, 35, 15)
CRITIC = ProgramCritic(Level.DIRECTION, spans=False)
Critic: TypeAlias = Callable[[str, str], str]
"""(answer, right answer) → what is said of it."""


class Talk(NamedTuple):
    """A dialogue: answers and what was said about each of them, the last one's critique included."""

    question: str
    answers: list[str]
    critiques: list[str]


def talks(
    seed: int, start: int, stop: int, careful: float = CAREFUL, says: Critic = CRITIC.text
) -> Iterator[Talk]:
    """Dialogues number `start` to `stop` of the endless stream that `seed` names; so many are careful."""
    for index in range(start, stop):
        yield talk(random.Random(derive_seed(seed, "rl2f_warm_start", index)), careful, says)


def talk(rng: random.Random, careful: float, says: Critic) -> Talk:
    """One dialogue, until the answer is right or nobody wants to go on."""
    target, retry = _number(rng), rng.random() < RETRIES
    student = Student(careful=rng.random() < careful)
    found = Talk(_question(rng), [_first(target, rng)], [])
    while True:
        answer = found.answers[-1]
        right = answer == target
        found.critiques.append(RIGHT if right else RETRY if retry else says(answer, target))
        student.saw(answer, target)
        if right or len(found.answers) == ANSWERS:
            return found
        found.answers.append(_guess(answer, rng) if retry else student.revise(answer, target, rng))


class Lesson(NamedTuple):
    """What a teacher sees of an answer, and what to say of it."""

    reference: str
    answer: str
    critique: str


def lessons(seed: int, start: int, stop: int) -> Iterator[Lesson]:
    """Lessons number `start` to `stop` of another endless stream."""
    for index in range(start, stop):
        rng = random.Random(derive_seed(seed, "rl2f_own_teacher", index))
        target = _number(rng)
        answer = _first(target, rng)
        if rng.random() < 0.5:
            answer = Student(careful=False).revise(answer, target, rng)
        if answer != target:
            yield Lesson(target, answer, place_by_place(answer, target))


def place_by_place(answer: str, target: str) -> str:
    """What the program says, but place after place: so a small model can say it as it looks at them."""
    answer, target = answer.strip(), target.strip()
    told = [WRONG]
    if len(answer) != len(target):
        told.append(f"It should have {len(target)} character{'s' * (len(target) != 1)}, not {len(answer)}.")
    for place, want in enumerate(target):
        said = _said(answer[place : place + 1], want).removeprefix(f"{WRONG} Character 1 ")
        told.append(f"Character {place + 1} {said if place < len(answer) else 'is wrong.'}")
    return " ".join(told)


class Student:
    """Answers again after a hint, from the hint alone: what was said is read off the places it names."""

    def __init__(self, *, careful: bool) -> None:
        self.careful = careful
        self.left: dict[int, set[str]] = {}
        """What each place may still hold, as far as was said."""

    def saw(self, answer: str, target: str) -> None:
        """Remember what was said of an answer."""
        for place, (got, want) in enumerate(zip(answer, target, strict=False)):
            if got != want:
                left = self.left.setdefault(place, set(CHARACTERS))
                left &= {c for c in CHARACTERS if _said(got, c) == _said(got, want)}

    def revise(self, answer: str, target: str, rng: random.Random) -> str:
        """The next answer."""
        length = len(target)
        if not self.careful and rng.random() >= RESIZES:
            length = max(1, len(answer))
        return "".join(
            self._character(place, answer[place : place + 1], target[place : place + 1], rng)
            for place in range(length)
        )

    def _character(self, place: int, now: str, want: str, rng: random.Random) -> str:
        if self.careful and now and now == want:
            return now
        if self.careful:
            # A digit is likelier than a sign, which stands in front alone.
            left = self.left.get(place, set(string.digits))
            return rng.choice(sorted(left & set(string.digits) or left))
        if now and rng.random() < (KEEPS if now == want else 1 - CHANGES):
            return now
        if now and want and now != want and rng.random() < TURNS:
            return rng.choice([c for c in CHARACTERS if c != now and _said(now, c) == _said(now, want)])
        return rng.choice(string.digits + "-" if place == 0 and rng.random() < 0.3 else string.digits)


@cache
def _said(got: str, want: str) -> str:
    """What the critic says of a character, as far as it tells characters apart."""
    return CRITIC.text(got, want) if got != want else "is right."


def _number(rng: random.Random) -> str:
    length = rng.choices(LENGTHS, LENGTH_WEIGHTS)[0]
    digits = rng.choice(string.digits[1:]) + "".join(rng.choice(string.digits) for _ in range(length - 1))
    return "-" + digits[:3] if rng.random() < NEGATIVE else digits


def _first(target: str, rng: random.Random) -> str:
    """An answer before any hint: mostly as long as the right one, and right in a few places by luck."""
    luck = rng.uniform(0, 0.5)
    length = max(1, len(target) + rng.choice((-1, 0, 0, 0, 1)))
    return "".join(
        target[i] if i < len(target) and rng.random() < luck else rng.choice(string.digits)
        for i in range(length)
    )


def _guess(answer: str, rng: random.Random) -> str:
    """Another answer of somebody who was told nothing: a new one, or the last with one place changed."""
    if rng.random() < 0.5 or not answer:
        return _number(rng)
    place = rng.randrange(len(answer))
    return answer[:place] + rng.choice(string.digits) + answer[place + 1 :]


def _question(rng: random.Random) -> str:
    """A few random words and numbers, in the punctuation of any question."""
    parts = [_word(rng) for _ in range(rng.randint(1, 8))]
    text = rng.choice((" ", " ", " ", ", ")).join(parts)
    return text[:1].upper() + text[1:] + rng.choice((".", "?", ":", " =", " ?", ""))


def _word(rng: random.Random) -> str:
    how = rng.random()
    if how < 0.35:
        return str(rng.randrange(10 ** rng.randint(1, 5)))
    if how < 0.45:
        return rng.choice("+-*=()")
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(1, 9)))
