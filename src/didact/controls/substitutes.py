"""Controls that replace the critique by a fixed or known text, without calling the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from didact.controls.base import Control, Verify
from didact.feedback.program import RIGHT, WRONG
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.types import ErrorKind, Feedback, Provenance

SubstituteName: TypeAlias = Literal["verdict", "reference", "second-try"]
SUBSTITUTES: tuple[SubstituteName, ...] = get_args(SubstituteName)
SECOND_TRY = "Please answer once more."
"""The text of `second-try`."""


class Substitute(Control):
    """`verdict`: right or wrong. `reference`: the reference. `second-try`: a request without information."""

    name: SubstituteName

    @property
    def repeats_by_design(self) -> bool:
        return True

    def critique(
        self, requests: Sequence[FeedbackRequest], source: FeedbackSource, seed: int, verify: Verify | None
    ) -> list[Feedback]:
        """The control's text for every request; failed where the verdict or the reference is missing."""
        return [WRITERS[self.name](request) for request in requests]


def _verdict(request: FeedbackRequest) -> Feedback:
    if request.turn.reward is None:
        return _failed(request, "verdict", "nothing verified the answer, so there is no verdict")
    right = request.turn.correct
    text, label = (RIGHT, "right") if right else (WRONG, "wrong")
    written = _written(request, "verdict", text, saw_reference=True)
    return written.model_copy(update={"label": label})


def _reference(request: FeedbackRequest) -> Feedback:
    if request.problem.reference is None:
        error = f"problem {request.problem.id!r} has no reference"
        return _failed(request, "reference", error, "missing_reference")
    written = _written(request, "reference", request.problem.reference, saw_reference=True)
    return written.model_copy(update={"leaks": True})


def _second_try(request: FeedbackRequest) -> Feedback:
    return _written(request, "second-try", SECOND_TRY, saw_reference=False)


WRITERS: Mapping[SubstituteName, Callable[[FeedbackRequest], Feedback]] = {
    "verdict": _verdict,
    "reference": _reference,
    "second-try": _second_try,
}


def _written(
    request: FeedbackRequest, control: SubstituteName, text: str, *, saw_reference: bool
) -> Feedback:
    return Feedback(
        turn=request.index,
        text=text,
        source="program",
        saw_reference=saw_reference,
        provenance=Provenance(author="control", control=control),
    )


def _failed(
    request: FeedbackRequest, control: SubstituteName, error: str, kind: ErrorKind | None = None
) -> Feedback:
    return Feedback(
        turn=request.index,
        source="program",
        status="failed",
        error=error,
        error_kind=kind,
        saw_reference=False,
        provenance=Provenance(author="control", control=control),
    )
