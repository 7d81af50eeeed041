"""Where critiques come from: one door for all sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from didact.types import Feedback, Problem, Turn


@dataclass(frozen=True)
class FeedbackRequest:
    """One answer to be criticised."""

    problem: Problem
    turn: Turn
    index: int
    """Which turn of its rollout it is; the feedback's `turn`."""


class FeedbackSource(Protocol):
    """Says something about answers, in batches; concurrent inside where that helps."""

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order. A failure is a failed feedback, never an exception
        and never a score of 0."""
        ...
