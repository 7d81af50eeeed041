"""Most of a longer answer: its n-grams, its list items or the name that gives it away."""

from __future__ import annotations

import re

from didact.leakage.query import Case, Reference
from didact.leakage.result import MOST, Leak
from didact.leakage.text import JOINERS, Word, fold, places
from didact.leakage.vocabulary import FUNCTION, GENERIC, PARTICLES

_LEAST = 3
"""So many words of the reference must be told at least."""


def partial(case: Case) -> Leak:
    """Most of the reference's words in its own order, most of its list items, or its telling name."""
    best = 0.0
    for form in case.references:
        if form.letter or form.number is not None:
            continue
        for found in (_grams(case, form), _items(case, form), _name(case, form)):
            if found.leaks:
                return found
            best = max(best, found.overlap)
    return Leak.none(best)


def _grams(case: Case, form: Reference) -> Leak:
    """Words that stand in n-grams of both texts and of neither question nor answer."""
    words = form.words
    if len(words) < 4 or form.is_math:
        return Leak.none()
    n = 3 if len(words) >= 8 else 2
    known = _set(case.question.folded.content, n) | _set(case.answer.folded.content, n)
    told = _set(case.critique.folded.content, n) - known
    ours = _ngrams(words, n)
    new = {i + k for i, gram in enumerate(ours) if gram in told for k in range(n)}
    unknown = set(range(len(words))) - {
        i + k for i, gram in enumerate(ours) if gram in known for k in range(n)
    }
    new &= unknown
    if not new:
        return Leak.none()
    share = len(new) / len(unknown)
    if share < MOST or len(new) < min(_LEAST, len(unknown)):
        return Leak.none(share)
    wanted = {gram for gram in ours if gram in told}
    content, text = case.critique.folded.content, case.critique.folded
    spans = [
        text.span(content[i].start, content[i + n - 1].end)
        for i, gram in enumerate(_ngrams(content, n))
        if gram in wanted
    ]
    return Leak.at("partial", text.source, spans, share)


def _ngrams(words: list[Word], n: int) -> list[tuple[str, ...]]:
    texts = [w.text for w in words]
    return list(zip(*(texts[k:] for k in range(n)), strict=False))


def _set(words: list[Word], n: int) -> set[tuple[str, ...]]:
    """n-grams with at least one word that carries meaning."""
    return {gram for gram in _ngrams(words, n) if not FUNCTION.issuperset(gram)}


def _items(case: Case, form: Reference) -> Leak:
    """Most of a list's items, in any order: "red" and "blue" of red, green, blue."""
    pieces = re.split(r"[,;\n]|\band\b", form.text.folded.text)
    if not 3 <= len(pieces) <= 500:
        return Leak.none()
    content, text = case.critique.folded.content, case.critique.folded
    told, unknown, spans = 0, 0, []
    for piece in pieces:
        words = [w for w in fold(piece).content if w.text not in JOINERS]
        if not words or sum(len(w.text) for w in words) < 3 or all(w.text in FUNCTION for w in words):
            continue
        if case.known(words):
            continue
        unknown += 1
        if case.critique.vocabulary.issuperset(w.text for w in words):
            found = places(words, content)
            told += bool(found)
            spans += [text.span(content[i].start, content[j - 1].end) for i, j in found]
    if unknown < 2 or not told:
        return Leak.none()
    share = told / unknown
    if told < 2 or share < MOST:
        return Leak.none(share)
    return Leak.at("partial", text.source, spans, share)


def _name(case: Case, form: Reference) -> Leak:
    """The surname of a person, the proper name of a place: "Curie" for Marie Curie."""
    words = [w for w in form.words if w.text not in FUNCTION | PARTICLES]
    if not 2 <= len(words) <= 5 or not all(form.text.folded.original(w)[:1].isupper() for w in words):
        return Leak.none()
    telling = [w for w in words if w.text not in GENERIC and len(w.text) >= 4]
    if not telling or case.known([telling[-1]]):
        return Leak.none()
    text, name = case.critique.folded, telling[-1]
    if name.text not in case.critique.vocabulary:
        return Leak.none()
    spans = [
        text.span(w.start, w.end)
        for w in text.words
        if w.text == name.text and text.original(w)[:1].isupper()
    ]
    if not spans:
        return Leak.none()
    share = len(name.text) / sum(len(w.text) for w in telling)
    return Leak.at("partial", text.source, spans, share)
