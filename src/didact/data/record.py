"""One row of a data file, checked and turned into an `Example`.

Two forms are read. An `Example` as `model_dump_json` writes it:

    {"id": "7", "problem": {…}, "completion": "Soon.", "feedback": [{…}], "user": null}

and the plain form that people write by hand or get out of other tools:

    {"prompt": "Where is my parcel?", "completion": "Soon.",
     "feedback": [{"text": "It ignores the date.", "source": "human", "annotator": "ann"}]}

In the plain form `prompt` is a text or chat messages, `feedback` is a text, an object, or a list of
them, and may be called critique, rationale, explanation or comment; a score or label beside it belongs
to it. Columns that Didact does not know are kept in the problem's metadata.

Every fault of a row is found, not only the first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from didact.data.feedback_parser import SHARED, TEXT_ALIASES, VERDICT, feedback_items
from didact.data.rows import Fault, RowError, expected, kind_of, shown
from didact.errors import did_you_mean
from didact.types import Example, Message, Problem

ROLES = ("system", "user", "assistant")

EXAMPLE_COLUMNS = ("id", "problem", "completion", "feedback", "user")
PLAIN_COLUMNS = (
    "id", "prompt", "messages", "completion", "user", "reference", "metadata", "completion_sha256",
    *TEXT_ALIASES[1:], *VERDICT, *SHARED,
)  # fmt: skip
"""The plain form's own columns; `text` alone is an alias inside a feedback object only."""


class Checker:
    """Takes values out of a row and notes what is wrong with them."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fail(self, fault: Fault) -> None:
        self.faults.append(fault)

    def text(self, row: Mapping[str, Any], key: str, where: str = "", *, what: str = "") -> str | None:
        """A text that is not blank. With `what`, it is required, and `what` says what to write."""
        column = f"{where}{key}"
        value = row.get(key)
        if value is None:
            if what:
                self.fail(Fault(column, f"is {'null' if key in row else 'missing'}; write {what}"))
            return None
        if not isinstance(value, str):
            self.fail(expected(column, "text", value, "write it as a JSON string"))
        elif what and not value.strip():
            self.fail(Fault(column, f"is empty; write {what}, or remove the row"))
        else:
            return value
        return None

    def number(self, row: Mapping[str, Any], key: str, where: str = "") -> float | None:
        """A finite number, or None where there is none."""
        column = f"{where}{key}"
        value = row.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            cure = "remove its quotes" if _is_number(value) else "write a number, or move it to 'label'"
            self.fail(expected(column, "a number", value, cure))
        elif not _finite(value):
            self.fail(Fault(column, f"{shown(value, 20)} is out of range; write a finite number, or null"))
        else:
            return float(value)
        return None


class _Parts(NamedTuple):
    id: str | None
    problem: Problem | None
    completion: str | None


def parse_example(value: Mapping[str, Any], *, fallback_id: str, strict: bool = True) -> Example:
    """Check one row and turn it into an `Example`.

    Args:
        value: The parsed row, in either form.
        fallback_id: Its id where it names none.
        strict: An unknown column that is almost the name of one that is missing is a fault.

    Raises:
        RowError: with every fault of the row.
    """
    check = Checker()
    parts = _whole(check, value, fallback_id) if "problem" in value else _plain(check, value, fallback_id)
    if strict:
        _refuse_misspelt(check, value)
    user = _user(check, value)
    feedback = feedback_items(check, value, parts.completion, row_level="problem" not in value)
    if check.faults or parts.problem is None or parts.completion is None or parts.id is None:
        raise RowError(*check.faults)
    try:
        return Example(
            id=parts.id, problem=parts.problem, completion=parts.completion, feedback=feedback, user=user
        )
    except ValidationError as error:  # what the checks above do not know of
        raise _row_error(error) from None


def messages_fault(column: str, value: object) -> Fault | None:
    """What is wrong with a prompt: chat messages of which the last is the user's."""
    if not isinstance(value, list) or not value:
        return expected(column, "text or a list of chat messages", value, "write the question as text")
    for i, message in enumerate(value):
        where = f"{column}[{i}]"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            return expected(where, '{"role": …, "content": …}', message, "give it these two keys alone")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            return Fault(f"{where}.role", f"unknown role {shown(role)}: {did_you_mean(str(role), ROLES)}")
        if not isinstance(content, str):
            return expected(f"{where}.content", "text", content, "write what was said as one text")
    if value[-1]["role"] != "user":
        role = value[-1]["role"]
        return Fault(
            column,
            f"the last message must be the user's, not the {role}'s; move the answer to 'completion'",
        )
    if not value[-1]["content"].strip():
        return Fault(column, "is empty; write the question, or remove the row")
    return None


def prompt_id(messages: Iterable[Message], reference: str | None = None) -> str:
    """An id that equal prompts share.

    >>> prompt_id([Message(role="user", content="2 + 2?")])
    'prompt-f16f1297ad66'
    """
    parts = [f"{m.role}\x1f{m.content}" for m in messages] + ([] if reference is None else [reference])
    return "prompt-" + hashlib.blake2b("\x1e".join(parts).encode(), digest_size=6).hexdigest()


def _whole(check: Checker, value: Mapping[str, Any], fallback_id: str) -> _Parts:
    problem = value["problem"]
    completion = check.text(value, "completion", what="the answer")
    identity = _id(check, value, fallback_id)
    if not isinstance(problem, dict):
        check.fail(expected("problem", "an object", problem, "or use the columns 'prompt' and 'reference'"))
        return _Parts(identity, None, completion)
    known = ("id", "messages", "reference", "metadata")
    for key in problem:
        if key not in known:
            check.fail(Fault(f"problem.{key}", f"unknown key: {did_you_mean(key, known)}"))
    if "messages" not in problem:
        check.fail(Fault("problem.messages", "is missing; write the conversation up to the question"))
    elif fault := messages_fault("problem.messages", problem["messages"]):
        check.fail(fault)
    problem_id = check.text(problem, "id", "problem.", what="an id that equal prompts share")
    reference = check.text(problem, "reference", "problem.")
    metadata = _metadata(check, problem, "problem.")
    if check.faults or problem_id is None:
        return _Parts(identity, None, completion)
    messages = tuple(Message(**message) for message in problem["messages"])
    made = Problem(id=problem_id, messages=messages, reference=reference, metadata=metadata)
    return _Parts(identity, made, completion)


def _plain(check: Checker, value: Mapping[str, Any], fallback_id: str) -> _Parts:
    completion = None
    if "completion" in value:
        completion = check.text(value, "completion", what="the answer")
        _check_hash(check, value, completion)
    else:
        check.fail(_missing("completion", value, "the answer that the feedback is about"))
    identity = _id(check, value, fallback_id)
    reference: Any = value.get("reference")
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        reference = str(reference)
    elif reference is not None and not isinstance(reference, str):
        check.fail(expected("reference", "text or a number", reference, "write the gold answer as text"))
    messages = _messages(check, value)
    extras = {k: v for k, v in value.items() if k not in PLAIN_COLUMNS}
    metadata = {**extras, **_metadata(check, value, "")}
    if check.faults or messages is None:
        return _Parts(identity, None, completion)
    shared = prompt_id(messages, reference)
    problem = Problem(id=shared, messages=messages, reference=reference, metadata=metadata)
    return _Parts(identity, problem, completion)


def _messages(check: Checker, value: Mapping[str, Any]) -> tuple[Message, ...] | None:
    column = "messages" if "prompt" not in value and "messages" in value else "prompt"
    if column not in value:
        check.fail(_missing("prompt", value, "the question"))
        return None
    prompt = value[column]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if fault := messages_fault(column, prompt):
        check.fail(fault)
        return None
    return tuple(Message(**message) for message in prompt)


def _id(check: Checker, value: Mapping[str, Any], fallback: str) -> str | None:
    identity = value.get("id")
    if identity is None:
        return fallback
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        check.fail(expected("id", "text or an integer", identity, "give each row an id of its own"))
        return None
    return str(identity)


def _user(check: Checker, value: Mapping[str, Any]) -> str | None:
    user = value.get("user")
    if isinstance(user, int) and not isinstance(user, bool):
        return str(user)
    return check.text(value, "user") or None


def _metadata(check: Checker, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    metadata = row.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        check.fail(expected(f"{where}metadata", "an object", metadata, 'write {"key": value}'))
        return {}
    return metadata


def _check_hash(check: Checker, value: Mapping[str, Any], completion: str | None) -> None:
    claimed = value.get("completion_sha256")
    if claimed is None or completion is None:
        return
    found = hashlib.sha256(completion.encode()).hexdigest()
    if claimed != found:
        message = f"is {shown(claimed, 20)}, but the completion's is '{found[:12]}…'; the answer was changed"
        check.fail(Fault("completion_sha256", message))


def _missing(column: str, value: Mapping[str, Any], what: str) -> Fault:
    hint = did_you_mean(column, map(str, value)) if value else "the row is empty"
    return Fault(column, f"is missing: {hint.replace('Valid:', 'Columns:')}; rename a column, or add {what}")


def _refuse_misspelt(check: Checker, value: Mapping[str, Any]) -> None:
    """An unknown column beside a missing one of almost the same name is a slip, not metadata."""
    import difflib

    whole = "problem" in value
    known = EXAMPLE_COLUMNS if whole else PLAIN_COLUMNS
    absent = [name for name in known if name not in value]
    for key in value:
        if key in known:
            continue
        near = difflib.get_close_matches(key, absent, n=1, cutoff=0.85)
        if near and not any(fault.column == near[0] for fault in check.faults):
            check.fail(Fault(key, f"unknown column: did you mean {near[0]!r}? Rename one or the other"))
        elif whole and not near:
            check.fail(Fault(key, f"unknown column: {did_you_mean(key, known)}; move it to problem.metadata"))


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _row_error(error: ValidationError) -> RowError:
    faults = []
    for found in error.errors(include_url=False, include_context=False):
        column = ".".join(map(str, found["loc"])) or None
        faults.append(Fault(column, f"{found['msg']}, got {kind_of(found['input'])}"))
    return RowError(*faults)
