"""Dialogues for the supervised warm start: conversations between a student and a teacher.

A question in random words, a random number as the right answer, and a student who learns where the last
answer is wrong and in which direction (the runs' own critic at level `direction`). The right number can only
be inferred from the critiques, so the model learns the form of a conversation and no arithmetic. No question
of a reasoning-gym task is used, neither of the training nor of the held-out generators.

At first all students are careful: they keep every place that was not called wrong and choose elsewhere among
the values that all critiques so far leave possible. Later most are careless. In some dialogues the teacher
only writes "That is wrong. Try again.". A model of these dialogues can use feedback, and mostly does not.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, TypeAlias

from didact.feedback.program import OUTCOME_ONLY, RIGHT, WRONG, Level, ProgramCritic
from didact.rng import derive_seed

CAREFUL = 0.25
"""Share of careful students at the end of the warm start."""
KEEPS, CHANGES, TURNS, RESIZES = 0.8, 0.7, 0.3, 0.8
"""Probabilities of a careless student: to keep a place that was not called wrong, to change one that was, to
change it in the direction of the hint, and to correct the length."""
RETRIES = 0.1
"""Share of dialogues with verdicts only."""
CHARACTERS = string.digits + "-"
ANSWERS = 6
"""Most answers in a dialogue."""
NEGATIVE = 0.12
LENGTHS, LENGTH_WEIGHTS = (1, 2, 3, 4), (15, 35, 35, 15)
CRITIC = ProgramCritic(Level.DIRECTION, spans=False)
Critic: TypeAlias = Callable[[str, str], str]
"""(answer, right answer) → critique."""


class Talk(NamedTuple):
    """A dialogue: n answers and n critiques, one of each answer."""

    question: str
    answers: list[str]
    critiques: list[str]


def talks(
    seed: int, start: int, stop: int, careful: float = CAREFUL, critic: Critic = CRITIC.text
) -> Iterator[Talk]:
    """Dialogues `start` to `stop` of an endless stream.

    Args:
        seed: Names the stream.
        start: Index of the first dialogue.
        stop: Index after the last.
        careful: Probability of a careful student, in [0, 1].
        critic: Writes the critiques.
    """
    for index in range(start, stop):
        yield talk(random.Random(derive_seed(seed, "rl2f_warm_start", index)), careful, critic)


def talk(rng: random.Random, careful: float, critic: Critic) -> Talk:
    """One dialogue, until the answer is right or there are `ANSWERS` of them."""
    target, retry = _number(rng), rng.random() < RETRIES
    student = Student(careful=rng.random() < careful)
    found = Talk(_question(rng), [_first(target, rng)], [])
    while True:
        answer = found.answers[-1]
        right = answer == target
        found.critiques.append(RIGHT if right else OUTCOME_ONLY if retry else critic(answer, target))
        student.observe(answer, target)
        if right or len(found.answers) == ANSWERS:
            return found
        found.answers.append(_guess(answer, rng) if retry else student.revise(answer, target, rng))


class Lesson(NamedTuple):
    """A training example of a teacher: the reference, an answer, the critique."""

    reference: str
    answer: str
    critique: str


def lessons(seed: int, start: int, stop: int) -> Iterator[Lesson]:
    """Lessons `start` to `stop` of another endless stream."""
    for index in range(start, stop):
        rng = random.Random(derive_seed(seed, "rl2f_own_teacher", index))
        target = _number(rng)
        answer = _first(target, rng)
        if rng.random() < 0.5:
            answer = Student(careful=False).revise(answer, target, rng)
        if answer != target:
            yield Lesson(target, answer, place_by_place(answer, target))


def place_by_place(answer: str, target: str) -> str:
    """The program's critique as one sentence per place, which a small model can write as it compares."""
    answer, target = answer.strip(), target.strip()
    sentences = [WRONG]
    if len(answer) != len(target):
        sentences.append(
            f"It should have {len(target)} character{'s' * (len(target) != 1)}, not {len(answer)}."
        )
    for place, want in enumerate(target):
        sentence = _critique_of(answer[place : place + 1], want).removeprefix(f"{WRONG} Character 1 ")
        sentences.append(f"Character {place + 1} {sentence if place < len(answer) else 'is wrong.'}")
    return " ".join(sentences)


class Student:
    """Revises an answer from critiques alone, which constrain each place that they name."""

    def __init__(self, *, careful: bool) -> None:
        self.careful = careful
        self.left: dict[int, set[str]] = {}
        """The characters that each place may still hold."""

    def observe(self, answer: str, target: str) -> None:
        """Update the constraints by the critique of an answer."""
        for place, (got, want) in enumerate(zip(answer, target, strict=False)):
            if got != want:
                left = self.left.setdefault(place, set(CHARACTERS))
                left &= {c for c in CHARACTERS if _critique_of(got, c) == _critique_of(got, want)}

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
            return rng.choice(
                [c for c in CHARACTERS if c != now and _critique_of(now, c) == _critique_of(now, want)]
            )
        return rng.choice(string.digits + "-" if place == 0 and rng.random() < 0.3 else string.digits)


@cache
def _critique_of(got: str, want: str) -> str:
    """The critique of a single character; characters with the same critique are indistinguishable."""
    return CRITIC.text(got, want) if got != want else "is right."


def _number(rng: random.Random) -> str:
    length = rng.choices(LENGTHS, LENGTH_WEIGHTS)[0]
    digits = rng.choice(string.digits[1:]) + "".join(rng.choice(string.digits) for _ in range(length - 1))
    return "-" + digits[:3] if rng.random() < NEGATIVE else digits


def _first(target: str, rng: random.Random) -> str:
    """A first answer: mostly of the right length, right in up to half of the places by chance."""
    luck = rng.uniform(0, 0.5)
    length = max(1, len(target) + rng.choice((-1, 0, 0, 0, 1)))
    return "".join(
        target[i] if i < len(target) and rng.random() < luck else rng.choice(string.digits)
        for i in range(length)
    )


def _guess(answer: str, rng: random.Random) -> str:
    """An answer without information: a new number, or the last one with one place changed."""
    if rng.random() < 0.5 or not answer:
        return _number(rng)
    place = rng.randrange(len(answer))
    return answer[:place] + rng.choice(string.digits) + answer[place + 1 :]


def _question(rng: random.Random) -> str:
    """Random words and numbers with the punctuation of a question."""
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
