"""A critic that is a program: it compares an answer with the reference and says what differs.

Four levels, from least to most telling:

    verdict     "The answer is wrong."
    hint        … "It should have 6 characters, not 5. Characters 1 and 4 are wrong."
    direction   … "It should have 3 characters, not 2. Character 1 is too low. Character 3 is wrong."
    reveal      … "It should have 6 characters, not 5. Character 1 should be n. Character 4 should be t."

`hint` says where, `direction` also says of a digit in a digit's place, or of a whole number in a number's,
whether it is too low or too high, and `reveal` says what should stand there. An answer of several words is
compared word by word, any other character by character.

The same comparison says where: wrong and surplus elements are poor spans with the sentence that names them,
runs of right ones are good spans. A level `verdict` names no place, so a wrong answer has none there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from didact.feedback.answer_spans import Place, in_order, runs, spans, whole
from didact.feedback_source import FeedbackRequest
from didact.types import Feedback, Provenance, Span

RIGHT = "The answer is right."
WRONG = "The answer is wrong."
FAULTS = ("too low", "too high", "wrong")
"""What is said of wrong elements at level `direction`, in this order."""


class Level(StrEnum):
    """How much a critique tells."""

    VERDICT = "verdict"
    HINT = "hint"
    DIRECTION = "direction"
    REVEAL = "reveal"


class ProgramCritic:
    """Writes critiques from a problem's reference.

    Args:
        level: How much a critique tells.
        max_mistakes: At most this many mistakes are named, so that a critique stays readable.
        spans: Say where, too.
    """

    def __init__(
        self, level: Level | str = Level.REVEAL, *, max_mistakes: int = 16, spans: bool = True
    ) -> None:
        self.level = Level(level)
        self.max_mistakes = max_mistakes
        self.with_spans = spans

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        return [self._one(request) for request in requests]

    def _one(self, request: FeedbackRequest) -> Feedback:
        reference, turn = request.problem.reference, request.turn
        provenance = Provenance(author=f"program:{self.level}")
        if reference is None:
            return Feedback(
                turn=request.index, source="program", status="failed", saw_reference=False,
                error=f"problem {request.problem.id!r} has no reference to compare with",
                error_kind="missing_reference",
                provenance=provenance,
            )  # fmt: skip
        # A verifier may refuse what equals the reference; "wrong" without a mistake would teach nonsense.
        right = turn.correct or turn.text.strip() == reference.strip()
        text = RIGHT if right else self.text(turn.text, reference)
        found = whole(turn.text, "good", RIGHT) if right else self.spans(turn.text, reference)
        return Feedback(
            turn=request.index, text=text, source="program", label="right" if right else "wrong",
            score=turn.reward, spans=found if self.with_spans else (), saw_reference=True,
            provenance=provenance,
        )  # fmt: skip

    def text(self, answer: str, reference: str) -> str:
        """The critique of a wrong answer."""
        if self.level is Level.VERDICT:
            return WRONG
        return " ".join([WRONG, *(said for said, _ in self._told(_compared(answer, reference)))])

    def spans(self, answer: str, reference: str) -> tuple[Span, ...]:
        """Where a wrong answer is wrong, each with the sentence of `text` that says so, and where it is
        right; nothing at level `verdict`."""
        if self.level is Level.VERDICT:
            return ()
        both = _compared(answer, reference)
        right = [i for i, w in enumerate(both.want[: len(both.got)]) if both.got[i] == w]
        found = spans(answer, runs(both.places, right), "good")
        for said, elements in self._told(both):
            found += spans(answer, runs(both.places, elements), "poor", said)
        return in_order(found)

    def _told(self, both: _Compared) -> list[tuple[str, Sequence[int]]]:
        """What is said of a wrong answer, each sentence with the elements that it calls wrong."""
        unit, got, want = both.unit, both.got, both.want
        told: list[tuple[str, Sequence[int]]] = []
        if len(got) != len(want):
            size = f"It should have {len(want)} {unit}{'s' * (len(want) != 1)}, not {len(got)}."
            told.append((size, range(len(want), len(got))))
        wrong = [i for i, w in enumerate(want) if i >= len(got) or got[i] != w]
        wrong = wrong[: self.max_mistakes]
        if self.level is Level.REVEAL:
            told += [(f"{unit.capitalize()} {i + 1} should be {want[i]}.", [i]) for i in wrong]
        elif self.level is Level.DIRECTION:
            faults = [_direction(got[i], want[i]) if i < len(got) else "wrong" for i in wrong]
            kinds = [(kind, [i for i, f in zip(wrong, faults, strict=True) if f == kind]) for kind in FAULTS]
            told += [(_listed(unit, elements, kind), elements) for kind, elements in kinds if elements]
        elif wrong:
            told.append((_listed(unit, wrong, "wrong"), wrong))
        return told


def _direction(got: str, want: str) -> str:
    """What a wrong element is: "too low", "too high", or just "wrong" where it is not two numbers."""
    if not all(re.fullmatch(r"-?[0-9]{1,15}", x) for x in (got, want)) or int(got) == int(want):
        return "wrong"
    return "too low" if int(got) < int(want) else "too high"


def _listed(unit: str, elements: Sequence[int], what: str) -> str:
    """One sentence that says the same of some elements."""
    head, last = ", ".join(str(i + 1) for i in elements[:-1]), elements[-1] + 1
    if head:
        return f"{unit.capitalize()}s {head} and {last} are {what}."
    return f"{unit.capitalize()} {last} is {what}."


class _Compared(NamedTuple):
    """An answer and its reference in elements: words where the reference has several, else characters."""

    unit: str
    got: list[str]
    want: list[str]
    places: list[Place]
    """Where each element of the answer stands in it."""


def _compared(answer: str, reference: str) -> _Compared:
    if len(reference.split()) > 1:
        words = [m.span() for m in re.finditer(r"\S+", answer)]
        return _Compared("word", answer.split(), reference.split(), words)
    first, last = len(answer) - len(answer.lstrip()), len(answer.rstrip())
    characters = [(i, i + 1) for i in range(first, last)]
    return _Compared("character", list(answer.strip()), list(reference.strip()), characters)
