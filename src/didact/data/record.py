"""One row of a data file, checked and turned into an `Example`.

Two forms are read. An `Example` as `model_dump_json` writes it:

    {"id": "7", "problem": {…}, "completion": "Soon.", "feedback": [{…}], "user": null}

and a plain form, for files written by hand or exported from other tools:

    {"prompt": "Where is my parcel?", "completion": "Soon.",
     "feedback": [{"text": "It ignores the date.", "source": "human", "annotator": "ann"}]}

In the plain form `prompt` is a text or chat messages, `feedback` is a text, an object, or a list of them,
and may be called critique, rationale, explanation or comment; a score or label beside it belongs to it.
Unknown columns are kept in the problem's metadata.

All faults of a row are reported, not only the first.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from didact.data.faults import Checker, RowError, columns_near, expected, row_error, shown
from didact.errors import did_you_mean
from didact.feedback_store import UNKNOWN_AUTHOR
from didact.types import Example, Feedback, FeedbackSourceName, Message, Problem

TEXT_ALIASES = ("text", "feedback", "critique", "rationale", "explanation", "comment")

SOURCES: dict[str, FeedbackSourceName] = {
    "human": "human", "judge": "judge", "llm": "judge", "program": "program", "code": "program",
    "teacher": "teacher", "self": "self",
}  # fmt: skip
"""Sources by the annotator kinds that a row may name."""

SPAN_LABELS = {"positive": "good", "+": "good", "negative": "poor", "-": "poor"}

VERDICT = ("score", "label", "spans")
"""Columns of a plain row that belong to its only feedback."""
SHARED = ("author", "annotator", "annotator_kind", "source", "created_at")
"""Columns of a plain row that apply to all its feedback."""
GENERIC_NAMES = {
    "", "feedback", "user_feedback", "human_feedback", "label", "score", "rating", "thumbs", "thumb",
    "reaction", "note", "comment", "overall",
}  # fmt: skip
"""Names of feedback that do not name an aspect of the answer."""

ROLES = ("system", "user", "assistant")
EXAMPLE_COLUMNS = ("id", "problem", "completion", "feedback", "user")
PLAIN_COLUMNS = (
    "id", "prompt", "messages", "completion", "user", "reference", "metadata", "completion_sha256",
    *TEXT_ALIASES[1:], *VERDICT, *SHARED,
)  # fmt: skip
"""The columns of the plain form; `text` is an alias inside feedback objects only."""


def parse_example(value: Mapping[str, Any], *, fallback_id: str, strict: bool = True) -> Example:
    """Turn a parsed row into an `Example`; RowError with every fault of the row.

    A row without an id gets `fallback_id`. If `strict`, an unknown column whose name is close to that of a
    missing one is a fault.
    """
    check = Checker()
    is_example = "problem" in value
    if is_example or "completion" in value:
        completion = check.text(value, "completion", required="the answer")
    else:
        completion = None
        _missing(check, "completion", value, "the answer that the feedback is about")
    identity = value.get("id", fallback_id)
    if identity is None:
        identity = fallback_id
    elif isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        check.expected("id", "text or an integer", identity, "give each row an id of its own")
    problem = (_problem if is_example else _plain_problem)(check, value, completion)
    if strict:
        _check_column_names(check, value)
    user = value.get("user")
    if not isinstance(user, int) or isinstance(user, bool):
        user = check.text(value, "user") or None
    feedback = _parse_feedback(check, value, completion, plain=not is_example)
    if check.faults or problem is None or completion is None:
        raise RowError(*check.faults)
    return Example(
        id=str(identity),
        problem=problem,
        completion=completion,
        feedback=feedback,
        user=None if user is None else str(user),
    )


def parse_messages(value: object, column: str) -> tuple[Message, ...]:
    """A prompt: a text, or chat messages {"role": …, "content": …} of which the last is the user's.

    RowError names the first fault and its place in `column`.
    """
    chat = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(chat, list) or not chat:
        raise RowError(
            expected(column, "text or a list of chat messages", value, "write the question as text")
        )
    for i, message in enumerate(chat):
        where = f"{column}[{i}]"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            cure = "give it these two keys alone"
            raise RowError(expected(where, '{"role": …, "content": …}', message, cure))
        role, content = message["role"], message["content"]
        if role not in ROLES:
            near = did_you_mean(str(role), ROLES)
            raise row_error(f"{where}.role", f"unknown role {shown(role)}: {near}")
        if not isinstance(content, str):
            cure = "write the content as one text"
            raise RowError(expected(f"{where}.content", "text", content, cure))
    role, content = chat[-1]["role"], chat[-1]["content"]
    if role != "user":
        message = f"the last message must be the user's, not the {role}'s; move the answer to its own column"
        raise row_error(column, message)
    if not content.strip():
        raise row_error(column, "is empty; write the question, or remove the row")
    return tuple(Message(**message) for message in chat)


def prompt_id(messages: Iterable[Message], reference: str | None = None) -> str:
    """A problem id that depends on the messages and the reference alone.

    >>> prompt_id([Message(role="user", content="2 + 2?")])
    'prompt-f16f1297ad66'
    """
    parts = [f"{m.role}\x1f{m.content}" for m in messages] + ([] if reference is None else [reference])
    return "prompt-" + hashlib.blake2b("\x1e".join(parts).encode(), digest_size=6).hexdigest()


def _problem(check: Checker, value: Mapping[str, Any], completion: str | None) -> Problem | None:
    """The problem of a row in the form of an `Example`."""
    problem = value["problem"]
    if not isinstance(problem, dict):
        check.expected("problem", "an object", problem, "or use the columns 'prompt' and 'reference'")
        return None
    found = check.model(Problem, problem, "problem.")
    if found is not None and not found.question.strip():
        check.fail("problem.messages", "is empty; write the question, or remove the row")
    return found


def _plain_problem(check: Checker, value: Mapping[str, Any], completion: str | None) -> Problem | None:
    """The problem of a row in the plain form."""
    claimed = value.get("completion_sha256")
    if claimed is not None and completion is not None:
        found = hashlib.sha256(completion.encode()).hexdigest()
        if claimed != found:
            message = f"is {shown(claimed, 20)}, but the completion's is '{found[:12]}…'"
            check.fail("completion_sha256", f"{message}; the answer was changed")
    reference: Any = value.get("reference")
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        reference = str(reference)
    elif reference is not None and not isinstance(reference, str):
        check.expected("reference", "text or a number", reference, "write the gold answer as text")
    column = "messages" if "prompt" not in value and "messages" in value else "prompt"
    messages = None
    if column not in value:
        _missing(check, "prompt", value, "the question")
    else:
        try:
            messages = parse_messages(value[column], column)
        except RowError as error:
            check.faults += error.faults
    metadata = {} if value.get("metadata") is None else value["metadata"]
    if not isinstance(metadata, dict):
        check.expected("metadata", "an object", metadata, 'write {"key": value}')
    if check.faults or messages is None:
        return None
    return Problem(
        id=prompt_id(messages, reference),
        messages=messages,
        reference=reference,
        metadata={**{k: v for k, v in value.items() if k not in PLAIN_COLUMNS}, **metadata},
    )


def _missing(check: Checker, column: str, value: Mapping[str, Any], what: str) -> None:
    hint = columns_near(column, value) if value else "the row is empty"
    check.fail(column, f"is missing: {hint}; rename a column, or add {what}")


def _check_column_names(check: Checker, value: Mapping[str, Any]) -> None:
    """Reject an unknown column whose name is close to that of a missing one: it is no metadata."""
    is_example = "problem" in value
    known = EXAMPLE_COLUMNS if is_example else PLAIN_COLUMNS
    absent = [name for name in known if name not in value]
    for key in value:
        if key in known:
            continue
        near = difflib.get_close_matches(key, absent, n=1, cutoff=0.85)
        if near and not any(fault.column == near[0] for fault in check.faults):
            check.fail(key, f"unknown column: did you mean {near[0]!r}? Rename one or the other")
        elif is_example and not near:
            check.fail(key, f"unknown column: {did_you_mean(key, known)}; move it to problem.metadata")


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


def _parse_feedback(
    check: Checker, row: Mapping[str, Any], completion: str | None, *, plain: bool
) -> tuple[Feedback, ...]:
    """All feedback of a row; `completion` is None if the answer has faults of its own.

    A repeated feedback is a fault in the plain form; in an `Example` it is a version of a critique.
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
        units = completion.encode("utf-16-le")[2 * max(start, 0) : 2 * max(end, 0)]  # as browsers count
        as_utf16 = units.decode("utf-16-le", "replace") == quote
        why = " (code points, not UTF-16 units)" if as_utf16 else ""
        return f"{message}; set start to {at} and end to {at + len(quote)}{why}"
    found = f"occurs {count} times" if count else "does not occur"
    return f"{message}; it {found} in the completion: quote one place exactly, or drop the span"
