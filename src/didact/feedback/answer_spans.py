"""Spans of an answer that a program's critique points to, and the feedback of such a critique."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from didact.feedback_source import FeedbackRequest
from didact.types import Feedback, Provenance, Span

Place: TypeAlias = tuple[int, int]
"""(first character, one past the last)."""


def program_feedback(
    request: FeedbackRequest,
    author: str,
    text: str,
    spans: Sequence[Span],
    *,
    right: bool,
    saw_reference: bool = True,
) -> Feedback:
    """The feedback of a program on a right or wrong answer; its score is the reward of the turn."""
    return Feedback(
        turn=request.index,
        text=text,
        source="program",
        score=request.turn.reward,
        label="right" if right else "wrong",
        spans=tuple(spans),
        saw_reference=saw_reference,
        provenance=Provenance(author=author),
    )


def whole(answer: str, label: Literal["good", "poor"], phrase: str) -> tuple[Span, ...]:
    """The whole answer without the white space around it; no span of a blank one.

    >>> [s.quote for s in whole(" nus\\n", "good", "The answer is right.")]
    ['nus']
    """
    start = len(answer) - len(answer.lstrip())
    return spans(answer, [(start, len(answer.rstrip()))], label, phrase)


def spans(
    answer: str, places: Iterable[Place], label: Literal["good", "poor"], phrase: str | None = None
) -> tuple[Span, ...]:
    """Places of an answer as spans, without empty ones."""
    return tuple(
        Span(start=start, end=end, quote=answer[start:end], label=label, phrase=phrase)
        for start, end in places
        if start < end
    )


def runs(places: Sequence[Place], chosen: Iterable[int]) -> list[Place]:
    """The places of chosen elements, with neighbours joined; indices out of range are left out.

    >>> runs([(0, 1), (2, 3), (4, 5), (6, 7)], [0, 1, 3, 9])
    [(0, 3), (6, 7)]
    """
    found: list[Place] = []
    before = None
    for i in sorted(chosen):
        if i >= len(places):
            break
        if before is not None and i == before + 1:
            found[-1] = found[-1][0], places[i][1]
        else:
            found.append(places[i])
        before = i
    return found


def in_order(found: Iterable[Span]) -> tuple[Span, ...]:
    """Spans ordered by place."""
    return tuple(sorted(found, key=lambda s: (s.start, s.end, s.label)))
