"""Detectors of an answer given piece by piece: c-a-t, "one two zero", "Character 1 should be n. …".

The overlap of claims about positions is the share of the reference that they add to what the student's answer
has right already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Literal, NamedTuple, TypeAlias

from didact.leakage.assertion_patterns import asserts_as_answer, is_label
from didact.leakage.query import LeakQuery
from didact.leakage.result import PARTIAL_SHARE, Leak
from didact.leakage.text import Text, Word, places
from didact.leakage.vocabulary import BETWEEN, DIGITS, NATO, ORDINALS, TENS, UNITS

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
        runs = Leak.none() if form.is_math else _in_runs(query, form.text)
        for found in (runs, _in_quotes(query, form.text)):
            if found.leaks:
                return found
    characters = _claimed(query, "character")
    if characters.leaks:
        return characters
    words = _claimed(query, "word")
    return words if words.leaks else Leak.none(max(characters.overlap, words.overlap))


class _Piece(NamedTuple):
    text: str
    start: int
    end: int
    literal: bool
    """Written as digits, which any text may have side by side."""


def _runs(text: Text) -> list[list[_Piece]]:
    """Runs of single letters and digits with only joining words between them."""
    runs: list[list[_Piece]] = [[]]
    pause, repeat, end = 0, 1, 0
    for w in text.words:
        single, close = _single(w.text), w.start - end <= _GAP and not _decimal(text.text, end, w.start)
        end = w.end
        if single is not None:
            if not close or pause > _PAUSE:
                runs.append([])
            runs[-1].append(_Piece(single * repeat, w.start, w.end, w.text.isdigit()))
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
        return Leak.none()
    text = query.critique
    known = " ".join(w.text for side in query.known for w in side.words)
    spans, best = [], 0.0
    for run in _runs(text):
        for variant in (run, _without_articles(run, text)):
            pieces = _matching(variant, wanted, known)
            if pieces and not _ordinary(pieces, wanted, text):
                spans.append(text.span(pieces[0].start, pieces[-1].end))
                best = max(best, min(1.0, sum(len(p.text) for p in pieces) / len(wanted)))
                break
    return Leak.at("spelled", text.source, spans, best) if spans else Leak.none()


def _matching(run: list[_Piece], wanted: str, known: str) -> list[_Piece]:
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


def _ordinary(run: list[_Piece], wanted: str, text: Text) -> bool:
    """Whether any text may have such a run: "steps 1, 2 and 0", "a b" or "one two"."""
    if len(run) < 2:
        return True
    if all(p.literal for p in run):
        before = text.text[max(0, run[0].start - 60) : run[0].start]
        announced = re.search(r"\bdigits?\b|\bspell", before)
        if announced or asserts_as_answer(text.text, run[0].start, run[-1].end):
            return False
        return len(wanted) < 3 or is_label(text.text, run[0].start, run[0].end)
    if all(p.literal or len(p.text) < p.end - p.start for p in run):
        return len(run) < len(wanted)  # digits in words
    if len(wanted) == 2:
        return not re.search(r"[-'\",.]|then|follow", text.text[run[0].end : run[1].start])
    return False


def _without_articles(run: list[_Piece], text: Text) -> list[_Piece]:
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
        return Leak.none()
    text = query.critique
    given: list[Word] = []
    for m in _QUOTED.finditer(text.text):
        group = 1 if m[1] is not None else 2
        start = m.start(group)
        given += [Word(w.text, start + w.start, start + w.end) for w in Text(m[group]).content]
    found = places(wanted, given)
    if not found or query.is_known(wanted):
        return Leak.none()
    return Leak.at("spelled", text.source, text.spans((given[i].start, given[j - 1].end) for i, j in found))


_COUNT = {**{w: i for w, i in UNITS.items() if i}, **TENS}
_ORDINAL = {**ORDINALS, "last": -1, "final": -1, "initial": 1, "penultimate": -2}
_UNIT = (
    r"(?:(?P<c>characters?|chars?|letters?|digits?|symbols?|positions?|places?|slots?)|(?P<w>words?|tokens?))"
)
_COPULA = (
    r"(?:\s{0,2}[,:=]\s{0,2}|\s{0,2}-{0,2}>\s{0,2}|\s{1,3}(?:(?:should|must|has to|needs to|ought to|would|"
    r"will) (?:be|read|have been)|is|are|was|being|reads?|becomes|holds|to be|to)\s{1,3}|\s{1,3})"
    r"(?:(?:an?|the|actually|really) ){0,2}(?:(?:letters?|digits?|words?|characters?) )?"
)
_VALUE = (
    r"(?:\"(?P<q>[^\"\n]{1,60})\"|'(?P<s>[^'\n]{1,60})'|(?P<v>[^\s\"',;:!?.()*]{1,40}|[^\w\s](?=\.(?:\s|\Z))|"
    r"\s(?=\.(?:\s|\Z))))"
)
_NUMBERED = re.compile(
    rf"\b{_UNIT}\s{{1,2}}(?:number |no\. )?#?(?P<n>\d{{1,4}}|{'|'.join(_COUNT)})\b{_COPULA}{_VALUE}"
)
_ORDERED = re.compile(
    rf"\b(?:(?P<n>\d{{1,4}})(?:st|nd|rd|th)|(?P<o>{'|'.join(_ORDINAL)}))\b"
    rf"(?:\s{{1,2}}{_UNIT})?{_COPULA}{_VALUE}"
)
_EDGE = re.compile(
    rf"\b(?:(?P<head>(?:starts?|begins?|beginning|starting|opens?|opening) (?:with|in|by))|(?P<tail>(?:ends?|"
    rf"ending|finish(?:es)?|finishing|closes|closing) (?:with|in|on|by)))\s{{1,2}}"
    rf"(?:(?:the|an?) )?(?:(?:letters?|digits?|words?|characters?) )?{_VALUE}"
)
_SEVERAL = re.compile(
    rf"\b(?:(?P<head>first|initial)|(?P<tail>last|final)) (?:\d{{1,2}}|"
    rf"{'|'.join(_COUNT)}) {_UNIT}{_COPULA}{_VALUE}"
)


class _Claim(NamedTuple):
    position: int
    """From 0, or from −1 backward."""
    text: str
    start: int
    end: int


def _claimed(query: LeakQuery, unit: _Unit) -> Leak:
    """Claims about positions of the reference that the student's answer does not have right."""
    reference = query.reference
    if len(reference) > _LONGEST or (unit == "character" and len(reference.split()) > 3):
        return Leak.none()
    wanted = _elements(reference, unit)
    n = len(wanted)
    if n < 2:
        return Leak.none()
    claims = [c for c in _claims(query.critique, unit, wanted) if -n <= c.position < n]
    claims = [c for c in claims if wanted[c.position] == c.text]
    if not claims:
        return Leak.none()
    unknown = set(range(n)) - _right_already(query.answer.source, wanted, unit)
    new = [c for c in claims if c.position % n in unknown]
    given = {c.position % n for c in new}
    if not given:
        return Leak.none()
    share = len(given) / len(unknown)
    if share < PARTIAL_SHARE or (len(given) == 1 < len(unknown) and n > 2):
        return Leak.none(share)
    text = query.critique
    return Leak.at("spelled", text.source, text.spans((c.start, c.end) for c in new), share)


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


def _claims(text: Text, unit: _Unit, wanted: list[str]) -> Iterator[_Claim]:
    """Claims about single positions, then those about the beginning or the end of the reference."""
    named = False
    matches = [m for form in (_NUMBERED, _ORDERED) for m in form.finditer(text.text)]
    for m in sorted(matches, key=lambda m: m.start()):
        if m["w"] or m["c"]:
            named = (unit == "word") == bool(m["w"])
        if not named:
            continue
        position = m["n"] or m["o"]
        at = int(position) if position.isdigit() else _COUNT.get(position) or _ORDINAL[position]
        value = _value(m)
        if at and value:
            yield _Claim(at - 1 if at > 0 else at, value, m.start(), m.end())
    if (unit == "word") != (len("".join(wanted)) > len(wanted)):
        return
    for m in (m for form in (_EDGE, _SEVERAL) for m in form.finditer(text.text)):
        value = _value(m)
        pieces = value.split() if unit == "word" else _elements(value, unit)
        first = 0 if m["head"] else -len(pieces)
        if pieces and wanted[first : first + len(pieces) or None] == pieces:
            yield from (_Claim(first + i, p, m.start(), m.end()) for i, p in enumerate(pieces))


def _value(m: re.Match[str]) -> str:
    value: str = m["q"] or m["s"] or m["v"]
    return DIGITS.get(value, value) if m["v"] else value
