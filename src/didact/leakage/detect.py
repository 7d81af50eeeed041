"""Rules that decide whether a critique states the answer, in time linear in the texts.

In order: verbatim, as a number or date, piece by piece, most of it. What question or answer hold already is a
leak only if the critique asserts that it is the answer, and nothing leaks to a student who gave the reference
already.
"""

from __future__ import annotations

from didact.leakage.character_leaks import spelled
from didact.leakage.exact import number, verbatim
from didact.leakage.partial import partial
from didact.leakage.query import LeakQuery
from didact.leakage.result import Leak


def leak(critique: str, reference: str, *, question: str = "", answer: str = "") -> Leak:
    """What a critique gives away of a reference, beyond what question and answer hold.

    A reference of three or more characters that occurs literally in the critique, and in neither question nor
    answer, always leaks. A shorter one, a small number, a common word, an option's letter, or what question
    or answer hold, leaks if it is asserted to be the answer. Reordered, translated and implied answers need
    a judge. Of a text with more than 20,000 numbers, the rest are not read as values.

    Args:
        critique: The critique.
        reference: The private gold answer. An empty one cannot leak.
        question: The question.
        answer: The student's answer.

    >>> leak("It should come to twelve hundred.", "1,200", question="3 * 400 = ?", answer="120").quote
    'twelve hundred'
    >>> leak("Step 7 is wrong.", "7").leaks
    False
    """
    return find_leak(LeakQuery(critique, reference, question, answer))


def find_leak(query: LeakQuery) -> Leak:
    """`leak` of a query."""
    if not query.critique.source.strip() or not query.reference or query.settled:
        return Leak.none()
    best = 0.0
    for detect in (verbatim, number, spelled, partial):
        found = detect(query)
        if found.leaks:
            return found
        best = max(best, found.overlap)
    return Leak.none(best)
