"""The interface of feedback sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from didact.types import ErrorKind, Feedback, FeedbackSourceName, Problem, Provenance, Span, Turn

FAILURE_WINDOW = 64
"""Number of latest critiques or scores over which a failure rate is measured."""


class Exchange(NamedTuple):
    """An earlier answer of a dialogue and its critique."""

    answer: str
    critique: str


@dataclass(frozen=True)
class FeedbackRequest:
    """One answer to be criticised."""

    problem: Problem
    turn: Turn
    index: int
    """Index of the turn in its rollout; becomes the feedback's `turn`."""
    earlier: tuple[Exchange, ...] = ()
    """The earlier exchanges of a dialogue that the student still sees; sources may ignore them."""
    rollout: str | None = None
    """Id of the rollout, if any; a source may draw differently for different rollouts."""

    def reply(
        self,
        text: str,
        *,
        author: str,
        saw_reference: bool,
        source: FeedbackSourceName = "program",
        spans: Sequence[Span] = (),
        score: float | None = None,
        label: str | None = None,
    ) -> Feedback:
        """A critique of this answer.

        Args:
            saw_reference: Whether the critique could use the private reference.
            spans: Quoted passages of the turn's answer, which begins at 0.
        """
        feedback = Feedback(
            turn=self.index,
            text=text,
            source=source,
            score=score,
            label=label,
            spans=tuple(spans),
            saw_reference=saw_reference,
            provenance=Provenance(author=author),
        )
        return in_completion(feedback, self)

    def failed(
        self,
        error: str,
        *,
        author: str,
        source: FeedbackSourceName = "program",
        error_kind: ErrorKind | None = None,
    ) -> Feedback:
        """A failed feedback of an author who saw no reference, with its reason."""
        return Feedback(
            turn=self.index,
            source=source,
            status="failed",
            error=error,
            error_kind=error_kind,
            saw_reference=False,
            provenance=Provenance(author=author),
        )


def answer_alone(request: FeedbackRequest, *, whole: bool = False) -> FeedbackRequest:
    """The request without the thoughts before the answer, or with them as if they were a part of it."""
    turn = request.turn
    if not turn.answer_from:
        return request
    text = turn.text if whole else turn.answer
    return replace(request, turn=turn.model_copy(update={"text": text, "answer_from": 0}))


def in_completion(feedback: Feedback, request: FeedbackRequest) -> Feedback:
    """A critique of the answer alone, with its spans at their places in the whole completion."""
    first = request.turn.answer_from
    if not first or not feedback.spans:
        return feedback
    moved = [s.model_copy(update={"start": s.start + first, "end": s.end + first}) for s in feedback.spans]
    return feedback.model_copy(update={"spans": tuple(moved)})


class FeedbackSource(Protocol):
    """Criticises answers in batches, concurrently inside where that helps.

    Optional attribute `critiques_correct_answers: bool` (default False): dialogues also ask about correct
    answers, and continue after a correct answer whose critique is `misleading`. Optional attribute
    `reads_completions: bool` (default False): requests have the thoughts before an answer in `turn.text`.
    """

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order.

        A failure is a feedback with status "failed", never an exception and never a score of 0.
        """
        ...


def critiques_correct_answers(source: FeedbackSource | None) -> bool:
    """The optional attribute of a source; False where it is missing."""
    return bool(getattr(source, "critiques_correct_answers", False))
