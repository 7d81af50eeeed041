"""Rules that decide whether a critique states the answer, in time linear in the texts.

In order: verbatim, as a number or date, piece by piece, most of it. What question or answer hold already is a
leak only if the critique asserts that it is the answer, and nothing leaks to a student who gave the reference
already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from didact.leakage.character_leaks import spelled
from didact.leakage.exact import number, verbatim
from didact.leakage.query import PARTIAL_SHARE, Leak, LeakQuery, Reference
from didact.leakage.text import Place, Text, Word, places
from didact.leakage.vocabulary import FUNCTION, GENERIC, PARTICLES

_LEAST = 3
"""The least number of words of the reference in a leak."""


def leak(critique: str, reference: str, *, question: str = "", answer: str = "") -> Leak:
    """What a critique gives away of a reference, beyond what question and answer hold.

    A reference of three or more characters that occurs literally in the critique, and in neither question nor
    answer, always leaks. A shorter one, a small number, a common word, an option's letter, or what question
    or answer hold, leaks if it is asserted to be the answer. Reordered, translated and implied answers need
    a judge. Of a text with more than 20,000 numbers, the rest are not read as values.

    Args:
        reference: The private gold answer. An empty one cannot leak.

    >>> leak("It should come to twelve hundred.", "1,200", question="3 * 400 = ?", answer="120").quote
    'twelve hundred'
    >>> leak("Step 7 is wrong.", "7").leaks
    False
    """
    return find_leak(LeakQuery(critique, reference, question, answer))


def find_leak(query: LeakQuery) -> Leak:
    """`leak` of a query."""
    if query.is_empty or query.settled:
        return Leak()
    best = 0.0
    for detect in (verbatim, number, spelled, _partial):
        found = detect(query)
        if found.leaks:
            return found
        best = max(best, found.overlap)
    return Leak(overlap=best)


def _partial(query: LeakQuery) -> Leak:
    """Most of the reference's words in its own order, most of its list items, or its telling name."""
    best = 0.0
    for form in query.references:
        if form.letter or form.number is not None:
            continue
        for detect in (_ngrams, _items, _name):
            found = detect(query, form)
            if found.leaks:
                return found
            best = max(best, found.overlap)
    return Leak(overlap=best)


def _ngrams(query: LeakQuery, form: Reference) -> Leak:
    """Words in n-grams that the critique shares with the reference, and that question and answer lack."""
    words = form.text.content
    if len(words) < 4 or form.is_math:
        return Leak()
    n = 3 if len(words) >= 8 else 2
    known = {gram for side in query.known for gram in _telling(side.content, n)}
    given = _telling(query.critique.content, n) - known
    ours = _grams(words, n)
    unknown = set(range(len(words))) - {i + k for i, g in enumerate(ours) if g in known for k in range(n)}
    new = {i + k for i, g in enumerate(ours) if g in given for k in range(n)} & unknown
    if not new:
        return Leak()
    share = len(new) / len(unknown)
    if share < PARTIAL_SHARE or len(new) < min(_LEAST, len(unknown)):
        return Leak(overlap=share)
    content = query.critique.content
    wanted = given.intersection(ours)
    spans = [
        (content[i].start, content[i + n - 1].end)
        for i, gram in enumerate(_grams(content, n))
        if gram in wanted
    ]
    return query.leak("partial", spans, share)


def _grams(words: Sequence[Word], n: int) -> list[tuple[str, ...]]:
    texts = [w.text for w in words]
    return list(zip(*(texts[k:] for k in range(n)), strict=False))


def _telling(words: Sequence[Word], n: int) -> set[tuple[str, ...]]:
    """n-grams with at least one word that carries meaning."""
    return {gram for gram in _grams(words, n) if not FUNCTION.issuperset(gram)}


def _items(query: LeakQuery, form: Reference) -> Leak:
    """Most of a list's items, in any order: "red" and "blue" of red, green, blue."""
    items = re.split(r"[,;\n]|\band\b", form.text.text)
    if not 3 <= len(items) <= 500:
        return Leak()
    critique, given, unknown = query.critique, 0, 0
    spans: list[Place] = []
    for item in items:
        words = Text(item).items
        if sum(len(w.text) for w in words) < 3 or all(w.text in FUNCTION for w in words):
            continue
        if query.is_known(words):
            continue
        unknown += 1
        if critique.vocabulary.issuperset(w.text for w in words):
            found = places(words, critique.content)
            given += bool(found)
            spans += [(critique.content[i].start, critique.content[j - 1].end) for i, j in found]
    if unknown < 2 or not given:
        return Leak()
    share = given / unknown
    if given < 2 or share < PARTIAL_SHARE:
        return Leak(overlap=share)
    return query.leak("partial", spans, share)


def _name(query: LeakQuery, form: Reference) -> Leak:
    """The surname of a person, or the proper name of a place: "Curie" for Marie Curie."""
    words = [w for w in form.text.content if w.text not in FUNCTION | PARTICLES]
    if not 2 <= len(words) <= 5 or not all(form.text.original(w)[:1].isupper() for w in words):
        return Leak()
    telling = [w for w in words if w.text not in GENERIC and len(w.text) >= 4]
    if not telling or query.is_known(telling[-1:]):
        return Leak()
    critique, name = query.critique, telling[-1].text
    named = [w for w in critique.words if w.text == name and critique.original(w)[:1].isupper()]
    if not named:
        return Leak()
    share = len(name) / sum(len(w.text) for w in telling)
    return query.leak("partial", [(w.start, w.end) for w in named], share)
