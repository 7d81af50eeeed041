"""Phoenix exports: spans and the annotations on them, as JSON, JSON lines or CSV.

Shapes after undated copies of the Phoenix documentation (arize-phoenix 9 and later; columns in part from
third-party readers, so not all of them are confirmed), "Capture
feedback", "Log evaluation results" and "Retrieve traces via CLI":

- spans of `get_spans_dataframe()` (`context.span_id`, `attributes.input.value`, …) or of the CLI's
  `px trace list --include-annotations --format raw` (`spans` with `attributes` and `annotations`);
- annotations of the REST API (`span_id`, `name`, `annotator_kind` HUMAN, LLM or CODE, `result` with
  `label`, `score`, `explanation`, `identifier`), of `get_span_annotations_dataframe()` with the same in
  columns such as `result.label`, and evaluation dataframes (`span_id`, `label`, `score`, `explanation`).

Give the files together: `didact data import phoenix spans.jsonl annotations.jsonl`. A span is an example
if it is annotated, or if it is the root of its trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from didact.data.faults import RawRow, Rejected, row_error
from didact.data.feedback_parser import qualified_label
from didact.data.importers.base import (
    Outcome,
    annotator,
    dig,
    iso_time,
    log_example,
    maybe_text,
    unpacked,
    verdict,
)
from didact.data.importers.join import Answer, Join, inside
from didact.types import Example, Feedback, Provenance

FLAT_MESSAGE = re.compile(r"(?:attributes\.)?llm\.(input|output)_messages\.(\d+)\.message\.(role|content)")


def import_phoenix(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Annotated spans and roots, with their annotations as feedback."""
    join = Join("span")
    annotations: list[RawRow] = []
    for row in rows:
        if isinstance(row, Rejected):
            join.outcome(row)
        elif _is_annotation(row.value):
            annotations.append(row)
        else:
            spans = _spans(row)
            if not spans:
                join.outcome(row.skipped("a trace without spans"))
            for span in spans:
                identity = str(_span_id(span.value) or f"phoenix/{span.row}")
                join.answer(
                    Answer(span, _maker(span, identity, mapping), wanted=_is_root(span.value)), identity
                )
                annotations += inside(span, span.value.get("annotations"), span_id=identity)
    for row in annotations:
        join.hear(row, _feedback, str(_span_id(row.value)))
    yield from join.outcomes()


def _spans(row: RawRow) -> list[RawRow]:
    """The spans of a trace, or the row itself where it is a span."""
    spans = unpacked(row.value.get("spans"))
    return inside(row, spans) if isinstance(spans, list) else [row]


def _is_annotation(value: dict[str, Any]) -> bool:
    if {"annotator_kind", "result", "result.label", "result.score", "result.explanation"} & set(value):
        return True
    told = {"label", "score", "explanation"} & set(value)
    return bool(told) and _span_id(value) is not None and "attributes" not in value


def _span_id(value: dict[str, Any]) -> Any:
    return dig(value, "context.span_id") or value.get("span_id") or value.get("spanId")


def _is_root(value: dict[str, Any]) -> bool:
    return not (value.get("parent_id") or value.get("parentId"))


def _maker(row: RawRow, identity: str, mapping: Mapping[str, str]) -> Any:
    value = row.value

    def make(feedback: tuple[Feedback, ...]) -> Example:
        return log_example(
            value,
            mapping,
            identity,
            feedback,
            asked=("attributes.input", _said(value, "input")),
            said=("attributes.output", _said(value, "output")),
            user=_attribute(value, "user.id"),
            metadata={"phoenix_trace": dig(value, "context.trace_id"), "name": value.get("name")},
        )

    return make


def _said(value: dict[str, Any], side: str) -> Any:
    """Messages of an LLM span where it has them, else its input or output value."""
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
    def told(key: str) -> Any:
        found = dig(note, f"result.{key}")
        return note.get(key) if found is None else found

    name = maybe_text(note.get("name") or note.get("annotation_name"), "name")
    text = maybe_text(told("explanation"), "result.explanation") or ""
    label = maybe_text(told("label"), "result.label")
    score = verdict(told("score"), "result.score")[0]
    if not text.strip() and label is None and score is None:
        raise row_error("result", "the annotation says nothing: no label, score or explanation; remove it")
    kind = note.get("annotator_kind") or "LLM"  # evaluation dataframes are what judges write
    author = note.get("identifier") or note.get("user_id") or f"phoenix:{name or str(kind).lower()}"
    return Feedback(
        text=text, score=score, label=qualified_label(name, label), name=name or None,
        source=annotator(kind, "program"), saw_reference=False,
        provenance=Provenance(author=str(author), created_at=iso_time(note.get("created_at"))),
    )  # fmt: skip
