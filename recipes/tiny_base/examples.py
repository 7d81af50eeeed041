"""The tiny model's training examples, drawn one by one from a seed.

The model learns three skills: to answer easy problems, to revise an answer by a critique, and to criticise
easy answers. The demo's family (`DEMO`, long words) occurs in revisions only, and there the critique asks
for an *arbitrary* string, so that it must be read. No first answer to a long word occurs, right or wrong:
the model has no training on them, rather than wrong training.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from alphabet import QUESTIONS

from didact.feedback.program import RIGHT, Level, ProgramCritic
from didact.prompts import critique_messages, revision_messages
from didact.rng import derive_seed
from didact.tasks import make_task
from didact.tasks.reasoning_gym import EVAL_RESERVED, ReasoningGymTask
from didact.types import Message, Problem

SPELL, SUM, CAESAR = QUESTIONS
DEMO = ("spell_backward", {"min_word_len": 6, "max_word_len": 7})
"""The family that reinforcement learning has to solve."""
LONG_LETTERS = (5, 7)
"""Word lengths that occur in revisions only. Five letters separate the trained lengths from the demo's: a
base that answers four-letter words gets a five-letter one right by chance now and then, which is a
reward."""
SUMS = ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 3})
CIPHERS = ("caesar_cipher", {"min_words": 1, "max_words": 2})
EASY_LETTERS = (1, 4)
CAPITALS = 0.15
"""Share of the generator's words that begin with a capital."""
CRITIC = ProgramCritic(Level.REVEAL)


class Example(NamedTuple):
    """Messages, and the target answer."""

    kind: str
    problem: Problem
    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class Mix:
    """Relative sampling weights of the kinds of example."""

    weights: dict[str, float] = field(
        default_factory=lambda: {
            "answer": 12, "sum_answer": 4, "sum_novice": 4, "caesar_novice": 4,
            "revise_spell": 34, "revise_sum": 6, "revise_caesar": 8, "revise_text": 8,
            "criticise": 10, "criticise_sum": 2,
        }
    )  # fmt: skip


@cache
def vocabulary() -> tuple[str, ...]:
    """The spelling generator's own long words, in its case."""
    low, high = LONG_LETTERS
    task = make_task(DEMO[0], {"min_word_len": low, "max_word_len": high})
    assert isinstance(task, ReasoningGymTask)
    return tuple(sorted({w for w in task._train_set.words if w.isalpha()}))


@cache
def held_out() -> frozenset[tuple[str, str]]:
    """Question template and payload of every evaluation problem of the families in the mixture."""
    payloads: set[tuple[str, str]] = set()
    for (name, config), question in zip((DEMO, SUMS, CIPHERS), QUESTIONS, strict=True):
        head, tail = question.split("{payload}")
        for problem in make_task(name, config).eval_problems(EVAL_RESERVED):
            text = problem.question
            if not (text.startswith(head) and text.endswith(tail)):
                raise ValueError(f"{name} asks otherwise than {question!r}: {text!r}")
            payload = text[len(head) : len(text) - len(tail)]
            payloads |= {(question, payload), (question, payload.lower())}
    return frozenset(payloads)


def examples(seed: int, start: int, stop: int, mix: Mix | None = None) -> Iterator[Example]:
    """Examples `start` to `stop` of an endless stream."""
    mix = mix or Mix()
    kinds, weights = list(mix.weights), list(mix.weights.values())
    for index in range(start, stop):
        rng = random.Random(derive_seed(seed, "tiny_base", index))
        kind = rng.choices(kinds, weights)[0]
        yield _DRAW[kind](kind, rng)


def violation(example: Example) -> str | None:
    """Why an example must not be in the training data, or None.

    A right answer of the demo's family must not occur anywhere: not as an answer, an attempt or inside a
    critique; nor may an evaluation problem.
    """
    question = example.problem.question
    text = "\n".join(m.content for m in example.messages) + "\n" + example.answer
    for template in QUESTIONS:
        head, tail = template.split("{payload}")
        if not (question.startswith(head) and question.endswith(tail)):
            continue
        payload = question[len(head) : len(question) - len(tail)]
        if (template, payload) in held_out():
            return f"asks the evaluation problem {payload!r}"
        if template == SPELL and len(payload) > EASY_LETTERS[1]:
            right = payload[::-1].lower()
            if right in text.lower().replace(payload.lower(), " ") or right == payload.lower():
                return f"holds {right!r}, the right answer to {payload!r}"
            if spelled_out(text) == right:
                return f"its critique spells {right!r}, the right answer to {payload!r}"
    return None


def spelled_out(text: str) -> str:
    """The characters that a critique asks for, in order."""
    return "".join(part[0] for part in text.split(" should be ")[1:] if part).lower()


# --- answers -------------------------------------------------------------------------------------------


def _answer(kind: str, rng: random.Random) -> Example:
    word = _letters(rng, rng.randint(*EASY_LETTERS))
    return _first(kind, SPELL, word, word[::-1])


def _sum_answer(kind: str, rng: random.Random) -> Example:
    return _first(kind, SUM, *_easy_sum(rng))


def _sum_novice(kind: str, rng: random.Random) -> Example:
    """Adds digit by digit and forgets to carry; a sum without a carry is drawn again."""
    while True:
        payload, right = _sum(rng)
        a, sign, b = payload.split()
        pairs = [(int(x), int(y)) for x, y in zip(a.zfill(3), b.zfill(3), strict=True)]
        answer = "".join(str((x + y if sign == "+" else x - y) % 10) for x, y in pairs)[-len(a) :]
        if answer != right:
            return _first(kind, SUM, payload, answer)


def _caesar_novice(kind: str, rng: random.Random) -> Example:
    """Leaves the text as it is."""
    cipher = _cipher(rng)
    return _first(kind, CAESAR, cipher, cipher)


def _first(kind: str, template: str, payload: str, answer: str) -> Example:
    problem = _ask(template, payload)
    return Example(kind, problem, problem.messages, answer)


# --- revisions -----------------------------------------------------------------------------------------


def _revise_spell(kind: str, rng: random.Random) -> Example:
    """Any word, any attempt, and a critique that asks for an arbitrary string."""
    word = _long_word(rng) if rng.random() < 0.75 else _letters(rng, rng.randint(2, 8))
    easy = len(word) <= EASY_LETTERS[1]
    while True:
        target = _string_near(word, rng)
        attempt = _attempt(target, word, rng)
        if easy or not (_reverses(word, target) or _reverses(word, attempt)):
            return _revision(kind, SPELL, word, attempt, target)


def _reverses(word: str, answer: str) -> bool:
    """Whether an answer contains the word reversed."""
    return word[::-1].lower() in answer.lower()


def _revise_sum(kind: str, rng: random.Random) -> Example:
    payload, _ = _sum(rng)
    target = str(rng.randint(-999, 10 ** rng.randint(2, 4)))
    return _revision(kind, SUM, payload, _attempt(target, payload, rng), target)


def _revise_caesar(kind: str, rng: random.Random) -> Example:
    cipher = _cipher(rng)
    target = " ".join(_draw(string.ascii_uppercase, len(w), rng) for w in cipher.split())
    return _revision(kind, CAESAR, cipher, _attempt(target, cipher, rng), target)


def _revise_text(kind: str, rng: random.Random) -> Example:
    """A question in other words, so that critiques are followed whatever the question."""
    words = rng.sample(vocabulary(), rng.randint(3, 8))
    words = [str(rng.randint(0, 9999)) if rng.random() < 0.25 else w for w in words]
    question = " ".join(words).capitalize() + rng.choice(".?: ")
    letters = rng.choice((string.digits, string.digits, string.ascii_lowercase, string.digits + "./-"))
    target = _draw(letters, rng.randint(1, 6), rng)
    attempt = _attempt(target, rng.choice((letters, question)), rng)
    problem = Problem.ask(question, id=question, reference=target)
    return Example(kind, problem, revision_messages(problem, attempt, CRITIC.text(attempt, target)), target)


def _revision(kind: str, template: str, payload: str, attempt: str, target: str) -> Example:
    problem = _ask(template, payload)
    critique = CRITIC.text(attempt, target)
    return Example(kind, problem, revision_messages(problem, attempt, critique), target)


# --- critiques -----------------------------------------------------------------------------------------


def _criticise(kind: str, rng: random.Random) -> Example:
    word = _letters(rng, rng.randint(*EASY_LETTERS))
    right = word[::-1]
    return _critique(kind, SPELL, word, right if rng.random() < 0.1 else _attempt(right, word, rng), right)


def _criticise_sum(kind: str, rng: random.Random) -> Example:
    payload, right = _easy_sum(rng)
    return _critique(
        kind, SUM, payload, right if rng.random() < 0.1 else _attempt(right, payload, rng), right
    )


def _critique(kind: str, template: str, payload: str, attempt: str, right: str) -> Example:
    problem = _ask(template, payload)
    critique = RIGHT if attempt == right else CRITIC.text(attempt, right)
    return Example(kind, problem, critique_messages(problem, attempt), critique)


_DRAW: dict[str, Callable[[str, random.Random], Example]] = {
    "answer": _answer, "sum_answer": _sum_answer, "sum_novice": _sum_novice,
    "caesar_novice": _caesar_novice, "revise_spell": _revise_spell, "revise_sum": _revise_sum,
    "revise_caesar": _revise_caesar, "revise_text": _revise_text, "criticise": _criticise,
    "criticise_sum": _criticise_sum,
}  # fmt: skip


# --- payloads ------------------------------------------------------------------------------------------


def _ask(template: str, payload: str) -> Problem:
    return Problem.ask(template.format(payload=payload), id=payload)


def _draw(letters: str, n: int, rng: random.Random) -> str:
    return "".join(rng.choice(letters) for _ in range(n))


def _letters(rng: random.Random, n: int) -> str:
    """A random string of letters that is no held-out word and no palindrome."""
    while True:
        word = _draw(string.ascii_lowercase, n, rng)
        if _may_ask(word):
            return word.capitalize() if rng.random() < CAPITALS else word


def _long_word(rng: random.Random) -> str:
    """A real word, or a random string as long."""
    if rng.random() < 0.4:
        return _letters(rng, rng.randint(*LONG_LETTERS))
    while True:
        word = rng.choice(vocabulary())
        if _may_ask(word):
            return word


def _may_ask(word: str) -> bool:
    """Neither an evaluation problem nor, beyond the easy sizes, a palindrome, which a copy gets right."""
    low = word.lower()
    return (SPELL, low) not in held_out() and (len(low) <= EASY_LETTERS[1] or low != low[::-1])


def _string_near(word: str, rng: random.Random) -> str:
    """A string of about a word's length: random, of the word's letters, or the word with mistakes."""
    n = max(1, len(word) + rng.choice((-2, -1, 0, 0, 0, 0, 0, 0, 1, 2)))
    how = rng.random()
    if how < 0.4:
        return _draw(string.ascii_lowercase, n, rng)
    if how < 0.7:
        return _draw(word, n, rng)
    letters = list(word)
    for _ in range(rng.randint(0, 3)):
        letters[rng.randrange(len(letters))] = rng.choice(string.ascii_lowercase)
    return "".join(letters)[:n]


def _attempt(target: str, source: str, rng: random.Random) -> str:
    """A previous answer other than the target: from empty to almost right.

    Half of them agree with the target in a random share of places, as a learner's answers soon will, so that
    places without a critique have to be kept.
    """
    while True:
        n, how = len(target) + rng.choice((-1, 0, 0, 0, 0, 0, 0, 1)), rng.random()
        if how < 0.03:
            attempt = ""
        elif how < 0.35:
            attempt = _draw(source, n, rng)
        elif how < 0.45:
            attempt = _draw(string.ascii_lowercase, n, rng)
        elif how < 0.5:
            attempt = source[: 2 * len(target)]
        else:
            agree = rng.random()
            kept = [c if rng.random() < agree else rng.choice(source) for c in target]
            attempt = "".join(kept)[:n]
        if (attempt := attempt.strip()) != target:
            return attempt


def _easy_sum(rng: random.Random) -> tuple[str, str]:
    a, b, plus = rng.randint(0, 9), rng.randint(0, 9), rng.random() < 0.5
    return (f"{a} + {b}", str(a + b)) if plus else (f"{a} - {b}", str(a - b))


def _sum(rng: random.Random) -> tuple[str, str]:
    """Two numbers of 2 or 3 digits, their sum or difference, and its value."""
    while True:
        a, b = (rng.randint(10 ** (n - 1), 10**n - 1) for n in (rng.randint(2, 3),) * 2)
        plus = rng.random() < 0.5
        payload = f"{a} + {b}" if plus else f"{a} - {b}"
        if (SUM, payload) not in held_out():
            return payload, str(a + b if plus else a - b)


def _cipher(rng: random.Random) -> str:
    """One or two words, in capitals, as a cipher's random letters."""
    while True:
        words = [_letters(rng, rng.randint(2, 9)).upper() for _ in range(rng.randint(1, 2))]
        payload = " ".join(words)
        if (CAESAR, payload) not in held_out():
            return payload
