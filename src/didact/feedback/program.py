"""A critic that is a program: it compares an answer with the reference and says what differs.

Three levels, from least to most telling:

    verdict   "The answer is wrong."
    hint      … "It should have 6 characters, not 5. Characters 1 and 4 are wrong."
    reveal    … "It should have 6 characters, not 5. Character 1 should be n. Character 4 should be t."

`hint` says where, `reveal` also says what. An answer of several words is compared word by word,
any other character by character.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from didact.feedback.base import FeedbackRequest
from didact.types import Feedback, Provenance

RIGHT = "The answer is right."
WRONG = "The answer is wrong."


class Level(StrEnum):
    """How much a critique tells."""

    VERDICT = "verdict"
    HINT = "hint"
    REVEAL = "reveal"


class ProgramCritic:
    """Writes critiques from a problem's reference.

    Args:
        level: How much a critique tells.
        max_mistakes: At most this many mistakes are named, so that a critique stays readable.
    """

    def __init__(self, level: Level | str = Level.REVEAL, *, max_mistakes: int = 16) -> None:
        self.level = Level(level)
        self.max_mistakes = max_mistakes

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        return [self._one(request) for request in requests]

    def _one(self, request: FeedbackRequest) -> Feedback:
        reference, turn = request.problem.reference, request.turn
        provenance = Provenance(author=f"program:{self.level}")
        if reference is None:
            return Feedback(
                turn=request.index, source="program", status="failed", saw_reference=False,
                error=f"problem {request.problem.id!r} has no reference to compare with",
                provenance=provenance,
            )  # fmt: skip
        # A verifier may refuse what equals the reference; "wrong" without a mistake would teach nonsense.
        right = turn.correct or turn.text.strip() == reference.strip()
        text = RIGHT if right else self.text(turn.text, reference)
        return Feedback(
            turn=request.index, text=text, source="program", label="right" if right else "wrong",
            score=turn.reward, saw_reference=True, provenance=provenance,
        )  # fmt: skip

    def text(self, answer: str, reference: str) -> str:
        """The critique of a wrong answer."""
        if self.level is Level.VERDICT:
            return WRONG
        unit, got, want = _elements(answer.strip(), reference.strip())
        told = [WRONG]
        if len(got) != len(want):
            told.append(f"It should have {len(want)} {unit}{'s' * (len(want) != 1)}, not {len(got)}.")
        wrong = [i for i, w in enumerate(want) if i >= len(got) or got[i] != w]
        wrong = wrong[: self.max_mistakes]
        if self.level is Level.REVEAL:
            told += [f"{unit.capitalize()} {i + 1} should be {want[i]}." for i in wrong]
        elif wrong:
            places = [str(i + 1) for i in wrong]
            head, last = ", ".join(places[:-1]), places[-1]
            told.append(
                f"{unit.capitalize()}s {head} and {last} are wrong."
                if head
                else f"{unit.capitalize()} {last} is wrong."
            )
        return " ".join(told)


def _elements(answer: str, reference: str) -> tuple[str, list[str], list[str]]:
    """What to compare: words where the reference has several, else characters."""
    if len(reference.split()) > 1:
        return "word", answer.split(), reference.split()
    return "character", list(answer), list(reference)
