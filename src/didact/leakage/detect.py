"""Does a critique state the answer? Judged by rules alone, in time linear in the texts.

In order: word for word, as a number or date, piece by piece, most of it. What question or answer hold
already is no leak unless the critique says that it is the answer, and nothing leaks to a student who
gave the reference already.
"""

from __future__ import annotations

from didact.leakage.character_leaks import spelled
from didact.leakage.exact import number, verbatim
from didact.leakage.partial import partial
from didact.leakage.query import Case
from didact.leakage.result import Leak


def leak(critique: str, reference: str, *, question: str = "", answer: str = "") -> Leak:
    """What a critique gives away of a reference, beyond what question and answer hold.

    A reference of three characters or more that stands in the critique as it is, and in neither question
    nor answer, always leaks. A shorter one, a small number, a common word, an option's letter, or what
    question or answer hold, leaks where it is said to be the answer. Reordered, translated and implied
    answers are beyond these rules: they need a judge. In a text of more than 20,000 numbers, the rest of
    them are not read as values.

    Args:
        critique: What was said.
        reference: The private gold answer. An empty one cannot leak.
        question: What was asked.
        answer: The student's answer.

    >>> leak("It should come to twelve hundred.", "1,200", question="3 * 400 = ?", answer="120").quote
    'twelve hundred'
    >>> leak("Step 7 is wrong.", "7").leaks
    False
    """
    if not critique.strip() or not reference.strip():
        return Leak.none()
    case = Case(critique, reference, question, answer)
    if case.settled:
        return Leak.none()
    best = 0.0
    for find in (verbatim, number, spelled, partial):
        found = find(case)
        if found.leaks:
            return found
        best = max(best, found.overlap)
    return Leak.none(best)
