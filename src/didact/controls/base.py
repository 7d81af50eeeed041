"""The interface of an experiment control, and the source that applies one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict

from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.tasks.base import Verdict
from didact.types import Feedback, Problem, Provenance

Verify: TypeAlias = Callable[[Problem, str], Verdict]
"""A task's verifier."""


class Control(BaseModel):
    """Settings of one control. It writes, deals or alters critiques, given the uncontrolled source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    repeats_by_design: ClassVar[bool] = False
    """Its critiques are expected to repeat, so that repetition is no alarm."""
    replaces_reference: ClassVar[bool] = False
    """It shows the source a false solution in place of the reference."""

    name: str

    @property
    def critiques_correct_answers(self) -> bool:
        """See `FeedbackSource`."""
        return False

    def critique(
        self, requests: Sequence[FeedbackRequest], source: FeedbackSource, seed: int, verify: Verify | None
    ) -> list[Feedback]:
        """One feedback a request, in order."""
        raise NotImplementedError


@dataclass(frozen=True)
class ControlledSource:
    """A feedback source under a control."""

    control: Control
    source: FeedbackSource
    seed: int = 0
    verify: Verify | None = None

    @property
    def critiques_correct_answers(self) -> bool:
        return self.control.critiques_correct_answers

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        return self.control.critique(requests, self.source, self.seed, self.verify)


def altered(feedback: Feedback, control: str, **changes: Any) -> Feedback:
    """A copy with some fields changed and the control recorded in its provenance.

    The score is removed: it rates the original pairing of answer and critique.
    """
    provenance = feedback.provenance.model_copy(update={"control": control})
    return feedback.model_copy(update={"score": None, **changes, "provenance": provenance})


def authored(
    request: FeedbackRequest, control: str, *, saw_reference: bool = False, **fields: Any
) -> Feedback:
    """A feedback that the control writes itself."""
    return Feedback(
        turn=request.index,
        source="program",
        saw_reference=saw_reference,
        provenance=Provenance(author="control", control=control),
        **fields,
    )


def judged(request: FeedbackRequest, problem: Problem, *, right: bool) -> FeedbackRequest:
    """The same answer to another problem, or under another reference, with its verdict there."""
    turn = request.turn.model_copy(update={"reward": float(right), "correct": right})
    return replace(request, problem=problem, turn=turn)
