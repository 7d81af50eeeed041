"""The interface of an experiment control."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict

from didact.feedback_source import FeedbackSource
from didact.tasks.base import Verdict
from didact.types import Feedback, Problem

Verify: TypeAlias = Callable[[Problem, str], Verdict]
"""A task's verifier."""


class Control(BaseModel):
    """Settings of one control, which wraps a feedback source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str

    @property
    def repeats_by_design(self) -> bool:
        """Are its critiques expected to repeat, so that repetition is no alarm?"""
        return False

    @property
    def needs_reference(self) -> bool:
        """Does it work only with a source that compares the answer with a textual reference?"""
        return False

    def wrap(self, source: FeedbackSource, *, seed: int = 0, verify: Verify | None = None) -> FeedbackSource:
        """The source that a method reads under this control.

        Args:
            source: The uncontrolled source.
            seed: Seed of the control's draws.
            verify: The task's verifier.
        """
        raise NotImplementedError


def altered(feedback: Feedback, control: str, **changes: Any) -> Feedback:
    """A copy with some fields changed and the control recorded in its provenance.

    The score is removed: it rates the original pairing of answer and critique.
    """
    provenance = feedback.provenance.model_copy(update={"control": control})
    return feedback.model_copy(update={"score": None, **changes, "provenance": provenance})
