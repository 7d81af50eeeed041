"""Functions shared by the importers.

An importer turns the rows of an export into examples. It yields an outcome for every row: examples, a
`Rejected` with its faults, or a `Skipped` for a row that holds neither an answer nor feedback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from didact.data.faults import RawRow, Rejected, RowError, Skipped, expected, row_error, shown
from didact.data.record import SOURCES, prompt_id, qualified_label
from didact.data.rows import json_fault
from didact.jsonl import read_package_yaml
from didact.types import Example, Feedback, FeedbackSourceName, Message, Problem, Provenance

Outcome: TypeAlias = Example | Rejected | Skipped
Importer: TypeAlias = Callable[[Iterable[RawRow | Rejected], Mapping[str, str]], Iterator[Outcome]]
"""Takes the rows of all files and the `--map` of columns."""

Make: TypeAlias = Callable[[tuple[Feedback, ...]], Example]
"""Builds an example from its feedback, or raises RowError."""

_WORDS: dict[str, Any] = read_package_yaml("didact.data.importers", "words.yaml")
TARGETS, LOG_TARGETS = tuple(_WORDS["targets"]), tuple(_WORDS["log_targets"])
"""The targets of `--map`; those of logs are paths, as inputs.question."""
ROLES: dict[str, str] = _WORDS["roles"]
UP, DOWN = frozenset(_WORDS["up"]), frozenset(_WORDS["down"])


def make_example(
    identity: str,
    messages: tuple[Message, ...],
    completion: str,
    feedback: Iterable[Feedback],
    *,
    user: str | None = None,
    reference: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Example:
    """An example whose problem id is `prompt_id`; RowError without an answer or a question."""
    if not completion.strip():
        raise row_error("completion", "the answer is empty; remove the row, or map another column")
    if not messages or messages[-1].role != "user":
        raise row_error("prompt", "the conversation does not end with the user's message")
    kept = {k: v for k, v in (metadata or {}).items() if v is not None}
    shared = prompt_id(messages, reference)
    problem = Problem(id=shared, messages=messages, reference=reference, metadata=kept)
    return Example(id=identity, problem=problem, completion=completion, feedback=tuple(feedback), user=user)


def make_feedback(
    column: str,
    *,
    source: FeedbackSourceName,
    author: str,
    text: str | None = None,
    score: float | None = None,
    label: str | None = None,
    name: str | None = None,
    created_at: Any = None,
) -> Feedback:
    """Feedback that did not see the reference, its label qualified by its name; RowError if it is empty."""
    if not (text or "").strip() and score is None and label is None:
        raise row_error(column, "says nothing: no text, score or label; remove it")
    return Feedback(
        text=text or "", score=score, label=qualified_label(name, label), name=name or None, source=source,
        saw_reference=False, provenance=Provenance(author=author, created_at=iso_time(created_at)),
    )  # fmt: skip


def log_example(
    value: dict[str, Any],
    mapping: Mapping[str, str],
    identity: str,
    feedback: Iterable[Feedback],
    *,
    asked: tuple[Any, str],
    answered: tuple[Any, str],
    user: Any = None,
    reference: Any = None,
    metadata: dict[str, Any] | None = None,
) -> Example:
    """An example from a log's row; RowError if the question or the answer is ambiguous or missing.

    Each of `asked` and `answered` is (value, column). The paths of `mapping` override what was found.
    """
    found = {target: (dig(value, path), path) for target, path in mapping.items()}
    return make_example(
        identity,
        log_messages(*found.get("prompt", asked)),
        answer_text(*found.get("completion", answered)),
        feedback,
        user=maybe_text(*found.get("user", (user, "user"))),
        reference=maybe_text(*found.get("reference", (reference, "reference"))),
        metadata=metadata,
    )


def dig(value: Any, path: str) -> Any:
    """The value at a path such as "inputs.messages" or "output.choices.0", or None.

    Keys may contain dots, and JSON texts are parsed on the way.

    >>> dig({"a.b": {"c": [5]}}, "a.b.c.0")
    5
    """
    if not path:
        return value
    value = unpacked(value)
    if isinstance(value, list):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):  # the longest key first
        key = ".".join(parts[:length])
        if key in value and (found := dig(value[key], ".".join(parts[length:]))) is not None:
            return found
    return None


def unpacked(value: Any) -> Any:
    """The parsed value of a JSON text of an object or list; any other value unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return value if json_fault(found) else found
    return value


def log_messages(value: Any, column: str) -> tuple[Message, ...]:
    """Chat messages from a log's input; RowError if the question is ambiguous or missing."""
    value = unpacked(value)
    if isinstance(value, str) and value.strip():
        return (Message(role="user", content=value),)
    if isinstance(value, dict) and "role" in value:
        value = [value]
    if isinstance(value, dict):
        filled = {k: v for k, v in value.items() if v not in (None, "", [], {})}
        key = next((key for key in _WORDS["prompt_keys"] if key in filled), None)
        if key is None and len(filled) == 1:
            key = next(iter(filled))
        if key is None:
            raise row_error(
                column, f"which of {shown(sorted(value))} is the question? Say with --map prompt=PATH"
            )
        return log_messages(filled[key], f"{column}.{key}")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # LangChain logs a batch of one
    if isinstance(value, list) and value:
        return tuple(_message(item, f"{column}[{i}]") for i, item in enumerate(value))
    raise RowError(expected(column, "what was asked", value, "say where it is with --map prompt=PATH"))


def answer_text(value: Any, column: str) -> str:
    """The answer's text from a log's output; RowError if it is ambiguous or missing."""
    found = unpacked(value)
    if isinstance(value, str) and isinstance(found, str | list) and not _is_chat(found):
        return value  # a text, or an answer that is a JSON list
    if isinstance(found, list) and found and (_is_chat(found) or len(found) == 1):
        return answer_text(found[-1], f"{column}[-1]")
    if isinstance(found, dict):
        if isinstance(found.get("choices"), list) and found["choices"]:
            choice = dig(found, "choices.0.message") or dig(found, "choices.0")
            return answer_text(choice, f"{column}.choices[0]")
        if isinstance(found.get("content"), list):
            return _content(found["content"], f"{column}.content")
        texts = [key for key in _WORDS["completion_keys"] if found.get(key) not in (None, "", [], {})]
        if texts:
            return answer_text(found[texts[0]], f"{column}.{texts[0]}")
        if isinstance(value, str):
            return value  # an answer that is a JSON object
        filled = [key for key, inner in found.items() if isinstance(inner, str) and inner.strip()]
        if len(filled) == 1:
            return str(found[filled[0]])
        if found:
            message = f"which of {shown(sorted(found))} is the answer? Say with --map completion=PATH"
            raise row_error(column, message)
    if isinstance(found, bool | int | float):
        return json.dumps(found)
    raise RowError(expected(column, "an answer", value, "say where it is with --map completion=PATH"))


def iso_time(value: Any) -> str | None:
    """A time in ISO 8601 with an offset, UTC by default; None if it is none. Numbers are ms since 1970.

    >>> iso_time("2024-05-29 13:46:19.963000"), iso_time(1745402400000), iso_time("soon")
    ('2024-05-29T13:46:19.963000+00:00', '2025-04-23T10:00:00+00:00', None)
    """
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            when = datetime.fromtimestamp(value / 1000, UTC)
        else:
            when = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).isoformat()


def annotator(kind: Any, default: FeedbackSourceName = "human") -> FeedbackSourceName:
    """The source of an annotator kind: HUMAN, LLM, CODE and vendors' names of them."""
    known = {**SOURCES, "annotation": "human", "eval": "judge", "llm_judge": "judge", "ai_judge": "judge"}
    return known.get(str(kind).casefold(), default)


def score_and_label(value: Any, column: str) -> tuple[float | None, str | None]:
    """(score, label) of a number, a yes or no, or a category.

    >>> score_and_label(True, "value"), score_and_label("thumbs_down", "value"), score_and_label(0.5, "value")
    ((1.0, 'true'), (0.0, 'thumbs_down'), (0.5, None))
    """
    if value is None or value == "":
        return None, None
    if isinstance(value, bool):
        return float(value), str(value).lower()
    if isinstance(value, int | float):
        try:
            return float(value), None
        except OverflowError:
            raise row_error(column, f"{shown(value, 20)} is out of range") from None
    if isinstance(value, str):
        plain = value.strip().casefold()
        if plain in UP or plain in DOWN:
            return float(plain in UP), value
        try:
            number = float(plain)
        except ValueError:
            return None, value
        return (number, None) if number - number == 0 else (None, value)
    return None, json.dumps(value, ensure_ascii=False)


def maybe_text(value: Any, column: str) -> str | None:
    """A text or a number as text, None if empty, else RowError."""
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise RowError(expected(column, "text", value, "map another column"))


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) and "role" in item for item in value)


def _message(item: Any, where: str) -> Message:
    if isinstance(item, dict) and isinstance(item.get("message"), dict):
        item = item["message"]  # OpenInference wraps each message
    elif isinstance(item, dict) and "message.role" in item:
        item = {"role": item["message.role"], "content": item.get("message.content")}
    if not isinstance(item, dict):
        raise RowError(
            expected(where, "a chat message", item, "say where the chat is with --map prompt=PATH")
        )
    name = str(item.get("role") or item.get("type"))
    role = ROLES.get(name.casefold())
    if role is None:
        cure = "name another input with --map prompt=PATH"
        raise row_error(f"{where}.role", f"a message of the role {shown(name)} cannot be trained on; {cure}")
    content = item.get("content")
    if not content and item.get("tool_calls"):
        raise row_error(where, "a message that only calls tools cannot be trained on")
    return Message(role=role, content=_content(content, f"{where}.content"))  # type: ignore[arg-type]


def _content(value: Any, where: str) -> str:
    """A message's text, or the joined texts of its parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        if parts and all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
    raise RowError(expected(where, "text", value, "images and other parts cannot be imported"))


@dataclass
class PendingExample:
    """A row that may become an example."""

    row: RawRow
    make: Make
    keep: bool
    """Keep it without feedback."""
    feedback: list[Feedback] = field(default_factory=list)
    feedback_rows: list[RawRow] = field(default_factory=list)
    """Other rows whose feedback it holds; they are rejected with it."""


def nested_rows(row: RawRow, value: Any, **ids: Any) -> list[RawRow]:
    """The objects of a list inside a row, or of its JSON text; `ids` are for keys that they do not have."""
    items = unpacked(value)
    return [
        RawRow(row.file, row.row, {**ids, **item})
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
    ]


class Join:
    """Collects answers by their ids, attaches feedback, and builds examples; `what` names answers."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pending: list[PendingExample] = []
        self._by_id: dict[str, PendingExample] = {}
        self._outcomes: list[Outcome] = []

    def readable(self, rows: Iterable[RawRow | Rejected]) -> Iterator[RawRow]:
        """The rows that could be read; the others become outcomes."""
        for row in rows:
            if isinstance(row, Rejected):
                self._outcomes.append(row)
            else:
                yield row

    def skip(self, row: RawRow, reason: str) -> None:
        """Skip a row."""
        self._outcomes.append(row.skipped(reason))

    def add_answer(self, row: RawRow, make: Make, *ids: str, keep: bool) -> None:
        """Add an answer with the ids that feedback refers to; a repeated id is rejected."""
        taken = next((i for i in ids if i in self._by_id), None)
        if taken is not None:
            first = self._by_id[taken].row
            message = f"{taken!r} is already the id of row {first.row} of {first.file.name}; remove one"
            self._outcomes.append(row.rejected(row_error("id", message)))
            return
        self._pending.append(PendingExample(row, make, keep))
        self._by_id.update(dict.fromkeys(ids, self._pending[-1]))

    def add_feedback(
        self, row: RawRow, parse: Callable[[dict[str, Any]], Feedback | list[Feedback]], *ids: str | None
    ) -> None:
        """Parse a row's feedback and attach it to the answer of the first known id, or reject the row."""
        answer = next((self._by_id[i] for i in ids if i is not None and i in self._by_id), None)
        try:
            found = parse(row.value)
            if answer is None:
                known = next((i for i in ids if i), "without an id").rpartition(":")[2]
                message = f"no {self._what} {known!r} is in these files; name the file that has it too"
                raise row_error(None, message)
        except RowError as error:
            self._outcomes.append(row.rejected(error))
            return
        for feedback in [found] if isinstance(found, Feedback) else found:
            if feedback in answer.feedback:
                fault = row_error(None, "says what another row says of the same answer; remove one")
                self._outcomes.append(row.rejected(fault))
            else:
                answer.feedback.append(feedback)
                answer.feedback_rows.append(row)

    def outcomes(self) -> Iterator[Outcome]:
        """All outcomes, answers in the order of their rows."""
        yield from self._outcomes
        for answer in self._pending:
            if not answer.keep and not answer.feedback:
                yield answer.row.skipped("part of a trace, without feedback of its own")
                continue
            try:
                yield answer.make(tuple(answer.feedback))
            except RowError as error:
                yield answer.row.rejected(error)
                where = f"row {answer.row.row} of {answer.row.file.name}"
                lost = row_error(None, f"its answer, {where}, cannot be used: {error}")
                yield from (row.rejected(lost) for row in answer.feedback_rows if row is not answer.row)
