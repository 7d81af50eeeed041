"""What the leak meter finds: a kind, the words that give it away, and how much they tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

LeakKind: TypeAlias = Literal["verbatim", "number", "spelled", "partial", "judge"]
"""verbatim: the answer up to case, punctuation and markup. number: its value in another form (dates too).
spelled: character by character or word by word. partial: most of it. judge: a model says so."""

MOST = 0.6
"""The share of the reference, beyond what question and answer hold, from which telling a part is a leak."""


class Evidence(NamedTuple):
    """Words of a critique that give the answer away: `quote == critique[start:end]`."""

    start: int
    """First character, counted in Unicode code points."""
    end: int
    """One past the last character."""
    quote: str


class Leak(NamedTuple):
    """What the meter says about one critique.

    >>> Leak(False, None, (), 0.0).quote
    ''
    """

    leaks: bool
    kind: LeakKind | None
    """None where nothing leaks."""
    evidence: tuple[Evidence, ...]
    """Every stretch that gives it away, in order and apart from each other; empty where nothing leaks."""
    overlap: float
    """The share of the reference that is told, in [0, 1], beyond what question and answer hold. Below
    `MOST` it may be above 0 without a leak."""

    @property
    def quote(self) -> str:
        """The first evidence; empty where nothing leaks."""
        return self.evidence[0].quote if self.evidence else ""

    @classmethod
    def none(cls, overlap: float = 0.0) -> Leak:
        """No leak; a part below `MOST` may be told all the same."""
        return cls(False, None, (), overlap)

    @classmethod
    def at(
        cls, kind: LeakKind, critique: str, spans: Iterable[tuple[int, int]], overlap: float = 1.0
    ) -> Leak:
        """A leak with its evidence; spans that touch or overlap become one."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return cls(True, kind, tuple(Evidence(s, e, critique[s:e]) for s, e in merged), overlap)
