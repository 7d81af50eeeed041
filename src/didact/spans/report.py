"""Counts of aligned quotes and labelled tokens, summed over answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import add
from typing import get_args

import numpy as np

from didact.spans.match import Alignment, Tier
from didact.types import Floats


@dataclass(frozen=True)
class SpanReport:
    """Counts over answers, and rates derived from them. Reports are added with +.

    Attributes:
        answers: Number of answers.
        quotes: Number of quotes.
        exact, normalised, fuzzy, unaligned: Quotes by tier.
        ambiguous: Unaligned quotes with several matches or a wrong `occurrence`.
        good, poor: Aligned quotes by label.
        characters: Characters of the answers.
        covered: Characters in at least one span.
        conflicting: Characters in spans of both labels.
        tokens: Sampled ids, where labels were given.
        positive, negative: Ids labelled 1 and −1.
    """

    answers: int = 0
    quotes: int = 0
    exact: int = 0
    normalised: int = 0
    fuzzy: int = 0
    unaligned: int = 0
    ambiguous: int = 0
    good: int = 0
    poor: int = 0
    characters: int = 0
    covered: int = 0
    conflicting: int = 0
    tokens: int = 0
    positive: int = 0
    negative: int = 0

    @classmethod
    def of(
        cls, alignment: Alignment, text: str, labels: Sequence[float] | Floats | None = None
    ) -> SpanReport:
        """The report on one answer; `labels` are the `token_labels` of its spans, [T]."""
        matches = alignment.matches
        tiers = Counter(m.tier for m in matches)
        aligned = [m.quote.label for m in matches if m.tier != "unaligned"]
        good = poor = 0  # bit sets of characters
        for span in alignment.spans:
            bits = (1 << span.end) - (1 << span.start)
            good, poor = (good | bits, poor) if span.label == "good" else (good, poor | bits)
        delta = np.asarray(() if labels is None else labels, np.float32)
        return cls(
            answers=1,
            quotes=len(matches),
            **{tier: tiers[tier] for tier in get_args(Tier)},
            ambiguous=sum(m.reason in ("ambiguous", "index") for m in matches),
            good=aligned.count("good"),
            poor=aligned.count("poor"),
            characters=len(text),
            covered=(good | poor).bit_count(),
            conflicting=(good & poor).bit_count(),
            tokens=len(delta),
            positive=int(np.count_nonzero(delta > 0)),
            negative=int(np.count_nonzero(delta < 0)),
        )

    def __add__(self, other: SpanReport) -> SpanReport:
        return SpanReport(*map(add, vars(self).values(), vars(other).values()))

    def as_dict(self) -> dict[str, float | None]:
        """Counts, and rates in [0, 1], which are None without a denominator.

        match_rate, ambiguity   shares of the quotes that are aligned, and that are ambiguous
        coverage                share of the characters in a span
        polarity                share of the aligned quotes that are good
        labelled                share of the sampled ids with a nonzero label
        """
        return {
            **asdict(self),
            "match_rate": _share(self.quotes - self.unaligned, self.quotes),
            "ambiguity": _share(self.ambiguous, self.quotes),
            "coverage": _share(self.covered, self.characters),
            "polarity": _share(self.good, self.good + self.poor),
            "labelled": _share(self.positive + self.negative, self.tokens),
        }

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


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
