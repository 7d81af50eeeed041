"""Where critiques come from: one door for all sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from didact.types import Feedback, Problem, Turn


class Exchange(NamedTuple):
    """An earlier answer of a dialogue and what was said about it."""

    answer: str
    critique: str


@dataclass(frozen=True)
class FeedbackRequest:
    """One answer to be criticised."""

    problem: Problem
    turn: Turn
    index: int
    """Which turn of its rollout it is; the feedback's `turn`."""
    earlier: tuple[Exchange, ...] = ()
    """Of a dialogue, what the student still has in view from before this answer; sources may ignore it."""


class FeedbackSource(Protocol):
    """Says something about answers, in batches; concurrent inside where that helps."""

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order. A failure is a failed feedback, never an exception
        and never a score of 0."""
        ...
