"""How well quotes were found, and how much of the answers they label; mergeable over many answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from operator import add, attrgetter

import numpy as np

from didact.spans.match import Alignment
from didact.types import Floats


@dataclass(frozen=True)
class SpanReport:
    """Counts; the rates are derived from them. Reports of several answers are added with +.

    Attributes:
        answers: Answers that were looked at.
        quotes: Quotes about them.
        exact, normalised, fuzzy, unaligned: How many of the quotes were found how.
        ambiguous: Of the unaligned, those with several places (an `occurrence` that is not there too).
        good, poor: Quotes that made a span, by what they call it.
        characters: Of the answers.
        covered: Characters in at least one span.
        conflicting: Characters in spans of both kinds.
        tokens: Sampled ids; 0 where nobody said which.
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
        """The report on one answer.

        Args:
            alignment: What became of its quotes.
            text: The answer.
            labels: What `token_labels` made of the spans.
        """
        tiers = [p.tier for p in alignment.placed]
        aligned = [p.quote.label for p in alignment.placed if p.tier != "unaligned"]
        good = poor = 0  # a bit for each character
        for span in alignment.spans:
            bits = (1 << span.end) - (1 << span.start)
            good, poor = (good | bits, poor) if span.label == "good" else (good, poor | bits)
        delta = np.asarray(() if labels is None else labels, np.float32)
        return cls(
            answers=1,
            quotes=len(alignment.placed),
            exact=tiers.count("exact"),
            normalised=tiers.count("normalised"),
            fuzzy=tiers.count("fuzzy"),
            unaligned=tiers.count("unaligned"),
            ambiguous=sum(p.reason in ("ambiguous", "index") for p in alignment.placed),
            good=aligned.count("good"),
            poor=aligned.count("poor"),
            characters=len(text),
            covered=(good | poor).bit_count(),
            conflicting=(good & poor).bit_count(),
            tokens=len(delta),
            positive=int(np.count_nonzero(delta > 0)),
            negative=int(np.count_nonzero(delta < 0)),
        )

    @classmethod
    def total(cls, reports: Iterable[SpanReport]) -> SpanReport:
        """The report on all answers together."""
        return sum(reports, cls())

    def __add__(self, other: SpanReport) -> SpanReport:
        return SpanReport(*map(add, _counts(self), _counts(other)))

    @property
    def match_rate(self) -> float | None:
        """The share of quotes that made a span; None without quotes."""
        return _share(self.quotes - self.unaligned, self.quotes)

    @property
    def ambiguity(self) -> float | None:
        """The share of quotes that stand at several places where one was meant."""
        return _share(self.ambiguous, self.quotes)

    @property
    def coverage(self) -> float | None:
        """The share of characters in a span."""
        return _share(self.covered, self.characters)

    @property
    def polarity(self) -> float | None:
        """The share of aligned quotes that are good."""
        return _share(self.good, self.good + self.poor)

    @property
    def labelled(self) -> float | None:
        """The share of sampled ids with a label other than 0."""
        return _share(self.positive + self.negative, self.tokens)

    def as_dict(self) -> dict[str, float | None]:
        """Counts and rates, as JSON can hold them."""
        rates = ("match_rate", "ambiguity", "coverage", "polarity", "labelled")
        return {**asdict(self), **{name: getattr(self, name) for name in rates}}

    def __str__(self) -> str:
        """One line for a person.

        >>> print(SpanReport(answers=2, quotes=4, exact=3, unaligned=1, good=1, poor=2))
        4 quotes about 2 answers: 3 exact, 0 normalised, 0 fuzzy, 1 unaligned (0 ambiguous); 1 good, 2 poor
        """
        return (
            f"{self.quotes} quotes about {self.answers} answers: {self.exact} exact, {self.normalised} "
            f"normalised, {self.fuzzy} fuzzy, {self.unaligned} unaligned ({self.ambiguous} ambiguous); "
            f"{self.good} good, {self.poor} poor"
        )


_counts = attrgetter(*(f.name for f in fields(SpanReport)))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
