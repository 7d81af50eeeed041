"""Where a quote stands in an answer.

Four tiers, from the surest to none:

    exact        the answer holds it, character for character
    normalised   the same up to NFKC, typographic quotes and dashes, white space, invisible characters
                 and, in quotes of `min_caseless` characters or more, upper and lower case
    fuzzy        one place of the answer, and no second one as near, differs from it by at most one
                 character in ten; digits never differ
    unaligned    none of these, or several places where one was meant; it is counted and never guessed

A tier is only asked when those above it found no place at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from didact.errors import UsageError, did_you_mean
from didact.spans.fuzzy import nearest
from didact.spans.text_normalization import NormalizedText, caseless, normal, normalize
from didact.types import Span

Tier: TypeAlias = Literal["exact", "normalised", "fuzzy", "unaligned"]
TIERS: tuple[Tier, ...] = get_args(Tier)
Repeats: TypeAlias = Literal["unique_only", "all", "first", "by_index"]
Reason: TypeAlias = Literal["absent", "ambiguous", "blank", "index"]
Label: TypeAlias = Literal["good", "poor"]
MAX_PLACES = 1000
"""A quote that stands at more places than this says nothing about any of them."""


@dataclass(frozen=True)
class Quote:
    """A phrase of the answer that a critique calls good or poor.

    Attributes:
        text: The phrase, as it was quoted.
        label: What it is called.
        phrase: The words of the critique that this is about.
        occurrence: Which of several equal places is meant, counted from 1.
        before: What stands directly before it in the answer; chooses among several equal places.
    """

    text: str
    label: Label
    phrase: str | None = None
    occurrence: int | None = None
    before: str | None = None


@dataclass(frozen=True)
class MatchPolicy:
    """What counts as a place, and what becomes of a quote with several.

    Attributes:
        repeats: Of several equal places, overlapping ones counted singly: "unique_only" takes none, "all"
            and "first" what they say, "by_index" the quote's `occurrence` and none without one. A left
            context narrows them down before that.
        normalised: Look beyond exact copies at all.
        min_caseless: From so many characters on, upper and lower case may differ.
        fuzzy: Look for near copies.
        min_ratio: 1 − edits / length of a near copy is at least this, in (0, 1].
        min_length: Near copies are looked for from so many characters on.
    """

    repeats: Repeats = "unique_only"
    normalised: bool = True
    min_caseless: int = 4
    fuzzy: bool = True
    min_ratio: float = 0.9
    min_length: int = 12

    def __post_init__(self) -> None:
        if self.repeats not in get_args(Repeats):
            raise UsageError(
                f"unknown policy {self.repeats!r}: {did_you_mean(self.repeats, get_args(Repeats))}"
            )
        if not 0 < self.min_ratio <= 1:
            raise UsageError(f"min_ratio must lie in (0, 1], not {self.min_ratio}")
        if self.min_length < 1 or self.min_caseless < 1:
            raise UsageError("min_length and min_caseless must be at least 1")


DEFAULT = MatchPolicy()
STRICT = MatchPolicy(normalised=False, fuzzy=False)
"""Exact copies that stand at one place only."""


@dataclass(frozen=True)
class QuoteMatch:
    """What became of one quote.

    Attributes:
        quote: The quote.
        tier: How it was found; "unaligned" where it made no span.
        spans: Where it stands.
        places: How many equal places there were.
        ratio: 1 − edits / length; 1 for an exact or normalised copy, 0 for none.
        reason: Why it made no span; None where it did.
    """

    quote: Quote
    tier: Tier
    spans: tuple[Span, ...] = ()
    places: int = 0
    ratio: float = 0.0
    reason: Reason | None = None


@dataclass(frozen=True)
class Alignment:
    """All quotes about one answer.

    Attributes:
        placed: What became of each quote, in their order.
    """

    placed: tuple[QuoteMatch, ...]

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Every span once, by where it stands; the order of the quotes does not matter."""
        found = {(s.start, s.end, s.label, s.phrase or ""): s for p in self.placed for s in p.spans}
        return tuple(found[key] for key in sorted(found))

    @property
    def unaligned(self) -> tuple[QuoteMatch, ...]:
        """The quotes that made no span."""
        return tuple(p for p in self.placed if p.tier == "unaligned")

    @property
    def tiers(self) -> Counter[Tier]:
        """How many quotes were found how."""
        return Counter(p.tier for p in self.placed)


def locate(quotes: Sequence[Quote], text: str, policy: MatchPolicy = DEFAULT) -> Alignment:
    """Where quotes stand in an answer.

    Args:
        quotes: What a critique quotes.
        text: The exact answer.
        policy: What counts as a place.

    >>> found = locate([Quote("it’s  5", "poor"), Quote("6", "good")], "So it's 5.")
    >>> found.spans
    (Span(start=3, end=9, quote="it's 5", label='poor', phrase=None),)
    >>> found.unaligned[0].reason
    'absent'
    """
    answer = _Answer(text)
    return Alignment(tuple(_place(quote, answer, policy) for quote in quotes))


class _Answer:
    """An answer, and its form where somebody asks for it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def normal(self) -> NormalizedText:
        return normal(self.text)


def _place(quote: Quote, answer: _Answer, policy: MatchPolicy) -> QuoteMatch:
    if not quote.text.strip():
        return QuoteMatch(quote, "unaligned", reason="blank")
    places = _all(quote.text, answer.text)
    if places:
        return _chosen(quote, answer.text, places, "exact", policy)
    if not (policy.normalised or policy.fuzzy):
        return QuoteMatch(quote, "unaligned", reason="absent")
    form = normalize(quote.text)
    if policy.normalised and form:
        places = _like(form, answer.normal.text, answer.normal)
        if not places and len(form) >= policy.min_caseless:
            places = _like(caseless(form), answer.normal.caseless, answer.normal)
        if places:
            return _chosen(quote, answer.text, places, "normalised", policy)
    if policy.fuzzy and len(form) >= policy.min_length:
        near = nearest(caseless(form), answer.normal.caseless, 1 - policy.min_ratio)
        if near is not None:
            spans = [answer.normal.around(start, end) for start, end in near.places]
            ratio = 1 - near.edits / len(form)
            return _chosen(quote, answer.text, spans, "fuzzy", policy, ratio)
    return QuoteMatch(quote, "unaligned", reason="absent")


def _chosen(
    quote: Quote,
    text: str,
    places: list[tuple[int, int]],
    tier: Tier,
    policy: MatchPolicy,
    ratio: float = 1.0,
) -> QuoteMatch:
    """The places that the policy takes."""
    count = len(places)
    if count > 1 and quote.before:
        places = [place for place in places if _follows(quote.before, text[: place[0]])]
    reason: Reason = "ambiguous"
    if len(places) == 1:
        # An occurrence that is not there is a contradiction even where there is only one place.
        reason = "index"
        if policy.repeats == "by_index" and count == 1 and quote.occurrence not in (None, 1):
            places = []
    elif tier == "fuzzy" or policy.repeats == "unique_only" or len(places) > MAX_PLACES:
        places = []
    elif policy.repeats == "first":
        places = places[:1]
    elif policy.repeats == "by_index":
        reason = "ambiguous" if quote.occurrence is None else "index"
        number = (quote.occurrence or 0) - 1
        places = places[number : number + 1] if number >= 0 else []
    if not places:
        return QuoteMatch(quote, "unaligned", places=count, reason=reason)
    spans = tuple(
        Span(start=start, end=end, quote=text[start:end], label=quote.label, phrase=quote.phrase)
        for start, end in places
    )
    return QuoteMatch(quote, tier, spans, count, ratio)


def _follows(before: str, text: str) -> bool:
    """Does a text end with some words, up to their form?"""
    wanted = caseless(normalize(before))
    tail = normal(text[-4 * len(before) - 16 :]).caseless
    return tail.rstrip(" ").endswith(wanted)


def _all(quote: str, text: str) -> list[tuple[int, int]]:
    """Where a text holds a quote; one place more than `MAX_PLACES` at most."""
    found: list[tuple[int, int]] = []
    at = text.find(quote)
    while at >= 0 and len(found) <= MAX_PLACES:
        found.append((at, at + len(quote)))
        at = text.find(quote, at + 1)
    return found


def _like(form: str, text: str, answer: NormalizedText) -> list[tuple[int, int]]:
    """The places of a form in the answer's form, as places of the answer."""
    found = (answer.span(start, end) for start, end in _all(form, text))
    return [span for span in found if span is not None]
