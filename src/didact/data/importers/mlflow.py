"""MLflow traces with their assessments, as JSON, JSON lines or CSV; shapes: docs/data.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from didact.data.faults import RawRow, Rejected, RowError, expected, row_error
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
from didact.types import Example, Feedback

GOLD = ("expected_response", "expected_output", "ground_truth", "answer", "reference")


def import_mlflow(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Traces, with their assessments as feedback."""
    join = Join("trace")
    assessments: list[RawRow] = []
    expectations: dict[str, dict[str, Any]] = {}
    for row in join.readable(rows):
        if _is_assessment(row.value):
            assessments.append(row)
            continue
        trace = unpacked(row.value.get("trace"))
        row = RawRow(row.file, row.row, {**row.value, **(trace if isinstance(trace, dict) else {})})
        identity = str(_first(row.value, *TRACE_IDS) or f"mlflow/{row.row}")
        found = expectations.setdefault(identity, {})
        join.add_answer(row, partial(_example, row.value, mapping, identity, found), identity, keep=True)
        held = dig(row.value, "info.assessments") or row.value.get("assessments")
        for note in nested_rows(row, held):
            assessments.append(RawRow(row.file, row.row, {**note.value, "trace_id": identity}))
    for row in assessments:
        identity = str(row.value.get("trace_id"))
        if row.value.get("expectation") is not None and identity in expectations:
            name = str(row.value.get("assessment_name") or row.value.get("name"))
            expectations[identity][name] = _value(row.value["expectation"])
        elif row.value.get("valid") is False:
            join.skip(row, "an assessment that was overridden by another")
        else:
            join.add_feedback(row, _feedback, identity)
    yield from join.outcomes()


TRACE_IDS = ("info.trace_id", "info.request_id", "trace_id", "request_id")


def _is_assessment(value: dict[str, Any]) -> bool:
    named = "assessment_name" in value or ("source" in value and "name" in value)
    return named and ("feedback" in value or "expectation" in value or "error" in value)


def _first(value: dict[str, Any], *paths: str) -> Any:
    """The first value at these paths that is neither missing nor empty."""
    return next((found for path in paths if (found := dig(value, path)) not in (None, "")), None)


def _example(
    value: dict[str, Any],
    mapping: Mapping[str, str],
    identity: str,
    expectations: dict[str, Any],
    feedback: tuple[Feedback, ...],
) -> Example:
    asked = None if "prompt" in mapping else _content(value, "Inputs", "request")
    answered = None if "completion" in mapping else _content(value, "Outputs", "response")
    rest = {name: inner for name, inner in expectations.items() if name not in GOLD}
    return log_example(
        value,
        mapping,
        identity,
        feedback,
        asked=(asked, "request"),
        answered=(answered, "response"),
        user=_metadata(value, "mlflow.trace.user"),
        reference=next((str(expectations[name]) for name in GOLD if name in expectations), None),
        metadata={"mlflow_trace": identity, "expectations": rest or None},
    )


def _metadata(value: dict[str, Any], key: str) -> Any:
    for path in ("info.trace_metadata", "info.request_metadata", "trace_metadata", "request_metadata"):
        found = unpacked(dig(value, path))
        if isinstance(found, dict) and key in found:
            return found[key]
    return None


def _content(value: dict[str, Any], side: str, name: str) -> Any:
    """The whole input or output: the trace's, else its root span's, else that in the metadata."""
    if (found := _first(value, f"data.{name}", name, side.lower())) is not None:
        return _decoded(found)
    spans = unpacked(dig(value, "data.spans") or value.get("spans"))
    plain = "input.value" if side == "Inputs" else "output.value"
    paths = (f"attributes.mlflow.span{side}", f"attributes.{plain}", side.lower())
    for span in spans if isinstance(spans, list) else []:
        is_root = isinstance(span, dict) and not (span.get("parent_span_id") or span.get("parent_id"))
        if is_root and (found := _first(span, *paths)) is not None:
            return _decoded(found)
    kept = _metadata(value, f"mlflow.trace{side}")
    if isinstance(kept, str) and kept.endswith("..."):
        raise row_error(name, "only a truncated preview is in this file; export the trace with its spans")
    return _decoded(kept)


def _decoded(value: Any) -> Any:
    """The text of a JSON string; any other value unchanged."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _value(held: Any) -> Any:
    """The value of an expectation or a feedback."""
    if isinstance(held, dict) and isinstance(held.get("serialized_value"), dict):
        return unpacked(held["serialized_value"].get("value"))
    return held.get("value") if isinstance(held, dict) else held


def _feedback(note: dict[str, Any]) -> Feedback:
    name = maybe_text(note.get("assessment_name") or note.get("name"), "assessment_name")
    source = unpacked(note.get("source"))
    if not isinstance(source, dict):
        raise RowError(expected("source", "an object", source, 'write {"source_type": …, "source_id": …}'))
    error = note.get("error") or dig(note, "feedback.error")
    score, label = (None, name) if error else score_and_label(_value(note.get("feedback")), "feedback.value")
    feedback = make_feedback(
        "feedback.value", text=maybe_text(note.get("rationale"), "rationale"), score=score, label=label,
        name=name, source=annotator(source.get("source_type"), "program"),
        author=str(source.get("source_id") or f"mlflow:{name}"),
        created_at=note.get("create_time") or note.get("create_time_ms"),
    )  # fmt: skip
    if not error:
        return feedback
    why = str(error)
    if isinstance(error, dict):
        why = f"{error.get('error_code') or 'failed'}: {error.get('error_message') or 'no message'}"
    return feedback.model_copy(update={"status": "failed", "error": why})
