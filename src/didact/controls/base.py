"""The interface of an experiment control, and the source that applies one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict

from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.tasks.base import Verdict
from didact.types import Feedback, Problem

Verify: TypeAlias = Callable[[Problem, str], Verdict]
"""A task's verifier."""


class Control(BaseModel):
    """Settings of one control. It writes, deals or alters critiques, given the uncontrolled source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str

    @property
    def repeats_by_design(self) -> bool:
        """Are its critiques expected to repeat, so that repetition is no alarm?"""
        return False

    @property
    def replaces_reference(self) -> bool:
        """Does it show the source a false solution in place of the reference?"""
        return False

    @property
    def critiques_correct_answers(self) -> bool:
        """See `FeedbackSource`."""
        return False

    def critique(
        self, requests: Sequence[FeedbackRequest], source: FeedbackSource, seed: int, verify: Verify | None
    ) -> list[Feedback]:
        """One feedback a request, in order.

        Args:
            requests: The answers to be criticised.
            source: The uncontrolled source.
            seed: Seed of the control's draws.
            verify: The task's verifier.
        """
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
        """One feedback a request, in order, as the control makes them."""
        return self.control.critique(requests, self.source, self.seed, self.verify)


def altered(feedback: Feedback, control: str, **changes: Any) -> Feedback:
    """A copy with some fields changed and the control recorded in its provenance.

    The score is removed: it rates the original pairing of answer and critique.
    """
    provenance = feedback.provenance.model_copy(update={"control": control})
    return feedback.model_copy(update={"score": None, **changes, "provenance": provenance})
