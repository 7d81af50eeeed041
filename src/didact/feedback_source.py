"""Where critiques come from: one door for all sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from didact.types import Feedback, Problem, Turn

FAILURE_WINDOW = 64
"""Number of latest critiques or scores over which a failure rate is measured."""


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
    rollout: str | None = None
    """Which rollout it is, where there is one: what a source draws may differ between rollouts."""


class FeedbackSource(Protocol):
    """Says something about answers, in batches; concurrent inside where that helps."""

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order. A failure is a failed feedback, never an exception
        and never a score of 0."""
        ...


def speaks_after_right(source: FeedbackSource | None) -> bool:
    """Is a source to be asked about right answers too, although it may tell the truth about them?

    A source says so with a true attribute `speaks_after_right`; one that wraps another in `source` speaks
    for it. A dialogue then asks about every answer. It ends at a right answer of which nothing false was
    said (`didact.controls.adversarial_teacher.is_false`), and goes on after one of which something was.
    """
    while source is not None:
        if getattr(source, "speaks_after_right", False):
            return True
        source = getattr(source, "source", None)
    return False
