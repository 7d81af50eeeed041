"""Weave exports: calls with the feedback on them, as JSON, JSON lines or CSV; shapes: docs/data.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from didact.data.faults import RawRow, Rejected, RowError, expected, row_error
from didact.data.importers.base import (
    Join,
    Outcome,
    dig,
    log_example,
    make_feedback,
    maybe_text,
    nested_rows,
    score_and_label,
    unpacked,
)
from didact.types import Feedback, FeedbackSourceName

TEXT_KEYS = ("note", "comment", "reason", "rationale", "explanation", "text", "feedback", "critique")


def import_weave(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Calls, with their feedback."""
    join = Join("call")
    feedback: list[tuple[RawRow, str]] = []
    for row in join.readable(rows):
        if "feedback_type" in row.value:
            feedback.append((row, _call_of(row.value)))
            continue
        value = _nested(row.value)
        identity = str(value.get("id") or f"weave/{row.row}")
        call = RawRow(row.file, row.row, value)
        make = partial(
            log_example,
            value,
            mapping,
            identity,
            asked=(_inputs(value.get("inputs")), "inputs"),
            answered=(value.get("output"), "output"),
            metadata={"weave_trace": value.get("trace_id"), "op_name": value.get("op_name")},
        )
        join.add_answer(call, make, identity, keep=not value.get("parent_id"))
        held = dig(value, "summary.weave.feedback") or value.get("feedback")
        feedback += [(item, identity) for item in nested_rows(call, held)]
    for row, identity in feedback:
        join.add_feedback(row, _feedback, identity)
    yield from join.outcomes()


def _nested(value: dict[str, Any]) -> dict[str, Any]:
    """Nest CSV columns such as inputs.question under inputs; empty cells are left out."""
    gathered: dict[str, dict[str, Any]] = {}
    made: dict[str, Any] = {}
    for key, inner in value.items():
        head, dot, rest = key.partition(".")
        if not dot or head not in ("inputs", "output"):
            made[key] = inner
        elif inner != "":
            gathered.setdefault(head, {})[rest] = inner
    return made | {head: fields for head, fields in gathered.items() if head not in made}


def _call_of(value: dict[str, Any]) -> str:
    """The call's id, the last part of its reference."""
    return str(value.get("call_id") or str(value.get("weave_ref") or "").rstrip("/").rpartition("/")[2])


def _inputs(value: Any) -> Any:
    """Inputs without the called object and its settings."""
    value = unpacked(value)
    if not isinstance(value, dict):
        return value
    own = ("self", "model", "temperature", "max_tokens", "kwargs")
    rest = {key: inner for key, inner in value.items() if key not in own}
    return rest if rest else value


def _feedback(item: dict[str, Any]) -> list[Feedback]:
    """The feedback of an entry: one, or one for each field of its payload."""
    kind = str(item.get("feedback_type"))
    payload = unpacked(item.get("payload"))
    if not isinstance(payload, dict):
        raise RowError(expected("payload", "an object", payload, "export the feedback with its payload"))
    name, source = _name_and_source(kind)
    if kind.startswith("wandb.reaction."):
        emoji = (maybe_text(payload.get("emoji"), "payload.emoji") or "").rstrip("\ufe0f🏻🏼🏽🏾🏿")
        values = [("", *score_and_label(emoji or None, "payload.emoji"), "")]
    else:
        key = next((key for key in ("value", "output") if key in payload), None)
        values = _values(payload if key is None else payload[key])
    author = str(item.get("creator") or item.get("wb_user_id") or f"weave:{name or kind}")
    found = [
        make_feedback(
            "payload", text=text, score=score, label=label, source=source, author=author,
            name=".".join(filter(None, (name, field))), created_at=item.get("created_at"),
        )
        for text, score, label, field in values
        if text.strip() or score is not None or label is not None
    ]  # fmt: skip
    if not found:
        raise row_error("payload", "the feedback says nothing; remove it")
    return found


def _name_and_source(kind: str) -> tuple[str | None, FeedbackSourceName]:
    """(name, source) of a feedback type. A scorer may be a judge, but the export does not record it."""
    if kind.startswith("wandb.annotation."):
        return kind.removeprefix("wandb.annotation."), "human"
    if kind.startswith("wandb.runnable."):
        return kind.removeprefix("wandb.runnable."), "program"
    return (None if kind.startswith("wandb.") else kind), "human"


def _values(held: Any) -> list[tuple[str, float | None, str | None, str]]:
    """(text, score, label, field) of each value of a payload; its text belongs to the first."""
    held = unpacked(held)
    if not isinstance(held, dict):
        score, label = score_and_label(held, "payload.value")
        if label is not None and score is None and len(label.split()) > 3:
            return [(label, None, None, "")]
        return [("", score, label, "")]
    fields = {name: inner for name, inner in held.items() if inner not in (None, "")}
    key = next((key for key in TEXT_KEYS if isinstance(fields.get(key), str)), None)
    text = "" if key is None else fields.pop(key)
    several = len(fields) > 1
    return [
        (text if i == 0 else "", *score_and_label(inner, f"payload.{name}"), name if several else "")
        for i, (name, inner) in enumerate(fields.items())
    ] or [(text, None, None, "")]
