"""Detectors of the whole answer in a critique: verbatim, as an equation, as a number or as a date."""

from __future__ import annotations

import re
from collections.abc import Sequence

from didact.leakage.numbers import Number
from didact.leakage.phrases import asserts_as_answer, is_label
from didact.leakage.query import PARTIAL_SHARE, Leak, LeakQuery, Reference
from didact.leakage.text import SOLO, Place, Text, Word, alone, places
from didact.leakage.vocabulary import COMMON, DATES, MONTHS, ORDINALS, pattern

MENTIONS = 1000
"""The most mentions of a common word that are examined; later ones do not count."""

_COUNTED = pattern("counted")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_NOUN = re.compile(r"\s{0,3}(?:more |other |whole |different )?([a-z]{3,})")
_MONTH_OF = {**MONTHS, **{m[:3]: i for m, i in MONTHS.items()}, "sept": 9}
_ORDINAL_OF = {
    **ORDINALS,
    "thirtieth": 30,
    **{f"twenty{dash}{w}": 20 + i for w, i in ORDINALS.items() if i < 10 for dash in "- "},
    **{f"thirty{dash}first": 31 for dash in "- "},
}
_DATES = [
    pattern(
        form, months=sorted(_MONTH_OF, key=len, reverse=True), days=sorted(_ORDINAL_OF, key=len, reverse=True)
    )
    for form in DATES
]


def verbatim(query: LeakQuery) -> Leak:
    """The reference itself, character by character or up to case, punctuation, articles and markup."""
    wanted = query.reference
    found = _occurrences(query.critique.source, wanted) if len(wanted) >= 3 else []
    if found and not any(_occurrences(side.source, wanted) for side in query.known):
        return Leak.at("verbatim", query.critique.source, found)
    for form in query.references:
        if folded := _form(query, form):
            return query.leak("verbatim", folded)
    return Leak()


def _occurrences(text: str, wanted: str) -> list[Place]:
    found, start = [], text.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if alone(text, start, end):
            found.append((start, end))
            start = text.find(wanted, end)
        else:
            start = text.find(wanted, start + 1)
    return found


def _form(query: LeakQuery, form: Reference) -> list[Place]:
    critique, words, items = query.critique, form.text.content, form.text.items
    if form.letter:
        return _letters(critique, form.letter)
    if form.number is not None or not words:
        return []  # `number` finds numbers
    if form.is_math:
        return _math(query, form.text.math)
    if len(words) == 1:
        return _word(query, words[0])
    found = _spans(words, critique.content)
    if not found and len(items) >= 3:
        found = _spans(items, critique.items)
        if found and any(places(items, side.items) for side in query.known):
            return _asserted(critique, found)
    if query.is_known(words) or all(w.text in COMMON for w in words):
        return _asserted(critique, found)
    return [span for span in found if alone(critique.text, *span)]


def _spans(wanted: Sequence[Word], words: Sequence[Word]) -> list[Place]:
    """The stretches of text in which a sequence of words occurs."""
    return [(words[i].start, words[j - 1].end) for i, j in places(wanted, words)]


def _word(query: LeakQuery, word: Word) -> list[Place]:
    """A reference of one word, or its plural."""
    critique = query.critique
    same = {word.text, f"{word.text}s", f"{word.text}es"} if len(word.text) >= 3 else {word.text}
    if not same & critique.vocabulary:
        return []
    found = [
        (w.start, w.end) for w in critique.words if w.text in same and alone(critique.text, w.start, w.end)
    ]
    weak = len(word.text) < (2 if SOLO.match(word.text) else 3) or word.text in COMMON
    return _asserted(critique, found) if weak or query.is_known([word]) else found


def _letters(critique: Text, letter: str) -> list[Place]:
    """Assertions of an option's letter, which is a capital or in brackets or quotes."""
    found = []
    for w in critique.words:
        if w.text != letter or not alone(critique.text, w.start, w.end):
            continue
        marked = (
            critique.text[w.start - 1 : w.start] in tuple("('\"[") or critique.text[w.end : w.end + 1] == ")"
        )
        if critique.original(w).isupper() or marked:
            found.append((w.start, w.end))
    return _asserted(critique, found, choice=True)


def _math(query: LeakQuery, tokens: list[Word]) -> list[Place]:
    """An equation, the equation with its sides exchanged, or the right side if the left is one letter."""
    forms = [tokens]
    signs = [i for i, t in enumerate(tokens) if t.text == "="]
    if len(signs) == 1:
        left, right = tokens[: signs[0]], tokens[signs[0] + 1 :]
        forms.append([*right, tokens[signs[0]], *left])
        if len(left) == 1 and len(right) >= 3:
            forms.append(right)
    critique = query.critique
    for form in forms:
        found = [span for span in _spans(form, critique.math) if alone(critique.text, *span)]
        if found:
            known = any(places(form, side.math) for side in query.known)
            return _asserted(critique, found) if known else found
    return []


def _asserted(text: Text, found: list[Place], *, choice: bool = False) -> list[Place]:
    """The stretches that are asserted to be the answer."""
    return [span for span in found[:MENTIONS] if asserts_as_answer(text.text, *span, choice=choice)]


def number(query: LeakQuery) -> Leak:
    """The reference's value in any notation, a list of numbers, or a date."""
    for form in query.references:
        if form.number is not None:
            found = _same_value(query, form.number)
        elif form.letter or len(form.text.source) > 400:
            continue
        else:
            found = _number_list(query, form)
            if not found and (dated := _date(query, form)).leaks:
                return dated
        if found:
            return query.leak("number", found)
    return Leak()


def _same_value(query: LeakQuery, wanted: Number) -> list[Place]:
    critique, examined = query.critique, 0
    known = query.question.values | query.answer.values
    found = []
    for n in critique.numbers:
        if not _equal(n, wanted, critique.text) or _ORDINAL.match(critique.text, n.end):
            continue
        if n.operands and known.issuperset(n.operands):
            continue  # a calculation with the question's own numbers
        weak = n.common or not known.isdisjoint(n.values)
        if weak or examined < MENTIONS:
            examined += 1
            if examined > MENTIONS or ((weak or _counts(query, n)) and not _asserts(query, n)):
                continue
        found.append((n.start, n.end))
    return found


def _equal(n: Number, wanted: Number, text: str) -> bool:
    """Equal in value, or the wanted value rounded to at least three digits."""
    if set(n.values) & set(wanted.values):
        return True
    exact = wanted.values[-1]
    decimals = re.fullmatch(r"-?(\d+)\.(\d+)", text[n.start : n.end])
    if decimals is None or n.operands or exact.denominator == 1:
        return False
    figures = len((decimals[1] + decimals[2]).lstrip("0"))
    return figures >= 3 and len(decimals[2]) <= 12 and round(exact, len(decimals[2])) == n.values[0]


def _counts(query: LeakQuery, n: Number) -> bool:
    """Whether a number labels a line or counts steps."""
    text = query.critique.text
    if is_label(text, n.start, n.end):
        return True
    return abs(n.values[0]) < 100 and bool(_COUNTED.match(text, n.end)) and not n.operands


def _asserts(query: LeakQuery, n: Number) -> bool:
    text = query.critique.text
    noun = _NOUN.match(text, n.end)
    # "7 apples", where the question is about apples
    asked_for = noun is not None and noun[1] in query.question.vocabulary and noun[1] not in COMMON
    if asserts_as_answer(text, n.start, n.end):
        return asked_for or not _COUNTED.match(text, n.end)
    known = query.question.values | query.answer.values
    return asked_for and not is_label(text, n.start, n.end) and known.isdisjoint(n.values)


def _numbers_as_words(text: Text) -> list[Word]:
    """A text's numbers as words, without overlaps and arithmetic."""
    listed: list[Word] = []
    for n in text.numbers:
        if not n.operands and (not listed or n.start >= listed[-1].end):
            listed.append(Word(str(n.values[-1]), n.start, n.end))
    return listed


def _number_list(query: LeakQuery, form: Reference) -> list[Place]:
    """The numbers of a reference that consists of several, in their order."""
    reference = form.text.text
    if re.search(r"\d\s?[a-z]|[a-z]\s?\d|\^", reference):
        return []  # coefficients and powers
    if len(re.findall(r"[^\W\d_]{2,}", reference)) > len(re.findall(r"\b(?:and|or|then)\b", reference)):
        return []
    wanted = _numbers_as_words(form.text)
    if len(wanted) < 2:
        return []
    text = query.critique.text
    found = _spans(wanted, _numbers_as_words(query.critique))[:MENTIONS]
    found = [span for span in found if not is_label(text, *span)]
    if any(places(wanted, _numbers_as_words(side)) for side in query.known):
        return _asserted(query.critique, found)
    if len(wanted) == 2 and all(len(w.text) < 3 for w in wanted):
        # "3 and 4" may be any pair, unless each of the two is given a name: "x is 3 and y is 4"
        return [
            (start, end)
            for start, end in found
            if asserts_as_answer(text, start, end) or re.search(r"[a-z=]\s*-?\d+\Z", text[start:end])
        ]
    return found


def _date(query: LeakQuery, form: Reference) -> Leak:
    """The reference's date in another form, or most of its unknown parts."""
    if len(form.text.content) > 6:
        return Leak()
    wanted = max((date for date, _ in _dates(form.text.text)), key=len, default=frozenset())
    known = {part for side in query.known for date, _ in _dates(side.text) for part in date}
    unknown = {
        (name, value)
        for name, value in wanted - known
        if name != "year" or value not in query.question.values
    }
    found = [
        (date, place)
        for date, place in _dates(query.critique.text)
        if date & unknown and date <= wanted and len(date) / len(wanted) >= PARTIAL_SHARE
    ]
    if not found:
        return Leak()
    best = max(len(date & unknown) / len(unknown) for date, _ in found)
    return query.leak("number", [place for _, place in found], best)


def _dates(text: str) -> list[tuple[frozenset[tuple[str, int]], Place]]:
    """Every date of a folded text that names a month, with its place; day/month and month/day both count.

    >>> sorted(_dates("born on march 14th, 1879")[0][0])
    [('day', 14), ('month', 3), ('year', 1879)]
    """
    found = []
    for m in (m for form in _DATES for m in form.finditer(text)):
        given = {name: _part(word) for name, word in m.groupdict().items() if word is not None}
        if 1 <= given["month"] <= 12 and 1 <= given.get("day", 1) <= 31:
            found.append((frozenset(given.items()), m.span()))
    return found


def _part(word: str) -> int:
    return _MONTH_OF.get(word) or _ORDINAL_OF.get(word) or int(re.sub(r"\D", "", word))
