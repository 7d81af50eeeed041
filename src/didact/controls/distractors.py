"""Texts that are nearly an answer and surely not the right one, and what somebody would say who holds one
of them to be the solution.

A decoy differs from a text in one element: a word of several, else a character. Where a verifier is at hand
it has refused every decoy, so what a critic says who goes by one is not only contrary to the reference but
false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from didact.tasks.base import Verdict
from didact.tasks.math.answers import BOX
from didact.types import Problem

Verify: TypeAlias = Callable[[Problem, str], Verdict]
"""A task's verifier."""

TRIES = 24
"""So many changed texts are offered to the verifier."""
_LOWER, _UPPER, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"


def decoy(
    problem: Problem,
    text: str,
    rng: np.random.Generator,
    verify: Verify | None = None,
    *,
    kept: str | None = None,
    siblings: Sequence[str] = (),
) -> str | None:
    r"""A text with one element changed, which is no right answer.

    Args:
        problem: What it would answer.
        text: An answer, or the reference. Of one with a \boxed{} only what stands in the last is changed;
            of one that holds the reference and more, only the reference's last copy, unless `kept` is given.
        rng: Which element is changed, and into what.
        verify: Accepts no decoy. Without it a decoy is only not the reference.
        kept: Only elements that this text has at the same place may be changed; None allows all.
        siblings: Answers to other problems: what stands at the same place of one of them is taken first.

    Returns:
        The whole text, or None where no change is left to try.
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
    for _ in range(TRIES if same else 0):
        i = int(rng.choice(lending or _best(core, places, same)))
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
    """Where what counts of a text stands: in its last box, else its last copy of the reference, else all."""
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
    """Places of the words of a text that has several, else of its characters."""
    if _has_words(text) if words is None else words:
        return [m.span() for m in re.finditer(r"\S+", text)]
    return [(i, i + 1) for i in range(len(text)) if not text[i].isspace()]


def _best(core: str, places: Sequence[tuple[int, int]], which: Sequence[int]) -> list[int]:
    """Elements with a letter or a digit, where there are any."""
    named = [i for i in which if any(c.isalnum() for c in core[slice(*places[i])])]
    return named or list(which)


def _instead(
    core: str, places: Sequence[tuple[int, int]], i: int, question: str, rng: np.random.Generator
) -> str:
    """Another element for the i-th: a near number, another word or character of the text."""
    element = core[slice(*places[i])]
    if _has_words(core):
        if numbers := list(re.finditer(r"\d+", element)):
            m = numbers[-1]
            return element[: m.start()] + _near_number(m[0], rng) + element[m.end() :]
        said = sorted({core[slice(*place)] for place in places} - {element})
        if said and rng.random() < 0.5:
            return str(rng.choice(said))
    letter = [k for k, c in enumerate(element) if c.isalnum()] or list(range(len(element)))
    k = int(rng.choice(letter))
    return element[:k] + _other(element[k], core + question, places[i][0] + k == 0, rng) + element[k + 1 :]


def _near_number(digits: str, rng: np.random.Generator) -> str:
    """Another number of about the same size."""
    number, step = int(digits), int(rng.integers(1, 10))
    return str(number + step if number < step or rng.random() < 0.5 else number - step)


def _other(character: str, seen: str, leads: bool, rng: np.random.Generator) -> str:
    """Another character of the same kind, one that was seen where there is one; no leading zero."""
    kind = next((k for k in (_LOWER, _UPPER, _DIGITS) if character in k), None)
    if kind is None:
        return str(rng.choice([c for c in _LOWER if c != character]))
    barred = {character} | ({"0"} if leads else set())
    pool = sorted((set(seen) & set(kind)) - barred) or sorted(set(kind) - barred)
    return str(rng.choice(pool))
