"""Aligns quotes with an answer.

Four tiers, from the surest to none; a tier is tried only if those above it found no match at all:

    exact        a verbatim copy
    normalised   equal up to NFKC, typographic quotes and dashes, white space, invisible characters and, in
                 quotes of `MIN_CASELESS` characters or more, case
    fuzzy        one nearest match within one edit in ten characters; digits must be equal
    unaligned    no match, or several where one was meant
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, TypeAlias

from didact.spans.fuzzy import nearest
from didact.spans.text_normalization import NormalizedText, normalize, normalize_with_offsets
from didact.types import Span

Tier: TypeAlias = Literal["exact", "normalised", "fuzzy", "unaligned"]
Repeats: TypeAlias = Literal["unique_only", "all", "first", "by_index"]
Reason: TypeAlias = Literal["absent", "ambiguous", "blank", "index"]
Label: TypeAlias = Literal["good", "poor"]
MAX_PLACES = 1000
"""A quote with more matches than this is ambiguous under every policy."""
MIN_CASELESS = 4
"""Minimum length of a quote to ignore case, in characters."""
MIN_LENGTH, MIN_RATIO = 12, 0.9
"""Of a fuzzy match: minimum length of the quote in characters, and minimum of 1 − edits / length."""


@dataclass(frozen=True)
class Quote:
    """A phrase of the answer that a critique labels good or poor.

    Attributes:
        occurrence: Which of several equal matches is meant, counted from 1.
        before: The text directly before it in the answer; selects among several equal matches.
    """

    text: str
    label: Label
    phrase: str | None = None
    occurrence: int | None = None
    before: str | None = None


@dataclass(frozen=True)
class MatchPolicy:
    """Which matches count, and how a quote with several is resolved.

    Attributes:
        repeats: Of several equal matches, which may overlap, "unique_only" takes none, "all" and "first"
            those, "by_index" the quote's `occurrence` and none without one. `Quote.before` narrows them
            down first.
        fuzzy: Try the fuzzy tier.
    """

    repeats: Repeats = "unique_only"
    fuzzy: bool = True


DEFAULT = MatchPolicy()


@dataclass(frozen=True)
class QuoteMatch:
    """The alignment of one quote.

    Attributes:
        tier: The tier that matched; "unaligned" without spans.
        reason: Why there is no span; None if there is one.
    """

    quote: Quote
    tier: Tier
    spans: tuple[Span, ...] = ()
    reason: Reason | None = None


@dataclass(frozen=True)
class Alignment:
    """All quotes about one answer, in their order."""

    matches: tuple[QuoteMatch, ...]

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The distinct spans, sorted by position; independent of the order of the quotes."""
        found = {(s.start, s.end, s.label, s.phrase or ""): s for m in self.matches for s in m.spans}
        return tuple(found[key] for key in sorted(found))

    @property
    def unaligned(self) -> tuple[QuoteMatch, ...]:
        """The quotes without a span."""
        return tuple(m for m in self.matches if m.tier == "unaligned")


def locate(quotes: Sequence[Quote], text: str, policy: MatchPolicy = DEFAULT) -> Alignment:
    """Align a critique's quotes with the exact answer.

    >>> found = locate([Quote("it’s  5", "poor"), Quote("6", "good")], "So it's 5.")
    >>> found.spans
    (Span(start=3, end=9, quote="it's 5", label='poor', phrase=None),)
    >>> found.unaligned[0].reason
    'absent'
    """
    normalized = cache(lambda: normalize_with_offsets(text))
    return Alignment(tuple(_match(quote, text, normalized, policy) for quote in quotes))


class QuoteError(ValueError):
    """A quote without one exact match; the message gives the reason and the cure."""


def find_quote(
    answer: str, quote: str, label: Label, *, phrase: str | None = None, start: int | None = None
) -> Span:
    """The span of a verbatim quote.

    Args:
        start: The quote's first character in code points; without it, the quote must occur once.

    Raises:
        QuoteError: the quote does not occur there, or not exactly once.

    >>> find_quote("no, no, yes", "yes", "good")
    Span(start=8, end=11, quote='yes', label='good', phrase=None)
    """
    shown = repr(quote if len(quote) <= 60 else quote[:59] + "…")
    if start is not None:
        if start < 0 or not quote or answer[start : start + len(quote)] != quote:
            raise QuoteError(f"{shown} does not stand at character {start}: count code points from 0")
        return Span(start=start, end=start + len(quote), quote=quote, label=label, phrase=phrase)
    places = _occurrences(quote, answer) if quote else []
    if len(places) == 1:
        first, last = places[0]
        return Span(start=first, end=last, quote=quote, label=label, phrase=phrase)
    if not quote:
        raise QuoteError("a quote is empty: copy some of the answer")
    if places:
        raise QuoteError(
            f'{shown} occurs more than once in the answer: quote more around it, or give its "start" as JSON'
        )
    why = "copy it from the answer, character by character"
    if locate([Quote(quote, label)], answer, MatchPolicy(fuzzy=False)).spans:
        why = "it differs in spaces, upper and lower case or similar characters; copy it from the answer"
    raise QuoteError(f"{shown} does not occur in the answer: {why}")


def _match(
    quote: Quote, text: str, normalized: Callable[[], NormalizedText], policy: MatchPolicy
) -> QuoteMatch:
    if not quote.text.strip():
        return QuoteMatch(quote, "unaligned", reason="blank")
    places = _occurrences(quote.text, text)
    if places:
        return _select(quote, text, places, "exact", policy)
    wanted, answer = normalize(quote.text), normalized()
    places = _normalised_occurrences(wanted, answer) if wanted else []
    if not places and len(wanted) >= MIN_CASELESS:
        places = _normalised_occurrences(wanted.casefold(), answer.caseless)
    if places:
        return _select(quote, text, places, "normalised", policy)
    if policy.fuzzy and len(wanted) >= MIN_LENGTH:
        near = nearest(wanted.casefold(), answer.caseless.text, 1 - MIN_RATIO)
        if near is not None:
            places = [answer.caseless.enclosing_span(start, end) for start, end in near]
            return _select(quote, text, places, "fuzzy", policy)
    return QuoteMatch(quote, "unaligned", reason="absent")


def _select(
    quote: Quote, text: str, places: list[tuple[int, int]], tier: Tier, policy: MatchPolicy
) -> QuoteMatch:
    """Apply the policy to equal matches."""
    count = len(places)
    if count > 1 and quote.before:
        places = [place for place in places if _ends_with(text[: place[0]], quote.before)]
    reason: Reason = "ambiguous"
    if len(places) == 1:
        # A wrong occurrence number is a contradiction even if there is only one match.
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
        return QuoteMatch(quote, "unaligned", reason=reason)
    spans = tuple(
        Span(start=start, end=end, quote=text[start:end], label=quote.label, phrase=quote.phrase)
        for start, end in places
    )
    return QuoteMatch(quote, tier, spans)


def _ends_with(text: str, words: str) -> bool:
    """Does a text end with some words, both normalised?"""
    wanted = normalize(words).casefold()
    tail = normalize_with_offsets(text[-4 * len(words) - 16 :]).caseless.text
    return tail.rstrip(" ").endswith(wanted)


def _occurrences(quote: str, text: str) -> list[tuple[int, int]]:
    """The verbatim matches, overlapping ones included, up to `MAX_PLACES` + 1."""
    found: list[tuple[int, int]] = []
    at = text.find(quote)
    while at >= 0 and len(found) <= MAX_PLACES:
        found.append((at, at + len(quote)))
        at = text.find(quote, at + 1)
    return found


def _normalised_occurrences(wanted: str, answer: NormalizedText) -> list[tuple[int, int]]:
    """The matches in the normalised answer, as offsets of the answer."""
    found = (answer.span(start, end) for start, end in _occurrences(wanted, answer.text))
    return [span for span in found if span is not None]
