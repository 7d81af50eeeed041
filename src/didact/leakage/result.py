"""The result of the leak meter: a kind, the evidence, and the share of the reference that is given away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

LeakKind: TypeAlias = Literal["verbatim", "number", "spelled", "partial", "judge"]
"""verbatim: the answer up to case, punctuation and markup. number: its value in another form (dates too).
spelled: character by character or word by word. partial: most of it. judge: found by a model."""

PARTIAL_SHARE = 0.6
"""From this share of the reference on, beyond what question and answer hold, a part of it is a leak."""


class Evidence(NamedTuple):
    """A place in a critique that gives the answer away: `quote == critique[start:end]`."""

    start: int
    """First character, in Unicode code points."""
    end: int
    """One past the last character."""
    quote: str


class Leak(NamedTuple):
    """The result for one critique.

    >>> Leak(False, None, (), 0.0).quote
    ''
    """

    leaks: bool
    kind: LeakKind | None
    """None without a leak."""
    evidence: tuple[Evidence, ...]
    """Every stretch that gives the answer away, ordered and disjoint; empty without a leak."""
    overlap: float
    """The share of the reference that is given away, in [0, 1], beyond what question and answer hold. It may
    lie between 0 and `PARTIAL_SHARE` without a leak."""

    @property
    def quote(self) -> str:
        """The first evidence; empty without a leak."""
        return self.evidence[0].quote if self.evidence else ""

    @classmethod
    def none(cls, overlap: float = 0.0) -> Leak:
        """No leak."""
        return cls(False, None, (), overlap)

    @classmethod
    def at(
        cls, kind: LeakKind, critique: str, spans: Iterable[tuple[int, int]], overlap: float = 1.0
    ) -> Leak:
        """A leak with its evidence; spans that touch or overlap are joined."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return cls(True, kind, tuple(Evidence(s, e, critique[s:e]) for s, e in merged), overlap)
