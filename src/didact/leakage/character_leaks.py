"""Detectors of an answer given piece by piece: c-a-t, "one two zero", "Character 1 should be n. …".

The overlap of claims about positions is the share of the reference that they add to what the student's answer
has right already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Literal, TypeAlias

from didact.leakage.phrases import asserts_as_answer, is_label
from didact.leakage.query import PARTIAL_SHARE, Leak, LeakQuery
from didact.leakage.text import Place, Text, Word, places
from didact.leakage.vocabulary import BETWEEN, DIGITS, NATO, ORDINALS, TENS, UNITS, pattern

_GAP, _PAUSE = 8, 4
_LONGEST = 4000
_PUNCTUATION = ".,;:!?\"'()"
_Unit: TypeAlias = Literal["character", "word"]


def spelled(query: LeakQuery) -> Leak:
    """The reference in single letters, digits, quoted words or claims about its positions."""
    for form in query.references:
        if form.letter or len(form.text.source) > _LONGEST:
            continue
        # An equation is single letters and digits side by side.
        runs = Leak() if form.is_math else _in_runs(query, form.text)
        for found in (runs, _in_quotes(query, form.text)):
            if found.leaks:
                return found
    characters = _claimed(query, "character")
    if characters.leaks:
        return characters
    words = _claimed(query, "word")
    return words if words.leaks else Leak(overlap=max(characters.overlap, words.overlap))


def _runs(text: Text) -> list[list[Word]]:
    """Runs of single letters and digits with only joining words between them."""
    runs: list[list[Word]] = [[]]
    pause, repeat, end = 0, 1, 0
    for w in text.words:
        single, close = _single(w.text), w.start - end <= _GAP and not _decimal(text.text, end, w.start)
        end = w.end
        if single is not None:
            if not close or pause > _PAUSE:
                runs.append([])
            runs[-1].append(Word(single * repeat, w.start, w.end))
            pause, repeat = 0, 1
        elif w.text in ("double", "triple"):
            repeat = 2 if w.text == "double" else 3
        elif w.text in BETWEEN and close:
            pause, repeat = pause + 1, 1
        else:
            pause, repeat = _PAUSE + 1, 1
    return [run for run in runs if len(run) > 1]


def _decimal(text: str, end: int, start: int) -> bool:
    """Whether there is only a decimal point between two words."""
    return text[end:start] == "." and text[start].isdigit() and text[end - 1 : end].isdigit()


def _single(word: str) -> str | None:
    if (len(word) == 1 and word.isalnum()) or (word.isdigit() and len(word) <= 3):
        return word
    return DIGITS.get(word) or NATO.get(word)


def _in_runs(query: LeakQuery, reference: Text) -> Leak:
    wanted = re.sub(r"[\W_]", "", reference.text)
    if not 2 <= len(wanted) <= 200:
        return Leak()
    text = query.critique
    known = " ".join(w.text for side in query.known for w in side.words)
    found, best = [], 0.0
    for run in _runs(text):
        for variant in (run, _without_articles(run, text)):
            pieces = _matching(variant, wanted, known)
            if pieces and not _ordinary(pieces, wanted, text):
                found.append((pieces[0].start, pieces[-1].end))
                best = max(best, min(1.0, sum(len(p.text) for p in pieces) / len(wanted)))
                break
    return query.leak("spelled", found, best) if found else Leak()


def _matching(run: list[Word], wanted: str, known: str) -> list[Word]:
    """The pieces of a run that spell the reference or most of it."""
    given = "".join(p.text for p in run)
    at = given.find(wanted)
    if at < 0:
        # Only the whole run may be a part: a run of spelling is short.
        most = len(given) >= 3 and given in wanted and len(given) / len(wanted) >= PARTIAL_SHARE
        return run if most and given not in known else []
    if wanted in known:
        return []
    ends = list(accumulate(len(p.text) for p in run))
    first = next(i for i, end in enumerate(ends) if end > at)
    last = next(i for i, end in enumerate(ends) if end >= at + len(wanted))
    return run[first : last + 1]


def _ordinary(run: list[Word], wanted: str, text: Text) -> bool:
    """Whether any text may have such a run: "steps 1, 2 and 0", "a b" or "one two"."""
    if len(run) < 2:
        return True
    # Digits, which any text may have side by side
    literal = [text.text[p.start : p.end].isdigit() for p in run]
    if all(literal):
        before = text.text[max(0, run[0].start - 60) : run[0].start]
        announced = re.search(r"\bdigits?\b|\bspell", before)
        if announced or asserts_as_answer(text.text, run[0].start, run[-1].end):
            return False
        return len(wanted) < 3 or is_label(text.text, run[0].start, run[0].end)
    if all(digits or len(p.text) < p.end - p.start for p, digits in zip(run, literal, strict=True)):
        return len(run) < len(wanted)  # digits in words
    if len(wanted) == 2:
        return not re.search(r"[-'\",.]|then|follow", text.text[run[0].end : run[1].start])
    return False


def _without_articles(run: list[Word], text: Text) -> list[Word]:
    """The run without an "a" that introduces the next letter: "then a t, then a c"."""
    kept = [
        p
        for p, following in zip(run, [*run[1:], None], strict=True)
        if not (p.text == "a" and following and text.text[p.end : following.start] in (" ", " '", ' "'))
    ]
    return kept if len(kept) > 1 else run


_QUOTED = re.compile(r"\"([^\"\n]{1,60})\"|(?<!\w)'([^'\n]{1,60})'(?!\w)")


def _in_quotes(query: LeakQuery, reference: Text) -> Leak:
    """A reference of several words in quoted pieces: first "the", then "quick", then …"""
    wanted = reference.content
    if len(wanted) < 3:
        return Leak()
    text = query.critique
    given: list[Word] = []
    for m in _QUOTED.finditer(text.text):
        group = 1 if m[1] is not None else 2
        start = m.start(group)
        given += [Word(w.text, start + w.start, start + w.end) for w in Text(m[group]).content]
    found = places(wanted, given)
    if not found or query.is_known(wanted):
        return Leak()
    return query.leak("spelled", [(given[i].start, given[j - 1].end) for i, j in found])


_COUNT = {**{w: i for w, i in UNITS.items() if i}, **TENS}
_ORDINAL = {**ORDINALS, "last": -1, "final": -1, "initial": 1, "penultimate": -2}
_NUMBERED = pattern("numbered", counts=_COUNT)
_ORDERED = pattern("ordered", ordinals=_ORDINAL)
_EDGE, _SEVERAL = pattern("edge"), pattern("several", counts=_COUNT)


def _claimed(query: LeakQuery, unit: _Unit) -> Leak:
    """Claims about positions of the reference that the student's answer does not have right."""
    reference = query.reference
    if len(reference) > _LONGEST or (unit == "character" and len(reference.split()) > 3):
        return Leak()
    wanted = _elements(reference, unit)
    n = len(wanted)
    if n < 2:
        return Leak()
    unknown = set(range(n)) - _right_already(query.answer.source, wanted, unit)
    new = [(at % n, place) for at, place in _claims(query.critique, unit, wanted) if at % n in unknown]
    given = {at for at, _ in new}
    if not given:
        return Leak()
    share = len(given) / len(unknown)
    if share < PARTIAL_SHARE or (len(given) == 1 < len(unknown) and n > 2):
        return Leak(overlap=share)
    return query.leak("spelled", [place for _, place in new], share)


def _elements(text: str, unit: _Unit) -> list[str]:
    """A text's words or characters, folded."""
    if unit == "word":
        return [Text(word).text.strip(_PUNCTUATION) or word for word in text.split()]
    return [Text(c).text or c for c in text]


def _right_already(answer: str, wanted: list[str], unit: _Unit) -> set[int]:
    """Positions that the answer, its last line or its last word has right."""
    answer = answer.strip()
    if not answer:
        return set()
    best: set[int] = set()
    for text in (answer, answer.splitlines()[-1].strip(), answer.split()[-1].strip(_PUNCTUATION)):
        if len(text) > 4 * _LONGEST:
            continue
        got = _elements(text, unit)
        if len(got) <= 2 * len(wanted) + 8:
            same = {i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a == b}
            best = max(best, same, key=len)
    return best


def _claims(text: Text, unit: _Unit, wanted: list[str]) -> Iterator[tuple[int, Place]]:
    """(position, place) of true claims about single positions, or about the reference's beginning or end.

    A position counts from 0, or from −1 backward.
    """
    named = False
    matches = [m for form in (_NUMBERED, _ORDERED) for m in form.finditer(text.text)]
    for m in sorted(matches, key=lambda m: m.start()):
        if m["w"] or m["c"]:
            named = (unit == "word") == bool(m["w"])
        if not named:
            continue
        position = m["n"] or m["o"]
        at = int(position) if position.isdigit() else _COUNT.get(position) or _ORDINAL[position]
        index = at - 1 if at > 0 else at
        if at and -len(wanted) <= index < len(wanted) and wanted[index] == _value(m):
            yield index, m.span()
    if (unit == "word") != (len("".join(wanted)) > len(wanted)):
        return
    for m in (m for form in (_EDGE, _SEVERAL) for m in form.finditer(text.text)):
        value = _value(m)
        pieces = value.split() if unit == "word" else _elements(value, unit)
        first = 0 if m["head"] else -len(pieces)
        if pieces and wanted[first : first + len(pieces) or None] == pieces:
            yield from ((first + i, m.span()) for i in range(len(pieces)))


def _value(m: re.Match[str]) -> str:
    value: str = m["q"] or m["s"] or m["v"]
    return DIGITS.get(value, value) if m["v"] else value
