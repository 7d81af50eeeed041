"""Critics that are programs: a comparison with the reference, and one fixed sentence.

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
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

from didact.feedback_source import FeedbackRequest
from didact.types import Feedback, Span

RIGHT = "The answer is right."
WRONG = "The answer is wrong."
OUTCOME_ONLY = "That is wrong. Try again."
FAULTS = ("too low", "too high", "wrong")
"""The faults that level `direction` distinguishes, in the order of its sentences."""
Place: TypeAlias = tuple[int, int]
"""(first character, one past the last)."""


class Level(StrEnum):
    """How much a critique reveals."""

    VERDICT = "verdict"
    HINT = "hint"
    DIRECTION = "direction"
    REVEAL = "reveal"


class Mistake(NamedTuple):
    """A sentence about an answer, and the places that it calls wrong."""

    sentence: str
    places: Sequence[Place] = ()


class Diagnosis(NamedTuple):
    """The mistakes of a wrong answer, and the places that agree with the solution."""

    mistakes: Sequence[Mistake] = ()
    right: Sequence[Place] = ()

    def text(self) -> str:
        """The critique."""
        return " ".join([WRONG, *(mistake.sentence for mistake in self.mistakes)])

    def spans(self, answer: str) -> tuple[Span, ...]:
        """Right places as good spans and wrong ones as poor spans with their sentence, in order."""
        found = spans(answer, self.right, "good")
        for sentence, places in self.mistakes:
            found += spans(answer, places, "poor", sentence)
        return in_order(found)


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
        self.level, self.max_mistakes, self.with_spans = Level(level), max_mistakes, spans

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order; it has failed if the problem has no reference."""
        return [self._one(request) for request in requests]

    def _one(self, request: FeedbackRequest) -> Feedback:
        reference, turn, author = request.problem.reference, request.turn, f"program:{self.level}"
        if reference is None:
            error = f"problem {request.problem.id!r} has no reference to compare with"
            return request.failed(error, author=author, error_kind="missing_reference")
        # A verifier may reject what equals the reference; "wrong" without a mistake would teach nonsense.
        right = turn.correct or turn.answer.strip() == reference.strip()
        found = None if right else self._read(turn.answer, reference)
        return program_feedback(request, author, found, with_spans=self.with_spans)

    def text(self, answer: str, reference: str) -> str:
        """The critique of a wrong answer."""
        return self._read(answer, reference).text()

    def spans(self, answer: str, reference: str) -> tuple[Span, ...]:
        """The spans of a wrong answer, poor ones with their sentence of `text`; none at level `verdict`."""
        return self._read(answer, reference).spans(answer)

    def _read(self, answer: str, reference: str) -> Diagnosis:
        if self.level is Level.VERDICT:
            return Diagnosis()
        if len(reference.split()) > 1:
            unit, got, want = "word", answer.split(), reference.split()
            places = [m.span() for m in re.finditer(r"\S+", answer)]
        else:
            unit, got, want = "character", list(answer.strip()), list(reference.strip())
            first = len(answer) - len(answer.lstrip())
            places = [(i, i + 1) for i in range(first, first + len(got))]
        right = [i for i, w in enumerate(want[: len(got)]) if got[i] == w]
        found = self._mistakes(unit, got, want)
        return Diagnosis([Mistake(s, runs(places, wrong)) for s, wrong in found], runs(places, right))

    def _mistakes(
        self, unit: str, got: Sequence[str], want: Sequence[str]
    ) -> list[tuple[str, Sequence[int]]]:
        """Sentences about a wrong answer, each with the indices of the elements that it calls wrong."""
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


class OutcomeOnlyTeacher:
    """Gives the same sentence as the critique of every answer: the baseline of a second attempt.

    The sentence is true only of wrong answers; `rollouts.tutored_dialogue` requests no other critique.
    """

    def __init__(self, text: str = OUTCOME_ONLY) -> None:
        self.text = text

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order."""
        return [
            r.reply(self.text, author="program:retry", label="wrong", saw_reference=False) for r in requests
        ]


def program_feedback(
    request: FeedbackRequest, author: str, found: Diagnosis | None, *, with_spans: bool
) -> Feedback:
    """The feedback on a wrong answer, or on a right one (None); its score is the reward of the turn."""
    answer = request.turn.answer
    marks: tuple[Span, ...] = ()
    if with_spans:
        marks = whole(answer, "good", RIGHT) if found is None else found.spans(answer)
    return request.reply(
        RIGHT if found is None else found.text(),
        author=author,
        saw_reference=True,
        score=request.turn.reward,
        label="right" if found is None else "wrong",
        spans=marks,
    )


def whole(answer: str, label: Literal["good", "poor"], phrase: str) -> tuple[Span, ...]:
    """The whole answer without the white space around it; no span of a blank one.

    >>> [s.quote for s in whole(" nus\\n", "good", "The answer is right.")]
    ['nus']
    """
    start = len(answer) - len(answer.lstrip())
    return spans(answer, [(start, len(answer.rstrip()))], label, phrase)


def spans(
    answer: str, places: Iterable[Place], label: Literal["good", "poor"], phrase: str | None = None
) -> tuple[Span, ...]:
    """Places of an answer as spans, without empty ones."""
    return tuple(
        Span(start=start, end=end, quote=answer[start:end], label=label, phrase=phrase)
        for start, end in places
        if start < end
    )


def runs(places: Sequence[Place], chosen: Iterable[int]) -> list[Place]:
    """The places of chosen elements, with neighbours joined; indices out of range are left out.

    >>> runs([(0, 1), (2, 3), (4, 5), (6, 7)], [0, 1, 3, 9])
    [(0, 3), (6, 7)]
    """
    found: list[Place] = []
    before = None
    for i in sorted(chosen):
        if i >= len(places):
            break
        if before is not None and i == before + 1:
            found[-1] = found[-1][0], places[i][1]
        else:
            found.append(places[i])
        before = i
    return found


def in_order(found: Iterable[Span]) -> tuple[Span, ...]:
    """Spans ordered by place."""
    return tuple(sorted(found, key=lambda s: (s.start, s.end, s.label)))


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
