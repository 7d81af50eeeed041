"""The feedback of one row: texts, scores, labels and quoted spans, under their various names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from didact.data.faults import Checker, shown
from didact.feedback_store import UNKNOWN_AUTHOR
from didact.types import Feedback, FeedbackSourceName

TEXT_ALIASES = ("text", "feedback", "critique", "rationale", "explanation", "comment")

SOURCES: dict[str, FeedbackSourceName] = {
    "human": "human",
    "judge": "judge",
    "llm": "judge",
    "program": "program",
    "code": "program",
    "teacher": "teacher",
    "self": "self",
}
"""Sources by the annotator kinds that a row may name."""

SPAN_LABELS = {
    "good": "good",
    "positive": "good",
    "+": "good",
    "poor": "poor",
    "negative": "poor",
    "-": "poor",
}

VERDICT = ("score", "label", "spans")
"""Columns of a plain row that belong to its only feedback."""
SHARED = ("author", "annotator", "annotator_kind", "source", "created_at")
"""Columns of a plain row that apply to all its feedback."""
GENERIC_NAMES = {
    "", "feedback", "user_feedback", "human_feedback", "label", "score", "rating", "thumbs", "thumb",
    "reaction", "note", "comment", "overall",
}  # fmt: skip
"""Names of feedback that do not name an aspect of the answer."""


def qualified_label(name: str | None, label: str | None) -> str | None:
    """A label prefixed with the aspect that it is about, unless the aspect is generic or already there.

    >>> qualified_label("correctness", "incorrect"), qualified_label("user_feedback", "thumbs-down")
    ('correctness: incorrect', 'thumbs-down')
    >>> qualified_label("correctness", "correctness: incorrect")
    'correctness: incorrect'
    """
    generic = (name or "").casefold().replace("-", "_").replace(" ", "_") in GENERIC_NAMES
    if label is None:
        return None if generic else name
    complete = generic or label == name or label.startswith(f"{name}: ")
    return label if complete else f"{name}: {label}"


def parse_feedback(
    check: Checker, row: Mapping[str, Any], completion: str | None, *, plain: bool
) -> tuple[Feedback, ...]:
    """All feedback of a row.

    Args:
        check: Collects the faults.
        row: The row.
        completion: The answer that spans quote, or None if it has faults of its own.
        plain: The row has the plain form, with feedback in columns. A repeated feedback is a fault there;
            in an `Example` it is a version of a critique.
    """
    found: list[Feedback] = []
    seen: dict[Feedback, str] = {}
    items = _plain_items(check, row) if plain else _column_items(check, row, "feedback")
    for where, item in items:
        feedback = _feedback(check, where, item, completion)
        if feedback is None:
            continue
        if plain and feedback in seen:
            check.fail(where, f"says the same as {seen[feedback]}, by the same author; remove one")
        seen.setdefault(feedback, where)
        found.append(feedback)
    return tuple(found)


def _column_items(
    check: Checker, row: Mapping[str, Any], column: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, feedback object) of each item in a column."""
    value = row.get(column)
    if value is None or value == "":
        return
    listed = isinstance(value, list)
    for i, item in enumerate(value if listed else [value]):
        where = f"{column}[{i}]" if listed else column
        if isinstance(item, str):
            yield where, {"text": item}
        elif isinstance(item, dict):
            yield where, item
        else:
            check.expected(where, "text or an object", item, "write the feedback as text")


def _plain_items(check: Checker, row: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(path, feedback object), with the row's shared columns and, if it has only one, its verdict."""
    shared = {key: row[key] for key in SHARED if row.get(key) is not None}
    verdict = {key: row[key] for key in VERDICT if row.get(key) is not None}
    found = [
        (where, {**shared, **item})
        for column in TEXT_ALIASES[1:]
        for where, item in _column_items(check, row, column)
    ]
    if verdict and len(found) == 1 and not set(verdict) & set(found[0][1]):
        return [(found[0][0], {**found[0][1], **verdict})]
    return [*found, ("", {**shared, **verdict})] if verdict else found


def _feedback(check: Checker, where: str, item: dict[str, Any], completion: str | None) -> Feedback | None:
    before = len(check.faults)
    dot = f"{where}." if where else ""
    values = {key: value for key, value in item.items() if value is not None}
    texts = [text for key in TEXT_ALIASES if (text := values.pop(key, ""))]
    if len(texts) > 1:
        check.fail(where or None, "has several texts; write each as a feedback of its own")
    author = values.pop("author", None) or values.pop("annotator", None) or UNKNOWN_AUTHOR
    provenance = {"author": author, "created_at": values.pop("created_at", None)}
    values.pop("annotator", None)
    kind = values.pop("annotator_kind", "human")
    source = values.get("source", kind)
    canonical = {
        "provenance": provenance,
        "saw_reference": False,
        **values,
        "text": texts[0] if texts else "",
        "source": SOURCES.get(source.casefold(), source) if isinstance(source, str) else source,
        "spans": _spans(check, dot, values.get("spans", []), completion),
    }
    feedback = check.model(Feedback, canonical, dot)
    if feedback is None or len(check.faults) > before:
        return None
    label = qualified_label(feedback.name, feedback.label)
    has_verdict = label is not None or feedback.score is not None
    if feedback.ok and not feedback.text.strip() and not feedback.spans and not has_verdict:
        check.fail(where or None, "says nothing: no text, score, label or span; fill it in or remove it")
        return None
    return feedback.model_copy(update={"label": label, "name": feedback.name or None})


def _spans(check: Checker, dot: str, spans: Any, completion: str | None) -> Any:
    """Spans with Didact's labels, without those that are misplaced, which are faults."""
    if not isinstance(spans, list):
        return spans
    found = []
    for i, item in enumerate(spans):
        if not isinstance(item, dict):
            found.append(item)
            continue
        span = {key: value for key, value in item.items() if value is not None}
        label = span.get("label", span.pop("polarity", None))
        span["label"] = SPAN_LABELS.get(str(label), label)
        fault = None if completion is None else _misplaced(span, completion)
        if fault is not None:
            check.fail(f"{dot}spans[{i}]", fault)
        else:
            found.append(span)
    return found


def _misplaced(span: Mapping[str, Any], completion: str) -> str | None:
    """Why a span does not quote the completion; None if it does, or has values of the wrong types."""
    start, end, quote = span.get("start"), span.get("end"), span.get("quote")
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(quote, str) or not quote:
        return None
    there = completion[start:end] if 0 <= start < end else ""
    if there == quote:
        return None
    message = f"the quote {shown(quote, 30)} is not at [{start}, {end}) of the completion"
    message += f", where {shown(there, 30)} stands" if there else ""
    count = completion.count(quote)
    if count == 1:
        at = completion.index(quote)
        why = " (code points, not UTF-16 units)" if _utf16(completion, start, end) == quote else ""
        return f"{message}; set start to {at} and end to {at + len(quote)}{why}"
    found = f"occurs {count} times" if count else "does not occur"
    return f"{message}; it {found} in the completion: quote one place exactly, or drop the span"


def _utf16(text: str, start: int, end: int) -> str:
    """[start, end) counted in UTF-16 units, as browsers do."""
    return text.encode("utf-16-le")[2 * max(start, 0) : 2 * max(end, 0)].decode("utf-16-le", "replace")
