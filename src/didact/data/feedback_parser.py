"""The feedback of one row: texts, scores, labels and quoted spans, under their various names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

from didact.data.faults import Checker, shown
from didact.errors import did_you_mean
from didact.feedback_store import UNKNOWN_AUTHOR
from didact.types import ErrorKind, Feedback, FeedbackSourceName, Provenance, Span

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

KEYS = (
    "turn", *TEXT_ALIASES, "name", "source", "annotator_kind", "score", "label", "spans", "status", "error",
    "error_kind", "saw_reference", "leaks", "misleading", "provenance", "author", "annotator", "created_at",
)  # fmt: skip
"""The keys of a feedback object."""
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
    for key in item:
        if key not in KEYS:
            check.fail(f"{dot}{key}", f"unknown key: {did_you_mean(key, KEYS)}")
    texts = [text for key in TEXT_ALIASES if (text := check.text(item, key, dot))]
    if len(texts) > 1:
        check.fail(where or None, "has several texts; write each as a feedback of its own")
    score, label = check.number(item, "score", dot), check.text(item, "label", dot)
    name = check.text(item, "name", dot)
    spans = _spans(check, dot, item.get("spans"), completion)
    status, error = item.get("status", "ok"), check.text(item, "error", dot)
    if status not in ("ok", "failed"):
        near = did_you_mean(str(status), ("ok", "failed"))
        check.fail(f"{dot}status", f"unknown status {shown(status)}: {near}")
    elif (status == "failed") != (error is not None):
        message = "a failed feedback needs an 'error', and only a failed one has it; set both or neither"
        check.fail(f"{dot}status", message)
    kind = item.get("error_kind")
    if kind is not None and (error is None or kind not in get_args(ErrorKind)):
        near = did_you_mean(str(kind), get_args(ErrorKind))
        check.fail(f"{dot}error_kind", f"only a failed feedback has one, and not {shown(kind)}: {near}")
    text = texts[0] if texts else ""
    blank = not text.strip() and score is None and label is None and not spans
    if blank and status == "ok" and len(check.faults) == before:
        check.fail(where or None, "says nothing: no text, score, label or span; fill it in or remove it")
    source = _source(check, dot, item)
    provenance = _provenance(check, dot, item)
    turn, saw, leaks = item.get("turn", 0), item.get("saw_reference", False), item.get("leaks")
    if isinstance(turn, bool) or not isinstance(turn, int) or turn < 0:
        check.expected(f"{dot}turn", "an index from 0", turn, "a given answer is turn 0")
    if not isinstance(saw, bool):
        check.expected(f"{dot}saw_reference", "true or false", saw, "write true or false")
    misleading = item.get("misleading", False)
    if not isinstance(misleading, bool):
        check.expected(f"{dot}misleading", "true or false", misleading, "write true or false")
    if not isinstance(leaks, bool | None):
        check.expected(f"{dot}leaks", "true, false or null", leaks, "write null where it was not checked")
    if len(check.faults) > before or source is None or provenance is None:
        return None
    return Feedback(
        turn=turn, text=text, source=source, score=score, label=qualified_label(name, label),
        name=name or None, spans=spans, status=status, error=error, error_kind=kind,
        saw_reference=saw, leaks=leaks, misleading=misleading, provenance=provenance,
    )  # fmt: skip


def _source(check: Checker, dot: str, item: dict[str, Any]) -> FeedbackSourceName | None:
    key = "annotator_kind" if "source" not in item and "annotator_kind" in item else "source"
    value = item.get(key)
    if value is None:
        return "human"
    found = SOURCES.get(value.casefold()) if isinstance(value, str) else None
    if found is None:
        near = did_you_mean(str(value).casefold(), SOURCES)
        check.fail(f"{dot}{key}", f"unknown source {shown(value)}: {near}")
    return found


def _provenance(check: Checker, dot: str, item: dict[str, Any]) -> Provenance | None:
    value = item.get("provenance")
    if value is None:
        author = check.text(item, "author", dot) or check.text(item, "annotator", dot) or UNKNOWN_AUTHOR
        return Provenance(author=author, created_at=check.text(item, "created_at", dot))
    if not isinstance(value, dict):
        check.expected(f"{dot}provenance", "an object", value, 'write {"author": …}')
        return None
    try:
        return Provenance.model_validate(value, strict=True)
    except ValueError as error:
        first = cast("Any", error).errors()[0]
        path = ".".join(map(str, first["loc"]))
        known = did_you_mean(str(first["loc"][-1]), Provenance.model_fields)
        what = "is missing" if first["type"] == "missing" else first["msg"].lower()
        valid = known if first["type"] == "extra_forbidden" else known[known.index("Valid:") :]
        check.fail(f"{dot}provenance.{path}", f"{what}. {valid}")
        return None


def _spans(check: Checker, dot: str, value: object, completion: str | None) -> tuple[Span, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        check.expected(f"{dot}spans", "a list", value, 'write [{"start": …, "end": …, "quote": …}]')
        return ()
    found = (_span(check, f"{dot}spans[{i}]", item, completion) for i, item in enumerate(value))
    return tuple(span for span in found if span is not None)


def _span(check: Checker, where: str, item: object, completion: str | None) -> Span | None:
    if not isinstance(item, dict):
        check.expected(where, "an object", item, 'write {"start": …, "end": …, "quote": …}')
        return None
    start, end, quote = item.get("start"), item.get("end"), item.get("quote")
    if not isinstance(quote, str) or not quote:
        check.expected(f"{where}.quote", "the quoted text", quote, "copy it from the completion")
        return None
    for key, number in (("start", start), ("end", end)):
        if isinstance(number, bool) or not isinstance(number, int):
            check.expected(f"{where}.{key}", "an integer", number, "count Unicode code points from 0")
            return None
    key = "polarity" if "label" not in item and "polarity" in item else "label"
    label = SPAN_LABELS.get(str(item.get(key)))
    if label is None:
        near = did_you_mean(str(item.get(key)), SPAN_LABELS)
        check.fail(f"{where}.{key}", f"unknown label {shown(item.get(key))}: {near}")
        return None
    if completion is None:
        return None
    assert isinstance(start, int)
    assert isinstance(end, int)
    if not 0 <= start < end <= len(completion) or completion[start:end] != quote:
        check.fail(where, _misplaced(start, end, quote, completion))
        return None
    phrase = check.text(item, "phrase", f"{where}.")
    return Span(start=start, end=end, quote=quote, label=cast("Any", label), phrase=phrase)


def _misplaced(start: int, end: int, quote: str, completion: str) -> str:
    there = completion[start:end] if 0 <= start < end else ""
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
