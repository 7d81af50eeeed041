"""`lines_v1`: the critique on one line, then a marked passage a line.

    It should have 6 characters, not 5. Character 1 should be n.
    - t
    +2 ab

Line breaks and backslashes inside a line are escaped, so that every text is one line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from didact.feedback.span_judge import MAX_SPANS
from didact.spans import Quote
from didact.types import Span

NOTHING = "none"
"""Stands for no passages where no critique is asked for, since a target cannot be empty."""
_LINE = re.compile(r"([+-])([1-9][0-9]{0,2})? (.+)", re.DOTALL)
_SIGN = {"good": "+", "poor": "-"}
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_MEANT = {"n": "\n", "r": "\r"}


def candidates(span: Span, answer: str) -> list[Quote]:
    """The quote alone, or with the number of its place where there are several."""
    found = re.finditer(f"(?={re.escape(span.quote)})", answer)
    places = [m.start() for m in islice(found, 1000)]
    if len(places) < 2:
        return [Quote(span.quote, span.label)]
    if span.start not in places or places.index(span.start) > 998:
        return []
    return [Quote(span.quote, span.label, occurrence=places.index(span.start) + 1)]


def dump(critique: str | None, quotes: Sequence[Quote]) -> str:
    """The text of a critique (None: none is asked for) and its marks."""
    marks = [f"{_SIGN[q.label]}{q.occurrence or ''} {_escaped(q.text)}" for q in quotes]
    if critique is None:
        return "\n".join(marks) or NOTHING
    return "\n".join([_escaped(critique), *marks])


def load(text: str, *, reasoning: bool, cut: bool) -> tuple[str, tuple[Quote, ...], bool] | None:
    """(critique, quotes, something was left out); None where no line can be made out.

    >>> load("Not 5.\\n-2 5", reasoning=True, cut=False)[1]
    (Quote(text='5', label='poor', phrase=None, occurrence=2, before=None),)
    """
    parts = text.split("\n")
    critique = _meant(parts.pop(0)) if reasoning else ""
    if cut:
        if not parts:
            return None
        parts.pop()
    if not text.strip():
        return None
    if not reasoning and [p.strip() for p in parts] == [NOTHING]:
        return "", (), False
    said = [part for part in parts if part.strip()]
    found = [m for part in said if (m := _LINE.fullmatch(part))]
    if (said or not reasoning) and not found:
        return None
    quotes = tuple(
        Quote(_meant(m[3]), "good" if m[1] == "+" else "poor", occurrence=int(m[2]) if m[2] else None)
        for m in found
    )
    kept = quotes[: 2 * MAX_SPANS]
    return critique, kept, cut or len(found) < len(said) or len(kept) < len(quotes)


def _escaped(text: str) -> str:
    return re.sub(r"[\\\n\r]", lambda m: _ESCAPES[m[0]], text)


def _meant(line: str) -> str:
    return re.sub(r"\\(.)", lambda m: _MEANT.get(m[1], m[1]), line, flags=re.DOTALL)
