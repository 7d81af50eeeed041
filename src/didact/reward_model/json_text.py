"""`json_v1`: the JSON object that `critique run --spans` asks for, written, read and mended.

A reply that does not fit the form is mended where that takes no guess: words around the object are left
out, raw line breaks in texts are taken, and of an object that was cut off, everything that is complete stays.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from didact.feedback.judge import TOP_SCORE
from didact.feedback.span_judge import MAX_SPANS, ArguedMarks, Marks, find_phrase
from didact.spans import Quote
from didact.types import Feedback, Span

LABELS = {"right": 1.0, "partly right": 0.5, "wrong": 0.0}
_CONTEXTS = (8, 16, 32, 64, 128)
"""So many characters before a passage are tried to tell it from its copies."""
_MIXED = "partly right"
_CLOSE = {"{": "}", "[": "]"}


class Loaded(NamedTuple):
    """A reply, in the order of `Reading`'s fields."""

    critique: str
    quotes: tuple[Quote, ...]
    score: float | None
    label: str | None
    repaired: bool


def grade(said: Feedback) -> tuple[float, str] | None:
    """(score from 0 to 10, label) of a feedback, one from the other where it has one only, else from its
    spans; None where nothing says."""
    score, label = said.score, said.label
    if score is not None and not 0 <= score <= 1:
        score = None
    if label not in LABELS:
        label = _by_marks({s.label for s in said.spans}) if score is None else _named(score)
    if label is None:
        return None
    return TOP_SCORE * (LABELS[label] if score is None else score), label


def candidates(span: Span, answer: str) -> list[Quote]:
    """The quote alone, or with more and more of what stands before it."""
    before = [answer[max(0, span.start - n) : span.start] for n in _CONTEXTS]
    contexts = [None, *(text for text in dict.fromkeys(before) if text.strip())]
    return [Quote(span.quote, span.label, phrase=span.phrase, before=text) for text in contexts]


def dump(critique: str | None, quotes: Sequence[Quote], score: float, label: str) -> str:
    """The object as text; without a critique where none is asked for."""

    def passages(kind: str) -> list[dict[str, str]]:
        own = [{"quote": q.text, "before": q.before or ""} for q in quotes if q.label == kind]
        if critique is None:
            return own
        phrases = [q.phrase or "" for q in quotes if q.label == kind]
        return [{**p, "phrase": phrase} for p, phrase in zip(own, phrases, strict=True)]

    first = {} if critique is None else {"critique": critique}
    short = round(score, 2)
    record = {
        **first,
        "good_spans": passages("good"),
        "poor_spans": passages("poor"),
        "score": int(short) if short == int(short) else short,
        "label": label,
    }
    return json.dumps(record, ensure_ascii=False)


def load(text: str, *, reasoning: bool) -> Loaded | None:
    """What a reply says, mended where that is needed and can be done; None where it cannot."""
    form: type[ArguedMarks] | type[Marks] = ArguedMarks if reasoning else Marks
    try:
        return _loaded(form.model_validate_json(text).model_dump(), repaired=False)
    except ValidationError:
        record = mended(text)
    return None if record is None else _loaded(record, repaired=True)


def mended(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, without what is incomplete at its end; None where there is none.

    >>> mended('Here: {"a": ["b", {"c": 1}, {"d')
    {'a': ['b', {'c': 1}]}
    """
    start = text.find("{")
    if start < 0:
        return None
    stack: list[str] = []
    quoted = escaped = False
    kept = ""
    for i, c in enumerate(text[start:], start):
        if quoted:
            quoted = escaped or c != '"'
            escaped = c == "\\" and not escaped
            continue
        if c == '"':
            quoted = True
        elif c in _CLOSE:
            stack.append(c)
        elif c == "," and len(stack) <= 2:
            kept = text[start:i] + _closing(stack)
        elif c in "}]":
            if not stack or _CLOSE[stack.pop()] != c:
                break
            kept = text[start : i + 1] + _closing(stack)
            if not stack:
                break
    try:
        found = json.loads(kept, strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _closing(stack: Sequence[str]) -> str:
    return "".join(_CLOSE[c] for c in reversed(stack[-8:])) if len(stack) <= 8 else ""


def _loaded(record: dict[str, Any], *, repaired: bool) -> Loaded | None:
    lists = [record.get(key) for key in ("good_spans", "poor_spans")]
    if not any(isinstance(found, list) for found in lists):
        return None
    said = record.get("critique")
    critique = said if isinstance(said, str) else ""
    quotes = [*_quoted(lists[0], "good", critique), *_quoted(lists[1], "poor", critique)]
    score, label_said = record.get("score"), record.get("label")
    share = None
    if isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= TOP_SCORE:
        share = score / TOP_SCORE
    named = label_said if isinstance(label_said, str) and label_said in LABELS else None
    return Loaded(critique, tuple(quotes), share, named, repaired)


def _quoted(found: Any, label: Literal["good", "poor"], critique: str) -> list[Quote]:
    """The passages of one kind; what is no passage is left out, and a missing `before` is none."""
    quotes = []
    for item in found[:MAX_SPANS] if isinstance(found, list) else []:
        quote = item.get("quote") if isinstance(item, dict) else None
        if isinstance(quote, str) and quote:
            before = item.get("before")
            said = item.get("phrase")
            phrase = find_phrase(said, critique) if isinstance(said, str) else None
            context = before if isinstance(before, str) and before else None
            quotes.append(Quote(quote, label, phrase=phrase, before=context))
    return quotes


def _by_marks(marks: Set[str]) -> str | None:
    if not marks:
        return None
    return _MIXED if len(marks) > 1 else "right" if "good" in marks else "wrong"


def _named(score: float) -> str:
    return "right" if score >= 1 else "wrong" if score <= 0 else _MIXED
