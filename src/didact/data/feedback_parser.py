"""The feedback of one row: texts, scores, labels and quoted spans, under whatever names they came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from didact.data.rows import Fault, expected, shown
from didact.errors import did_you_mean
from didact.types import Feedback, FeedbackSourceName, Provenance, Span

if TYPE_CHECKING:
    from didact.data.record import Checker

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
"""What a row may call an annotator, by what Didact calls it."""

POLARITIES = {
    "good": "good",
    "positive": "good",
    "+": "good",
    "poor": "poor",
    "negative": "poor",
    "-": "poor",
}

KEYS = (
    "turn", *TEXT_ALIASES, "name", "source", "annotator_kind", "score", "label", "spans", "status", "error",
    "saw_reference", "leaks", "provenance", "author", "annotator", "created_at",
)  # fmt: skip

UNKNOWN = "unknown"
"""The author where nobody is named; two pieces by "unknown" may be by two people."""
VERDICT = ("score", "label", "spans")
SHARED = ("author", "annotator", "annotator_kind", "source", "created_at")
"""What a plain row may say beside its feedback: of the one feedback it has, and of all of them."""


def named_label(name: str | None, label: str | None) -> str | None:
    """A label that says which question it answers, where the answer alone would not.

    >>> named_label("correctness", "incorrect"), named_label("user_feedback", "thumbs-down")
    ('correctness: incorrect', 'thumbs-down')

    A label that says so already stays as it is:

    >>> named_label("correctness", "correctness: incorrect")
    'correctness: incorrect'
    """
    plain = (name or "").casefold().replace("-", "_").replace(" ", "_")
    generic = plain in ("", "feedback", "user_feedback", "human_feedback", "label", "score", "rating")
    generic = generic or plain in ("thumbs", "thumb", "reaction", "note", "comment", "overall")
    if label is None:
        return None if generic else name
    told = generic or label == name or label.startswith(f"{name}: ")
    return label if told else f"{name}: {label}"


def feedback_items(
    check: Checker, row: Mapping[str, Any], completion: str | None, *, row_level: bool
) -> tuple[Feedback, ...]:
    """All feedback of a row, its spans held against the completion.

    Args:
        check: Where faults go.
        row: The row.
        completion: The answer, or None where it has faults of its own.
        row_level: Read critique, score, label and so on of the row itself too: the plain form. There, a
            feedback that stands twice is a slip; in the other, its author came back to it, or failed again.
    """
    made: list[Feedback] = []
    seen: dict[Feedback, str] = {}
    for where, item in _items(check, row, row_level):
        feedback = _feedback(check, where, item, completion)
        if feedback is None:
            continue
        if row_level and feedback in seen:
            check.fail(Fault(where, f"says the same as {seen[feedback]}, by the same author; remove one"))
        seen.setdefault(feedback, where)
        made.append(feedback)
    return tuple(made)


def _items(check: Checker, row: Mapping[str, Any], row_level: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(column, feedback object), what the row says of all its feedback filled in."""
    shared: dict[str, Any] = {}
    verdict: dict[str, Any] = {}
    if row_level:
        shared = {key: row[key] for key in SHARED if row.get(key) is not None}
        verdict = {key: row[key] for key in VERDICT if row.get(key) is not None}
    found: list[tuple[str, dict[str, Any]]] = []
    for column in TEXT_ALIASES[1:] if row_level else ("feedback",):
        value = row.get(column)
        if value is None or value == "":
            continue
        listed = isinstance(value, list)
        for i, item in enumerate(value if listed else [value]):
            where = f"{column}[{i}]" if listed else column
            if isinstance(item, str):
                found.append((where, {**shared, "text": item}))
            elif isinstance(item, dict):
                found.append((where, {**shared, **item}))
            else:
                check.fail(expected(where, "text or an object", item, "write what was said as text"))
    if verdict and len(found) == 1 and not set(verdict) & set(found[0][1]):
        found = [(found[0][0], {**found[0][1], **verdict})]
    elif verdict:
        found.append(("", {**shared, **verdict}))
    yield from found


def _feedback(check: Checker, where: str, item: dict[str, Any], completion: str | None) -> Feedback | None:
    before = len(check.faults)
    dot = f"{where}." if where else ""
    for key in item:
        if key not in KEYS:
            check.fail(Fault(f"{dot}{key}", f"unknown key: {did_you_mean(key, KEYS)}"))
    texts = [text for key in TEXT_ALIASES if (text := check.text(item, key, dot))]
    if len(texts) > 1:
        check.fail(Fault(where or None, "has several texts; write each as a feedback of its own"))
    score, label = check.number(item, "score", dot), check.text(item, "label", dot)
    name = check.text(item, "name", dot)
    spans = _spans(check, dot, item.get("spans"), completion)
    status, error = _status(check, dot, item)
    text = texts[0] if texts else ""
    blank = not text.strip() and score is None and label is None and not spans
    if blank and status == "ok" and len(check.faults) == before:
        check.fail(
            Fault(where or None, "says nothing: no text, score, label or span; fill it in or remove it")
        )
    source = _source(check, dot, item)
    provenance = _provenance(check, dot, item)
    turn, saw, leaks = item.get("turn", 0), item.get("saw_reference", False), item.get("leaks")
    if isinstance(turn, bool) or not isinstance(turn, int) or turn < 0:
        check.fail(expected(f"{dot}turn", "an index from 0", turn, "a given answer is turn 0"))
    if not isinstance(saw, bool):
        check.fail(expected(f"{dot}saw_reference", "true or false", saw, "write true or false"))
    if not isinstance(leaks, bool | None):
        check.fail(expected(f"{dot}leaks", "true, false or null", leaks, "write null where nobody looked"))
    if len(check.faults) > before or source is None or provenance is None:
        return None
    return Feedback(
        turn=turn, text=text, source=source, score=score, label=named_label(name, label), name=name or None,
        spans=spans, status="failed" if status == "failed" else "ok", error=error, saw_reference=saw,
        leaks=leaks, provenance=provenance,
    )  # fmt: skip


def _source(check: Checker, dot: str, item: dict[str, Any]) -> FeedbackSourceName | None:
    key = "annotator_kind" if "source" not in item and "annotator_kind" in item else "source"
    value = item.get(key)
    if value is None:
        return "human"
    found = SOURCES.get(value.casefold()) if isinstance(value, str) else None
    if found is None:
        near = did_you_mean(str(value).casefold(), SOURCES)
        check.fail(Fault(f"{dot}{key}", f"unknown source {shown(value)}: {near}"))
    return found


def _status(check: Checker, dot: str, item: dict[str, Any]) -> tuple[str, str | None]:
    status = item.get("status", "ok")
    error = check.text(item, "error", dot)
    if status not in ("ok", "failed"):
        near = did_you_mean(str(status), ("ok", "failed"))
        check.fail(Fault(f"{dot}status", f"unknown status {shown(status)}: {near}"))
    elif (status == "failed") != (error is not None):
        message = "a failed feedback needs an 'error', and only a failed one has it; set both or neither"
        check.fail(Fault(f"{dot}status", message))
    return str(status), error


def _provenance(check: Checker, dot: str, item: dict[str, Any]) -> Provenance | None:
    whole = item.get("provenance")
    if whole is None:
        author = check.text(item, "author", dot) or check.text(item, "annotator", dot) or UNKNOWN
        return Provenance(author=author, created_at=check.text(item, "created_at", dot))
    if not isinstance(whole, dict):
        check.fail(expected(f"{dot}provenance", "an object", whole, 'write {"author": …}'))
        return None
    try:
        return Provenance.model_validate(whole, strict=True)
    except ValueError as error:
        first = cast("Any", error).errors()[0]
        path = ".".join(map(str, first["loc"]))
        known = did_you_mean(str(first["loc"][-1]), Provenance.model_fields)
        what = "is missing" if first["type"] == "missing" else first["msg"].lower()
        valid = known if first["type"] == "extra_forbidden" else known[known.index("Valid:") :]
        check.fail(Fault(f"{dot}provenance.{path}", f"{what}. {valid}"))
        return None


def _spans(check: Checker, dot: str, value: object, completion: str | None) -> tuple[Span, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        check.fail(expected(f"{dot}spans", "a list", value, 'write [{"start": …, "end": …, "quote": …}]'))
        return ()
    made = (_span(check, f"{dot}spans[{i}]", item, completion) for i, item in enumerate(value))
    return tuple(span for span in made if span is not None)


def _span(check: Checker, where: str, item: object, completion: str | None) -> Span | None:
    if not isinstance(item, dict):
        check.fail(expected(where, "an object", item, 'write {"start": …, "end": …, "quote": …}'))
        return None
    start, end, quote = item.get("start"), item.get("end"), item.get("quote")
    if not isinstance(quote, str) or not quote:
        check.fail(expected(f"{where}.quote", "the quoted text", quote, "copy it from the completion"))
        return None
    for key, number in (("start", start), ("end", end)):
        if isinstance(number, bool) or not isinstance(number, int):
            check.fail(expected(f"{where}.{key}", "an integer", number, "count Unicode code points from 0"))
            return None
    key = "polarity" if "label" not in item and "polarity" in item else "label"
    label = POLARITIES.get(str(item.get(key)))
    if label is None:
        near = did_you_mean(str(item.get(key)), POLARITIES)
        check.fail(Fault(f"{where}.{key}", f"unknown label {shown(item.get(key))}: {near}"))
        return None
    if completion is None:
        return None
    assert isinstance(start, int)
    assert isinstance(end, int)
    if not 0 <= start < end <= len(completion) or completion[start:end] != quote:
        check.fail(_misplaced(where, start, end, quote, completion))
        return None
    phrase = check.text(item, "phrase", f"{where}.")
    return Span(start=start, end=end, quote=quote, label=cast("Any", label), phrase=phrase)


def _misplaced(where: str, start: int, end: int, quote: str, completion: str) -> Fault:
    there = completion[start:end] if 0 <= start < end else ""
    message = f"the quote {shown(quote, 30)} is not at [{start}, {end}) of the completion"
    message += f", where {shown(there, 30)} stands" if there else ""
    places = completion.count(quote)
    if places == 1:
        at = completion.index(quote)
        why = " (code points, not UTF-16 units)" if _utf16(completion, start, end) == quote else ""
        return Fault(where, f"{message}; set start to {at} and end to {at + len(quote)}{why}")
    found = "does not occur" if not places else f"occurs {places} times"
    return Fault(where, f"{message}; it {found} in the completion: quote one place exactly, or drop the span")


def _utf16(text: str, start: int, end: int) -> str:
    """What [start, end) means to a browser, which counts UTF-16 units."""
    return text.encode("utf-16-le")[2 * max(start, 0) : 2 * max(end, 0)].decode("utf-16-le", "replace")
