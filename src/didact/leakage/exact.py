"""The whole answer in a critique: word for word, as an equation, as a number or as a date."""

from __future__ import annotations

import re

from didact.leakage.assertion_patterns import labels, states
from didact.leakage.dates import dates
from didact.leakage.number_reader import Number
from didact.leakage.query import Case, Reference, Text
from didact.leakage.result import MOST, Leak
from didact.leakage.text import SOLO, Folded, Word, alone, places
from didact.leakage.vocabulary import COMMON

MENTIONS = 1000
"""Of a word that any text may hold, so many mentions are judged; the rest of them cannot leak."""

_COUNTED = re.compile(
    r"\s{0,2}(?:more |other |of )?(?:your |the |these )?(?:steps?|lines?|words?|sentences?|characters?|"
    r"letters?|digits?|"
    r"points?|times|mistakes?|errors?|parts?|cases?|terms?|places?|decimals?|marks?|tests?|items?|"
    r"paragraphs?|reasons?|"
    r"things|minutes?|seconds?|claims?|options?|equations?|pages?|examples?|rows?|columns?|figures?|st|nd|"
    r"rd|th)\b"
)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_NOUN = re.compile(r"\s{0,3}(?:more |other |whole |different )?([a-z]{3,})")


def verbatim(case: Case) -> Leak:
    """The reference itself, character by character or up to case, punctuation, articles and markup."""
    spans = _raw_spans(case.critique.source, case.raw) if len(case.raw) >= 3 else []
    if spans and not any(_raw_spans(side.source, case.raw) for side in (case.question, case.answer)):
        return Leak.at("verbatim", case.critique.source, spans)
    for form in case.references:
        if found := _form(case, form):
            return Leak.at("verbatim", case.critique.source, found)
    return Leak.none()


def _raw_spans(text: str, wanted: str) -> list[tuple[int, int]]:
    found, start = [], text.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if alone(text, start, end):
            found.append((start, end))
            start = text.find(wanted, end)
        else:
            start = text.find(wanted, start + 1)
    return found


def _form(case: Case, form: Reference) -> list[tuple[int, int]]:
    critique = case.critique.folded
    if form.letter:
        return _letters(critique, form.letter)
    if form.number is not None:
        return []  # `number` judges it
    if form.is_math:
        return _math(case, form.text.folded.math)
    words = form.words
    if not words:
        return []
    if len(words) == 1:
        return _word(case, words[0])
    spans = [
        (critique.content[i].start, critique.content[j - 1].end) for i, j in places(words, critique.content)
    ]
    if not spans and len(form.text.folded.items) >= 3:
        listed = form.text.folded.items
        spans = [
            (critique.items[i].start, critique.items[j - 1].end) for i, j in places(listed, critique.items)
        ]
        if spans and any(places(listed, side.folded.items) for side in (case.question, case.answer)):
            return _stated(critique, spans)
    if case.known(words) or all(w.text in COMMON for w in words):
        return _stated(critique, spans)
    return [critique.span(*span) for span in spans if alone(critique.text, *span)]


def _word(case: Case, word: Word) -> list[tuple[int, int]]:
    """A reference of one word, or its plural."""
    critique = case.critique.folded
    same = {word.text, f"{word.text}s", f"{word.text}es"} if len(word.text) >= 3 else {word.text}
    if not same & case.critique.vocabulary:
        return []
    spans = [
        (w.start, w.end) for w in critique.words if w.text in same and alone(critique.text, w.start, w.end)
    ]
    weak = len(word.text) < (2 if SOLO.match(word.text) else 3) or word.text in COMMON
    if weak or case.known([word]):
        return _stated(critique, spans)
    return [critique.span(*span) for span in spans]


def _letters(critique: Folded, letter: str) -> list[tuple[int, int]]:
    """Mentions of an option's letter that call it right: a capital, or one in brackets or quotes."""
    spans = []
    for w in critique.words:
        if w.text != letter or not alone(critique.text, w.start, w.end):
            continue
        marked = (
            critique.text[w.start - 1 : w.start] in tuple("('\"[") or critique.text[w.end : w.end + 1] == ")"
        )
        if critique.original(w).isupper() or marked:
            spans.append((w.start, w.end))
    return _stated(critique, spans, choice=True)


def _math(case: Case, tokens: list[Word]) -> list[tuple[int, int]]:
    """An equation, its sides exchanged, or what its one letter equals."""
    forms = [tokens]
    signs = [i for i, t in enumerate(tokens) if t.text == "="]
    if len(signs) == 1:
        left, right = tokens[: signs[0]], tokens[signs[0] + 1 :]
        forms.append([*right, tokens[signs[0]], *left])
        if len(left) == 1 and len(right) >= 3:
            forms.append(right)
    critique = case.critique.folded
    for form in forms:
        spans = [(critique.math[i].start, critique.math[j - 1].end) for i, j in places(form, critique.math)]
        spans = [span for span in spans if alone(critique.text, *span)]
        if not spans:
            continue
        if any(places(form, side.folded.math) for side in (case.question, case.answer)):
            return _stated(critique, spans)
        return [critique.span(*span) for span in spans]
    return []


def _stated(text: Folded, spans: list[tuple[int, int]], *, choice: bool = False) -> list[tuple[int, int]]:
    return [text.span(*span) for span in spans[:MENTIONS] if states(text.text, *span, choice=choice)]


def number(case: Case) -> Leak:
    """The reference's value in any form, a list of numbers, or a date."""
    for form in case.references:
        if form.number is not None:
            spans = _same_value(case, form.number)
            if spans:
                return Leak.at("number", case.critique.source, spans)
        elif not form.letter and len(form.text.source) <= 400:
            spans = _number_list(case, form)
            if spans:
                return Leak.at("number", case.critique.source, spans)
            dated = _date(case, form)
            if dated.leaks:
                return dated
    return Leak.none()


def _same_value(case: Case, wanted: Number) -> list[tuple[int, int]]:
    critique, judged = case.critique.folded, 0
    known = case.question.numbers.values | case.answer.numbers.values
    spans = []
    for told in case.critique.numbers.all:
        if not _equal(told, wanted, critique.text) or _ORDINAL.match(critique.text, told.end):
            continue
        if told.operands and known.issuperset(told.operands):
            continue  # what to work out, from the question's own numbers
        weak = told.common or not known.isdisjoint(told.values)
        if weak or judged < MENTIONS:
            judged += 1
            if judged > MENTIONS or ((weak or _weak(case, told)) and not _says(case, told)):
                continue
        spans.append(critique.span(told.start, told.end))
    return spans


def _equal(told: Number, wanted: Number, text: str) -> bool:
    if set(told.values) & set(wanted.values):
        return True
    exact, digits = wanted.values[-1], text[told.start : told.end]
    decimals = re.fullmatch(r"-?(\d+)\.(\d+)", digits)
    if decimals is None or told.operands or exact.denominator == 1:
        return False
    figures = len((decimals[1] + decimals[2]).lstrip("0"))
    return figures >= 3 and len(decimals[2]) <= 12 and round(exact, len(decimals[2])) == told.values[0]


def _weak(case: Case, told: Number) -> bool:
    """Does it only name a line or count steps?"""
    text = case.critique.folded.text
    if labels(text, told.start, told.end):
        return True
    return abs(told.values[0]) < 100 and bool(_COUNTED.match(text, told.end)) and not told.operands


def _says(case: Case, told: Number) -> bool:
    text = case.critique.folded.text
    if states(text, told.start, told.end):
        return not (_COUNTED.match(text, told.end) and not _asked_for(case, told))
    return not labels(text, told.start, told.end) and _asked_for(case, told) and not _in(case, told)


def _asked_for(case: Case, told: Number) -> bool:
    """Does it count what the question asks for: "7 apples" where the question speaks of apples?"""
    noun = _NOUN.match(case.critique.folded.text, told.end)
    return noun is not None and noun[1] in case.question.vocabulary and noun[1] not in COMMON


def _in(case: Case, told: Number) -> bool:
    return bool(set(told.values) & (case.question.numbers.values | case.answer.numbers.values))


def _listed(text: Text) -> list[Word]:
    """A text's numbers as words, composites left out."""
    listed: list[Word] = []
    for n in text.numbers.all:
        if not n.operands and (not listed or n.start >= listed[-1].end):
            listed.append(Word(str(n.values[-1]), n.start, n.end))
    return listed


def _number_list(case: Case, form: Reference) -> list[tuple[int, int]]:
    """Several numbers of a reference that holds nothing else, in their order."""
    text = form.text.folded.text
    if re.search(r"\d\s?[a-z]|[a-z]\s?\d|\^", text):
        return []  # coefficients and powers
    if len(re.findall(r"[^\W\d_]{2,}", text)) > len(re.findall(r"\b(?:and|or|then)\b", text)):
        return []
    wanted = _listed(form.text)
    if len(wanted) < 2:
        return []
    told, critique = _listed(case.critique), case.critique.folded
    spans = [(told[i].start, told[j - 1].end) for i, j in places(wanted, told)]
    spans = [s for s in spans[:MENTIONS] if not labels(critique.text, *s)]
    if any(places(wanted, _listed(side)) for side in (case.question, case.answer)):
        return _stated(critique, spans)
    if len(wanted) == 2 and all(len(w.text) < 3 for w in wanted):
        # "3 and 4" may be any pair, unless each of the two is given a name: "x is 3 and y is 4"
        spans = [
            s
            for s in spans
            if states(critique.text, *s) or re.search(r"[a-z=]\s*-?\d+\Z", critique.text[s[0] : s[1]])
        ]
    return [critique.span(*s) for s in spans]


def _date(case: Case, form: Reference) -> Leak:
    """The reference's date in another form, or most of what is unknown of it."""
    if len(form.words) > 6:
        return Leak.none()
    wanted = max(dates(form.text.folded.text), key=lambda d: len(d.parts), default=None)
    if wanted is None:
        return Leak.none()
    known = {
        part for side in (case.question, case.answer) for d in dates(side.folded.text) for part in d.parts
    }
    known |= {
        ("year", int(v)) for v in case.question.numbers.values if v.denominator == 1 and v == wanted.year
    }
    unknown = wanted.parts - known
    spans, best = [], 0.0
    for told in dates(case.critique.folded.text):
        named = {name for name, _ in told.parts}
        if told.parts - {p for p in wanted.parts if p[0] in named} or not unknown:
            continue
        share = len(told.parts & unknown) / len(unknown)
        if told.parts & unknown and len(told.parts) / len(wanted.parts) >= MOST:
            spans.append(case.critique.folded.span(told.start, told.end))
            best = max(best, share)
    return Leak.at("number", case.critique.source, spans, best) if spans else Leak.none()
