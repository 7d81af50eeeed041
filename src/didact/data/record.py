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
from collections.abc import Iterable, Mapping
from typing import Any

from didact.data.faults import Checker, RowError, columns_near, expected, row_error, shown
from didact.data.feedback_parser import SHARED, TEXT_ALIASES, VERDICT, parse_feedback
from didact.errors import did_you_mean
from didact.types import Example, Message, Problem

ROLES = ("system", "user", "assistant")

EXAMPLE_COLUMNS = ("id", "problem", "completion", "feedback", "user")
PLAIN_COLUMNS = (
    "id", "prompt", "messages", "completion", "user", "reference", "metadata", "completion_sha256",
    *TEXT_ALIASES[1:], *VERDICT, *SHARED,
)  # fmt: skip
"""The columns of the plain form; `text` is an alias inside feedback objects only."""


def parse_example(value: Mapping[str, Any], *, fallback_id: str, strict: bool = True) -> Example:
    """Check one row and turn it into an `Example`.

    Args:
        value: The parsed row, in either form.
        fallback_id: The id of a row without one.
        strict: Reject an unknown column whose name is close to that of a missing one.

    Raises:
        RowError: with every fault of the row.
    """
    check = Checker()
    is_example = "problem" in value
    if is_example or "completion" in value:
        completion = check.text(value, "completion", required="the answer")
    else:
        completion = None
        _missing(check, "completion", value, "the answer that the feedback is about")
    identity = _id(check, value, fallback_id)
    problem = (_problem if is_example else _plain_problem)(check, value, completion)
    if strict:
        _check_column_names(check, value)
    user = _user(check, value)
    feedback = parse_feedback(check, value, completion, plain=not is_example)
    if check.faults or problem is None or completion is None:
        raise RowError(*check.faults)
    return Example(id=identity, problem=problem, completion=completion, feedback=feedback, user=user)


def parse_messages(value: object, column: str) -> tuple[Message, ...]:
    """A prompt: a text, or chat messages of which the last is the user's.

    Args:
        value: The text or the list of {"role": …, "content": …}.
        column: Where it is, for the error.

    Raises:
        RowError: naming the first fault.
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
    _check_hash(check, value, completion)
    reference: Any = value.get("reference")
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        reference = str(reference)
    elif reference is not None and not isinstance(reference, str):
        check.expected("reference", "text or a number", reference, "write the gold answer as text")
    column = "messages" if "prompt" not in value and "messages" in value else "prompt"
    messages = None
    if column in value:
        messages = _messages(check, value[column], column)
    else:
        _missing(check, "prompt", value, "the question")
    extras = {k: v for k, v in value.items() if k not in PLAIN_COLUMNS}
    metadata = {**extras, **_metadata(check, value, "")}
    if check.faults or messages is None:
        return None
    shared = prompt_id(messages, reference)
    return Problem(id=shared, messages=messages, reference=reference, metadata=metadata)


def _messages(check: Checker, value: object, column: str) -> tuple[Message, ...] | None:
    try:
        return parse_messages(value, column)
    except RowError as error:
        check.faults += error.faults
        return None


def _id(check: Checker, value: Mapping[str, Any], fallback: str) -> str:
    identity = value.get("id")
    if identity is None:
        return fallback
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        check.expected("id", "text or an integer", identity, "give each row an id of its own")
    return str(identity)


def _user(check: Checker, value: Mapping[str, Any]) -> str | None:
    user = value.get("user")
    if isinstance(user, int) and not isinstance(user, bool):
        return str(user)
    return check.text(value, "user") or None


def _metadata(check: Checker, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    metadata = row.get("metadata")
    if metadata is None or isinstance(metadata, dict):
        return metadata or {}
    check.expected(f"{where}metadata", "an object", metadata, 'write {"key": value}')
    return {}


def _check_hash(check: Checker, value: Mapping[str, Any], completion: str | None) -> None:
    claimed = value.get("completion_sha256")
    if claimed is None or completion is None:
        return
    found = hashlib.sha256(completion.encode()).hexdigest()
    if claimed != found:
        message = f"is {shown(claimed, 20)}, but the completion's is '{found[:12]}…'; the answer was changed"
        check.fail("completion_sha256", message)


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
