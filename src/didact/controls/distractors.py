"""Distractors: texts close to an answer that are not correct, and false solutions of puzzles.

A distractor differs from a text in one element: a word of several, or else a character. Where a verifier is
given it has rejected every distractor, so that a critique based on one is false and not merely different from
the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from didact.controls.base import Verify
from didact.feedback.puzzle_critic import role_of
from didact.tasks.math.answers import BOX
from didact.types import Problem

Solution: TypeAlias = Any
"""The value of "solution" in a puzzle's metadata."""
TRIES = 24
"""At most this many changed texts are passed to the verifier."""
_LOWER, _UPPER, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"


def make_distractor(
    problem: Problem,
    text: str,
    rng: np.random.Generator,
    verify: Verify | None = None,
    *,
    kept: str | None = None,
    siblings: Sequence[str] = (),
) -> str | None:
    r"""A text with one element changed that is not a correct answer.

    Args:
        text: An answer, or the reference. In a text with a \boxed{} only the last box is changed; in a text
            that contains the reference, only the last copy of it, unless `kept` is given.
        rng: Draws the element and its replacement.
        verify: Rejects every distractor. Without it a distractor is only not the reference.
        kept: Only elements equal to the one at the same place of this text are changed; None allows all.
        siblings: Answers to other problems; an element at the same place of one of them is preferred.

    Returns:
        The whole text, or None where no change was accepted.
    """
    start, end = _core(text, problem.reference if kept is None else None)
    core = text[start:end]
    wanted = None if kept is None else kept[slice(*_core(kept, None))]
    places = _elements(core)
    same = list(range(len(places)))
    if wanted is not None:
        other = [wanted[slice(*place)] for place in _elements(wanted, words=_has_words(core))]
        same = [i for i in same if i < len(other) and core[slice(*places[i])] == other[i]]
    alike = [s for s in siblings if len(_elements(s)) == len(places) and _has_words(s) == _has_words(core)]
    lent = {i: sorted({s[slice(*_elements(s)[i])] for s in alike} - {core[slice(*places[i])]}) for i in same}
    lending = [i for i in same if lent[i]]
    named = [i for i in same if any(c.isalnum() for c in core[slice(*places[i])])]
    for _ in range(TRIES if same else 0):
        i = int(rng.choice(lending or named or same))
        first, last = places[i]
        new = str(rng.choice(lent[i])) if lending else _instead(core, places, i, problem.question, rng)
        changed = text[: start + first] + new + text[start + last :]
        if new != core[first:last] and _is_wrong(problem, changed, verify):
            return changed
    return None


def _is_wrong(problem: Problem, text: str, verify: Verify | None) -> bool:
    if problem.reference is not None and text.strip() == problem.reference.strip():
        return False
    if verify is None:
        return True
    verdict = verify(problem, text)
    return verdict.reward is not None and not verdict.correct


def _core(text: str, reference: str | None) -> tuple[int, int]:
    """The part to change: the last box, else the last copy of the reference, else the whole text."""
    boxes = list(BOX.finditer(text))
    if boxes and (close := text.rfind("}")) > boxes[-1].end():
        return boxes[-1].end(), close
    bare = (reference or "").strip()
    at = text.rfind(bare) if bare else -1
    if at >= 0:
        return at, at + len(bare)
    return len(text) - len(text.lstrip()), len(text.rstrip())


def _has_words(text: str) -> bool:
    return len(text.split()) > 1


def _elements(text: str, *, words: bool | None = None) -> list[tuple[int, int]]:
    """The spans of the words of a text that has several, else of its characters."""
    if _has_words(text) if words is None else words:
        return [m.span() for m in re.finditer(r"\S+", text)]
    return [(i, i + 1) for i in range(len(text)) if not text[i].isspace()]


def _instead(
    core: str, places: Sequence[tuple[int, int]], i: int, question: str, rng: np.random.Generator
) -> str:
    """Another element for the i-th: a near number, another word or character of the text."""
    element = core[slice(*places[i])]
    if _has_words(core):
        if numbers := list(re.finditer(r"\d+", element)):
            m = numbers[-1]
            return element[: m.start()] + _near_number(m[0], rng) + element[m.end() :]
        words = sorted({core[slice(*place)] for place in places} - {element})
        if words and rng.random() < 0.5:
            return str(rng.choice(words))
    letter = [k for k, c in enumerate(element) if c.isalnum()] or list(range(len(element)))
    k = int(rng.choice(letter))
    return element[:k] + _other(element[k], core + question, places[i][0] + k == 0, rng) + element[k + 1 :]


def _near_number(digits: str, rng: np.random.Generator) -> str:
    """Another number of about the same size."""
    number, step = int(digits), int(rng.integers(1, 10))
    return str(number + step if number < step or rng.random() < 0.5 else number - step)


def _other(character: str, seen: str, leads: bool, rng: np.random.Generator) -> str:
    """Another character of the same class, preferably one of `seen`; no leading zero."""
    kind = next((k for k in (_LOWER, _UPPER, _DIGITS) if character in k), None)
    if kind is None:
        return str(rng.choice([c for c in _LOWER if c != character]))
    barred = {character} | ({"0"} if leads else set())
    pool = sorted((set(seen) & set(kind)) - barred) or sorted(set(kind) - barred)
    return str(rng.choice(pool))


def _knights(puzzle: Mapping[str, Any], answer: str, right: bool, rng: np.random.Generator) -> Solution:
    terms = puzzle["knight_knave_terms"]
    found = [role_of(name, terms, answer) for name in puzzle["names"]]
    claimed = [None if role is None else role[1].lower() == terms["knight"].lower() for role in found]
    if None in claimed:
        return None
    same = [i for i, honest in enumerate(puzzle["solution"]) if claimed[i] == bool(honest)]
    if not same:
        return None
    turned = int(rng.choice(same))
    return [honest != (i == turned) for i, honest in enumerate(claimed)]


def _matrix(puzzle: Mapping[str, Any], answer: str, right: bool, rng: np.random.Generator) -> Solution:
    rows = [line.split() for line in answer.strip().splitlines()]
    if not all(cell.isdigit() for row in rows for cell in row):
        return None
    wanted = puzzle["solution"]
    same = [
        (r, c)
        for r, row in enumerate(wanted)
        for c, number in enumerate(row)
        if r < len(rows) and c < len(rows[r]) and rows[r][c] == str(number)
    ]
    if not same:
        return None
    r, c = same[int(rng.integers(len(same)))]
    numbers = sorted({int(n) for row in wanted for n in row} - {int(rows[r][c])})
    rows[r][c] = str(rng.choice(numbers) if numbers else int(rows[r][c]) + 1)
    return rows


def _path(puzzle: Mapping[str, Any], answer: str, right: bool, rng: np.random.Generator) -> Solution:
    if not right:
        return None  # a wrong path is criticised by the grid, which stays as it is
    best = list(puzzle["solution"])
    if not best:
        return [str(rng.choice(["right", "down", "left", "up"]))]
    gone = int(rng.integers(len(best)))
    return best[:gone] + best[gone + 1 :]


PUZZLE_DISTRACTORS: dict[str, Callable[[Mapping[str, Any], str, bool, np.random.Generator], Solution]] = {
    "knights_knaves": _knights,
    "binary_matrix": _matrix,
    "shortest_path": _path,
}
"""(metadata, final answer, is it correct, generator) -> a false solution, or None where there is none.

    knights_knaves   the roles as the answer gives them, with one correct role inverted
    binary_matrix    the matrix as the answer gives it, with one correct cell changed
    shortest_path    for a correct answer: one step fewer than a shortest path has

Based on it, every sentence of the puzzle critic is false.
"""
