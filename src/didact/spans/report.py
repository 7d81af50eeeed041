"""Counts of aligned quotes, summed over answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import add
from typing import get_args

from didact.spans.match import Alignment, Tier


@dataclass(frozen=True)
class SpanReport:
    """Counts over answers: quotes by tier, those with several matches, aligned ones by label."""

    answers: int = 0
    quotes: int = 0
    exact: int = 0
    normalised: int = 0
    fuzzy: int = 0
    unaligned: int = 0
    ambiguous: int = 0
    good: int = 0
    poor: int = 0

    @classmethod
    def of(cls, alignment: Alignment) -> SpanReport:
        """The report on one answer."""
        matches = alignment.matches
        tiers = Counter(m.tier for m in matches)
        aligned = [m.quote.label for m in matches if m.tier != "unaligned"]
        return cls(
            answers=1,
            quotes=len(matches),
            **{tier: tiers[tier] for tier in get_args(Tier)},
            ambiguous=sum(m.reason in ("ambiguous", "index") for m in matches),
            good=aligned.count("good"),
            poor=aligned.count("poor"),
        )

    def __add__(self, other: SpanReport) -> SpanReport:
        return SpanReport(*map(add, vars(self).values(), vars(other).values()))

    def __str__(self) -> str:
        """The counts in one line.

        >>> print(SpanReport(answers=2, quotes=4, exact=3, unaligned=1, good=1, poor=2))
        4 quotes about 2 answers: 3 exact, 0 normalised, 0 fuzzy, 1 unaligned (0 ambiguous); 1 good, 2 poor
        """
        return (
            f"{self.quotes} quotes about {self.answers} answers: {self.exact} exact, {self.normalised} "
            f"normalised, {self.fuzzy} fuzzy, {self.unaligned} unaligned ({self.ambiguous} ambiguous); "
            f"{self.good} good, {self.poor} poor"
        )
