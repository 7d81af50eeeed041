"""Phoenix exports: spans and the annotations on them, as JSON, JSON lines or CSV; shapes: docs/data.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from didact.data.faults import RawRow, Rejected
from didact.data.importers.base import (
    Join,
    Outcome,
    annotator,
    dig,
    log_example,
    make_feedback,
    maybe_text,
    nested_rows,
    score_and_label,
    unpacked,
)
from didact.types import Feedback

FLAT_MESSAGE = re.compile(r"(?:attributes\.)?llm\.(input|output)_messages\.(\d+)\.message\.(role|content)")


def import_phoenix(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Annotated spans and roots, with their annotations as feedback."""
    join = Join("span")
    annotations: list[RawRow] = []
    for row in join.readable(rows):
        if _is_annotation(row.value):
            annotations.append(row)
            continue
        nested = unpacked(row.value.get("spans"))
        spans = nested_rows(row, nested) if isinstance(nested, list) else [row]
        if not spans:
            join.skip(row, "a trace without spans")
        for span in spans:
            value = span.value
            identity = str(_span_id(value) or f"phoenix/{span.row}")
            is_root = not (value.get("parent_id") or value.get("parentId"))
            make = partial(
                log_example,
                value,
                mapping,
                identity,
                asked=(_content(value, "input"), "attributes.input"),
                answered=(_content(value, "output"), "attributes.output"),
                user=_attribute(value, "user.id"),
                metadata={"phoenix_trace": dig(value, "context.trace_id"), "name": value.get("name")},
            )
            join.add_answer(span, make, identity, keep=is_root)
            annotations += nested_rows(span, value.get("annotations"), span_id=identity)
    for row in annotations:
        join.add_feedback(row, _feedback, str(_span_id(row.value)))
    yield from join.outcomes()


def _is_annotation(value: dict[str, Any]) -> bool:
    if {"annotator_kind", "result", "result.label", "result.score", "result.explanation"} & set(value):
        return True
    verdicts = {"label", "score", "explanation"} & set(value)
    return bool(verdicts) and _span_id(value) is not None and "attributes" not in value


def _span_id(value: dict[str, Any]) -> Any:
    return dig(value, "context.span_id") or value.get("span_id") or value.get("spanId")


def _content(value: dict[str, Any], side: str) -> Any:
    """The messages of an LLM span, or else its input or output value."""
    flat: dict[int, dict[str, Any]] = {}
    attributes = unpacked(value.get("attributes"))
    for key, inner in {**value, **(attributes if isinstance(attributes, dict) else {})}.items():
        if (found := FLAT_MESSAGE.fullmatch(key)) and found[1] == side:
            flat.setdefault(int(found[2]), {})[found[3]] = inner
    if flat:
        return [flat[i] for i in sorted(flat)]
    return _attribute(value, f"llm.{side}_messages") or _attribute(value, f"{side}.value")


def _attribute(value: dict[str, Any], path: str) -> Any:
    return dig(value, f"attributes.{path}")


def _feedback(note: dict[str, Any]) -> Feedback:
    def result(key: str) -> Any:
        found = dig(note, f"result.{key}")
        return note.get(key) if found is None else found

    name = maybe_text(note.get("name") or note.get("annotation_name"), "name")
    kind = note.get("annotator_kind") or "LLM"  # evaluation dataframes are written by judges
    author = note.get("identifier") or note.get("user_id") or f"phoenix:{name or str(kind).lower()}"
    return make_feedback(
        "result", text=maybe_text(result("explanation"), "result.explanation"),
        score=score_and_label(result("score"), "result.score")[0],
        label=maybe_text(result("label"), "result.label"), name=name, source=annotator(kind, "program"),
        author=str(author), created_at=note.get("created_at"),
    )  # fmt: skip
