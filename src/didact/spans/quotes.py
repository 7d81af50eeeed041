"""Where a quote stands in an answer: at exactly one place, or nowhere. Nothing is guessed."""

from __future__ import annotations

import unicodedata
from typing import Literal

from didact.types import Span


class QuoteError(ValueError):
    """A quote that cannot be placed; the message says why, and the cure."""


def find_quote(
    answer: str,
    quote: str,
    label: Literal["good", "poor"],
    *,
    phrase: str | None = None,
    start: int | None = None,
) -> Span:
    """The span of a quote.

    Args:
        answer: The exact answer.
        quote: Copied from it, character by character.
        label: What the critique calls it.
        phrase: The words of the critique that it comes from.
        start: Its first character in code points, where somebody knows it; else the quote must occur once.

    Raises:
        QuoteError: it does not stand there, or not at one place only.

    >>> find_quote("no, no, yes", "yes", "good")
    Span(start=8, end=11, quote='yes', label='good', phrase=None)
    """
    if not quote:
        raise QuoteError("a quote is empty: copy some of the answer")
    if start is not None:
        if start < 0 or answer[start : start + len(quote)] != quote:
            raise QuoteError(f"{_shown(quote)} does not stand at character {start}: count code points from 0")
        return Span(start=start, end=start + len(quote), quote=quote, label=label, phrase=phrase)
    first = answer.find(quote)
    if first < 0:
        raise QuoteError(f"{_shown(quote)} does not occur in the answer: {_why_absent(answer, quote)}")
    if answer.find(quote, first + 1) >= 0:
        raise QuoteError(
            f"{_shown(quote)} occurs more than once in the answer: quote more around it, or give its "
            '"start" as JSON'
        )
    return Span(start=first, end=first + len(quote), quote=quote, label=label, phrase=phrase)


def _why_absent(answer: str, quote: str) -> str:
    if unicodedata.normalize("NFKC", quote) in unicodedata.normalize("NFKC", answer):
        return "it looks the same, but is written with other characters; copy it from the answer"
    if " ".join(quote.split()) in " ".join(answer.split()):
        return "it differs in spaces or line ends; copy it from the answer"
    if quote.casefold() in answer.casefold():
        return "it differs in upper and lower case; copy it from the answer"
    return "copy it from the answer, character by character"


def _shown(quote: str) -> str:
    return repr(quote if len(quote) <= 60 else quote[:59] + "…")
