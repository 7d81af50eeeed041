"""The answer told piece by piece: c-a-t, "one two zero", "Character 1 should be n. Character 2 …".

What counts is the share of the reference that the critique adds to what the student's answer has right
already, position by position.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from didact.leakage.assertion_patterns import labels, states
from didact.leakage.query import Case, Text
from didact.leakage.result import MOST, Leak
from didact.leakage.text import Folded, Word, fold, places
from didact.leakage.vocabulary import BETWEEN, DIGITS, NATO, ORDINALS, TENS, UNITS

_GAP, _PAUSE = 8, 4
_LONGEST = 4000


class _Piece(NamedTuple):
    text: str
    start: int
    end: int
    literal: bool
    """Written as digits, which any text has side by side."""


def spelled(case: Case) -> Leak:
    """The reference in single letters, digits, quoted words or claims about its positions."""
    best = 0.0
    for form in case.references:
        if form.letter or len(form.text.source) > _LONGEST:
            continue
        # An equation is single letters and digits side by side.
        runs = Leak.none() if form.is_math else _in_runs(case, form.text)
        for found in (runs, _in_quotes(case, form.text)):
            if found.leaks:
                return found
    for unit in ("character", "word"):
        found = _claimed(case, unit)
        if found.leaks:
            return found
        best = max(best, found.overlap)
    return Leak.none(best)


def _pieces(text: Folded) -> list[list[_Piece]]:
    """Runs of single letters and digits with nothing but joining words between them."""
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
    """Is what stands between two words a decimal point?"""
    return text[end:start] == "." and text[start].isdigit() and text[end - 1 : end].isdigit()


def _single(word: str) -> str | None:
    if (len(word) == 1 and word.isalnum()) or (word.isdigit() and len(word) <= 3):
        return word
    return DIGITS.get(word) or NATO.get(word)


def _in_runs(case: Case, reference: Text) -> Leak:
    wanted = re.sub(r"[\W_]", "", reference.folded.text)
    if len(wanted) < 2 or len(wanted) > 200:
        return Leak.none()
    text = case.critique.folded
    known = " ".join(w.text for side in (case.question, case.answer) for w in side.folded.words)
    spans, best = [], 0.0
    for run in _pieces(text):
        for variant in (run, _without_articles(run, text)):
            told = "".join(p.text for p in variant)
            cut = _cut(told, wanted, variant, known)
            if cut is not None and not _ordinary(variant[cut[0] : cut[1]], wanted, text):
                first, last = variant[cut[0]], variant[cut[1] - 1]
                spans.append(text.span(first.start, last.end))
                best = max(best, min(1.0, sum(len(p.text) for p in variant[cut[0] : cut[1]]) / len(wanted)))
                break
    return Leak.at("spelled", text.source, spans, best) if spans else Leak.none()


def _cut(told: str, wanted: str, run: list[_Piece], known: str) -> tuple[int, int] | None:
    """The pieces of a run that spell the reference or most of it: (first, one past the last)."""
    at = told.find(wanted)
    if at < 0:
        # Most of it, at the run's own length: a run is short, or it is not spelling.
        whole = len(told) >= 3 and told in wanted and len(told) / len(wanted) >= MOST and told not in known
        return (0, len(run)) if whole else None
    if wanted in known:
        return None
    ends, total = [], 0
    for p in run:
        total += len(p.text)
        ends.append(total)
    first = next(i for i, e in enumerate(ends) if e > at)
    last = next(i for i, e in enumerate(ends) if e >= at + len(wanted))
    return first, last + 1


def _ordinary(run: list[_Piece], wanted: str, text: Folded) -> bool:
    """Is it how any text lists things: "steps 1, 2 and 0", "a b" or "one two"?"""
    if len(run) < 2:
        return True
    if all(p.literal for p in run):
        before = text.text[max(0, run[0].start - 60) : run[0].start]
        told_so = re.search(r"\bdigits?\b|\bspell", before)
        if told_so or states(text.text, run[0].start, run[-1].end):
            return False
        return len(wanted) < 3 or labels(text.text, run[0].start, run[0].end)
    if all(p.literal or len(p.text) < p.end - p.start for p in run):
        return len(run) < len(wanted)  # digits in words
    if len(wanted) == 2:
        return not re.search(r"[-'\",.]|then|follow", text.text[run[0].end : run[1].start])
    return False


def _without_articles(run: list[_Piece], text: Folded) -> list[_Piece]:
    """The run without an "a" that only introduces the next letter: "then a t, then a c"."""
    kept = [
        p
        for p, following in zip(run, [*run[1:], None], strict=True)
        if not (p.text == "a" and following and text.text[p.end : following.start] in (" ", " '", ' "'))
    ]
    return kept if len(kept) > 1 else run


_QUOTED = re.compile(r"\"([^\"\n]{1,60})\"|(?<!\w)'([^'\n]{1,60})'(?!\w)")


def _in_quotes(case: Case, reference: Text) -> Leak:
    """A reference of several words in quoted pieces: first "the", then "quick", then …"""
    wanted = reference.folded.content
    if len(wanted) < 3:
        return Leak.none()
    text = case.critique.folded
    told: list[Word] = []
    for m in _QUOTED.finditer(text.text):
        group = 1 if m[1] is not None else 2
        inner = fold(m[group]).content
        told += [Word(w.text, m.start(group) + w.start, m.start(group) + w.end) for w in inner]
    found = places(wanted, told)
    if not found or case.known(wanted):
        return Leak.none()
    return Leak.at("spelled", text.source, [text.span(told[i].start, told[j - 1].end) for i, j in found])


_COUNT = {**{w: i for w, i in UNITS.items() if i}, **TENS}
_ORDINAL = {**ORDINALS, "last": -1, "final": -1, "initial": 1, "penultimate": -2}
_UNIT = (
    r"(?:(?P<c>characters?|chars?|letters?|digits?|symbols?|positions?|places?|slots?)|(?P<w>words?|tokens?))"
)
_COPULA = (
    r"(?:\s{0,2}[,:=]\s{0,2}|\s{0,2}-{0,2}>\s{0,2}|\s{1,3}(?:(?:should|must|has to|needs to|ought to|"
    r"would|will) "
    r"(?:be|read|have been)|is|are|was|being|reads?|becomes|holds|to be|to)\s{1,3}|\s{1,3})"
    r"(?:(?:an?|the|actually|really) ){0,2}(?:(?:letters?|digits?|words?|characters?) )?"
)
_VALUE = (
    r"(?:\"(?P<q>[^\"\n]{1,60})\"|'(?P<s>[^'\n]{1,60})'|"
    r"(?P<v>[^\s\"',;:!?.()*]{1,40}|[^\w\s](?=\.(?:\s|\Z))|\s(?=\.(?:\s|\Z))))"
)
_NUMBERED = re.compile(
    rf"\b{_UNIT}\s{{1,2}}(?:number |no\. )?#?(?P<n>\d{{1,4}}|{'|'.join(_COUNT)})\b{_COPULA}{_VALUE}"
)
_ORDERED = re.compile(
    rf"\b(?:(?P<n>\d{{1,4}})(?:st|nd|rd|th)|(?P<o>{'|'.join(_ORDINAL)}))\b"
    rf"(?:\s{{1,2}}{_UNIT})?{_COPULA}{_VALUE}"
)
_EDGE = re.compile(
    rf"\b(?:(?P<head>(?:starts?|begins?|beginning|starting|opens?|opening) (?:with|in|by))|"
    rf"(?P<tail>(?:ends?|ending|finish(?:es)?|finishing|closes|closing) (?:with|in|on|by)))\s{{1,2}}"
    rf"(?:(?:the|an?) )?(?:(?:letters?|digits?|words?|characters?) )?{_VALUE}"
)
_SEVERAL = re.compile(
    rf"\b(?:(?P<head>first|initial)|(?P<tail>last|final)) (?:\d{{1,2}}|{'|'.join(_COUNT)}) "
    rf"{_UNIT}{_COPULA}{_VALUE}"
)


class _Claim(NamedTuple):
    position: int
    """From 0, or from −1 backward."""
    text: str
    start: int
    end: int


def _claimed(case: Case, unit: str) -> Leak:
    """Claims about positions of the reference, against what the student's answer has right."""
    raw = case.raw
    if len(raw) > _LONGEST:
        return Leak.none()
    wanted = (
        [fold(w).text.strip(".,;:!?\"'()") or w for w in raw.split()] if unit == "word" else _characters(raw)
    )
    if len(wanted) < 2 or (unit == "character" and len(raw.split()) > 3):
        return Leak.none()
    claims = [c for c in _claims(case.critique.folded, unit, wanted) if _fits(c, wanted)]
    if not claims:
        return Leak.none()
    known = _right_already(case.answer.source, wanted, unit)
    unknown = set(range(len(wanted))) - known
    new = [c for c in claims if c.position % len(wanted) in unknown]
    told = {c.position % len(wanted) for c in new}
    if not told:
        return Leak.none()
    share = len(told) / len(unknown)
    if share < MOST or not _worth(told, unknown, wanted):
        return Leak.none(share)
    text = case.critique.folded
    return Leak.at("spelled", text.source, [text.span(c.start, c.end) for c in new], share)


def _worth(told: set[int], unknown: set[int], wanted: list[str]) -> bool:
    return told == unknown or len(told) > 1 or len(wanted) < 3


def _characters(text: str) -> list[str]:
    return [fold(c).text or c for c in text]


def _fits(claim: _Claim, wanted: list[str]) -> bool:
    return -len(wanted) <= claim.position < len(wanted) and wanted[claim.position] == claim.text


def _right_already(answer: str, wanted: list[str], unit: str) -> set[int]:
    """Positions that the answer, or its last word or line, has right."""
    answer = answer.strip()
    if not answer:
        return set()
    tries = [answer, answer.splitlines()[-1].strip(), answer.split()[-1].strip(".,;:!?\"'()")]
    best: set[int] = set()
    for text in tries:
        if len(text) > 4 * _LONGEST:
            continue
        got = (
            [fold(w).text.strip(".,;:!?\"'()") or w for w in text.split()]
            if unit == "word"
            else _characters(text)
        )
        if len(got) <= 2 * len(wanted) + 8:
            same = {i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a == b}
            best = max(best, same, key=len)
    return best


def _claims(text: Folded, unit: str, wanted: list[str]) -> list[_Claim]:
    found: list[_Claim] = []
    named = False
    matches = [m for form in (_NUMBERED, _ORDERED) for m in form.finditer(text.text)]
    for m in sorted(matches, key=lambda m: m.start()):
        own = "word" if m["w"] else "character" if m["c"] else None
        named = named if own is None else own == unit
        if not named:
            continue
        place = m["n"] if m["n"] else m["o"]
        at = int(place) if place.isdigit() else _COUNT.get(place) or _ORDINAL[place]
        value = _value(m, text)
        if at and value:
            found.append(_Claim(at - 1 if at > 0 else at, value, m.start(), m.end()))
    for form in (_EDGE, _SEVERAL):
        for m in form.finditer(text.text):
            value = _value(m, text)
            pieces = value.split() if unit == "word" else _characters(value)
            if (
                value
                and len(pieces) <= len(wanted)
                and (unit == "word") == (len("".join(wanted)) > len(wanted))
            ):
                first = 0 if m["head"] else -len(pieces)
                whole = wanted[first : first + len(pieces) or None]
                if whole == pieces:
                    found += [_Claim(first + i, p, m.start(), m.end()) for i, p in enumerate(pieces)]
    return found


def _value(m: re.Match[str], text: Folded) -> str:
    value = m["q"] or m["s"] or m["v"]
    return DIGITS.get(value, value) if m["v"] else value
