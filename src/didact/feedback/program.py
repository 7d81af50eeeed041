"""A critic that compares an answer with the reference by program.

Four levels, by how much a critique reveals:

    verdict     "The answer is wrong."
    hint        … "It should have 6 characters, not 5. Characters 1 and 4 are wrong."
    direction   … "It should have 3 characters, not 2. Character 1 is too low. Character 3 is wrong."
    reveal      … "It should have 6 characters, not 5. Character 1 should be n. Character 4 should be t."

`hint` names places. `direction` also states whether a digit, or a whole number, is too low or too high.
`reveal` gives the right element. If the reference has several words, the elements are words, else characters.

Wrong and surplus elements become poor spans with the sentence that names them, and runs of right elements
become good spans. A wrong answer has no spans at level `verdict`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from didact.feedback.answer_spans import Place, in_order, program_feedback, runs, spans, whole
from didact.feedback_source import FeedbackRequest
from didact.types import Feedback, Provenance, Span

RIGHT = "The answer is right."
WRONG = "The answer is wrong."
FAULTS = ("too low", "too high", "wrong")
"""The faults that level `direction` distinguishes, in the order of its sentences."""


class Level(StrEnum):
    """How much a critique reveals."""

    VERDICT = "verdict"
    HINT = "hint"
    DIRECTION = "direction"
    REVEAL = "reveal"


class ProgramCritic:
    """Writes critiques from a problem's reference.

    Args:
        level: How much a critique reveals.
        max_mistakes: The most mistakes that are named, so that a critique stays readable.
        spans: Add the spans of right and wrong elements.
    """

    def __init__(
        self, level: Level | str = Level.REVEAL, *, max_mistakes: int = 16, spans: bool = True
    ) -> None:
        self.level = Level(level)
        self.max_mistakes = max_mistakes
        self.with_spans = spans

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order; it has failed if the problem has no reference."""
        return [self._one(request) for request in requests]

    def _one(self, request: FeedbackRequest) -> Feedback:
        reference, turn, author = request.problem.reference, request.turn, f"program:{self.level}"
        if reference is None:
            return Feedback(
                turn=request.index, source="program", status="failed", saw_reference=False,
                error=f"problem {request.problem.id!r} has no reference to compare with",
                error_kind="missing_reference",
                provenance=Provenance(author=author),
            )  # fmt: skip
        # A verifier may reject what equals the reference; "wrong" without a mistake would teach nonsense.
        right = turn.correct or turn.text.strip() == reference.strip()
        text = RIGHT if right else self.text(turn.text, reference)
        found: tuple[Span, ...] = ()
        if self.with_spans:
            found = whole(turn.text, "good", RIGHT) if right else self.spans(turn.text, reference)
        return program_feedback(request, author, text, found, right=right)

    def text(self, answer: str, reference: str) -> str:
        """The critique of a wrong answer."""
        if self.level is Level.VERDICT:
            return WRONG
        return " ".join([WRONG, *(sentence for sentence, _ in self._mistakes(_compare(answer, reference)))])

    def spans(self, answer: str, reference: str) -> tuple[Span, ...]:
        """The spans of a wrong answer, poor ones with their sentence of `text`; none at level `verdict`."""
        if self.level is Level.VERDICT:
            return ()
        both = _compare(answer, reference)
        right = [i for i, w in enumerate(both.want[: len(both.got)]) if both.got[i] == w]
        found = spans(answer, runs(both.places, right), "good")
        for sentence, elements in self._mistakes(both):
            found += spans(answer, runs(both.places, elements), "poor", sentence)
        return in_order(found)

    def _mistakes(self, both: _Elements) -> list[tuple[str, Sequence[int]]]:
        """Sentences about a wrong answer, each with the indices of the elements that it calls wrong."""
        unit, got, want = both.unit, both.got, both.want
        found: list[tuple[str, Sequence[int]]] = []
        if len(got) != len(want):
            size = f"It should have {len(want)} {unit}{'s' * (len(want) != 1)}, not {len(got)}."
            found.append((size, range(len(want), len(got))))
        wrong = [i for i, w in enumerate(want) if i >= len(got) or got[i] != w]
        wrong = wrong[: self.max_mistakes]
        if self.level is Level.REVEAL:
            found += [(f"{unit.capitalize()} {i + 1} should be {want[i]}.", [i]) for i in wrong]
        elif self.level is Level.DIRECTION:
            faults = [_direction(got[i], want[i]) if i < len(got) else "wrong" for i in wrong]
            kinds = [(kind, [i for i, f in zip(wrong, faults, strict=True) if f == kind]) for kind in FAULTS]
            found += [(_sentence(unit, elements, kind), elements) for kind, elements in kinds if elements]
        elif wrong:
            found.append((_sentence(unit, wrong, "wrong"), wrong))
        return found


def _direction(got: str, want: str) -> str:
    """The fault of a wrong element: "too low", "too high", or "wrong" if they are not two numbers."""
    if not all(re.fullmatch(r"-?[0-9]{1,15}", x) for x in (got, want)) or int(got) == int(want):
        return "wrong"
    return "too low" if int(got) < int(want) else "too high"


def _sentence(unit: str, elements: Sequence[int], fault: str) -> str:
    """One sentence about elements with the same fault."""
    head, last = ", ".join(str(i + 1) for i in elements[:-1]), elements[-1] + 1
    if head:
        return f"{unit.capitalize()}s {head} and {last} are {fault}."
    return f"{unit.capitalize()} {last} is {fault}."


class _Elements(NamedTuple):
    """An answer and its reference in words if the reference has several, else in characters."""

    unit: str
    got: list[str]
    want: list[str]
    places: list[Place]
    """The place of each element of the answer."""


def _compare(answer: str, reference: str) -> _Elements:
    if len(reference.split()) > 1:
        words = [m.span() for m in re.finditer(r"\S+", answer)]
        return _Elements("word", answer.split(), reference.split(), words)
    first, last = len(answer) - len(answer.lstrip()), len(answer.rstrip())
    characters = [(i, i + 1) for i in range(first, last)]
    return _Elements("character", list(answer.strip()), list(reference.strip()), characters)
