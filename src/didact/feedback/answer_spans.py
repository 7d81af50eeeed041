"""Where a program's critique points to: elements of an answer as spans, where the place is known exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from didact.types import Span

Place: TypeAlias = tuple[int, int]
"""(first character, one past the last)."""


def whole(answer: str, label: Literal["good", "poor"], phrase: str) -> tuple[Span, ...]:
    """All of an answer without the white space around it; nothing of a blank one.

    >>> [s.quote for s in whole(" nus\\n", "good", "The answer is right.")]
    ['nus']
    """
    start = len(answer) - len(answer.lstrip())
    return spans(answer, [(start, len(answer.rstrip()))], label, phrase)


def spans(
    answer: str, places: Iterable[Place], label: Literal["good", "poor"], phrase: str | None = None
) -> tuple[Span, ...]:
    """Places of an answer as spans; empty ones make none."""
    return tuple(
        Span(start=start, end=end, quote=answer[start:end], label=label, phrase=phrase)
        for start, end in places
        if start < end
    )


def runs(places: Sequence[Place], chosen: Iterable[int]) -> list[Place]:
    """Chosen elements, neighbours as one place; those that the answer does not have are left out.

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
    """Spans by where they stand."""
    return tuple(sorted(found, key=lambda s: (s.start, s.end, s.label)))
