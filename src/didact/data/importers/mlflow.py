"""MLflow traces with their assessments, as JSON, JSON lines or CSV.

Shapes after undated copies of the MLflow documentation and source (3.x; in part from pictures of its
interface, so not all of it is confirmed), "Trace Data Model" and
`mlflow.entities.Assessment`, with those of 2.2x read too:

- `Trace.to_json()`: `info` (`trace_id`, `trace_metadata`, `assessments`) and `data` (`spans`);
- rows of `mlflow.search_traces()`: `trace_id`, `request`, `response`, `spans`, `assessments`, `tags`;
- assessments in rows of their own, joined by `trace_id`: `assessment_name`, `source` with `source_type`
  (HUMAN, LLM_JUDGE, CODE) and `source_id`, `feedback.value` or `expectation.value`, `rationale`,
  `create_time` or `create_time_ms`, `valid`.

A feedback with an `error` is a failed feedback, never a score of 0. One that was overridden (`valid` is
false) is passed over. An expectation named expected_response, expected_output, ground_truth or answer is
the private reference; others are kept in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from didact.data.faults import RawRow, Rejected, RowError, expected, row_error
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

GOLD = ("expected_response", "expected_output", "ground_truth", "answer", "reference")


def import_mlflow(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Traces, with their assessments as feedback."""
    join = Join("trace")
    assessments: list[RawRow] = []
    expectations: dict[str, dict[str, Any]] = {}
    for row in rows:
        if isinstance(row, Rejected):
            join.outcome(row)
        elif _is_assessment(row.value):
            assessments.append(row)
        else:
            trace = unpacked(row.value.get("trace"))
            row = RawRow(row.file, row.row, {**row.value, **(trace if isinstance(trace, dict) else {})})
            identity = str(_trace_id(row.value) or f"mlflow/{row.row}")
            wanted = expectations.setdefault(identity, {})
            join.answer(Answer(row, _maker(row, identity, mapping, wanted), wanted=True), identity)
            assessments += _inside(row, identity)
    for row in assessments:
        identity = str(row.value.get("trace_id"))
        if row.value.get("expectation") is not None and join.find(identity) is not None:
            name = str(row.value.get("assessment_name") or row.value.get("name"))
            expectations[identity][name] = _value(row.value["expectation"])
        elif row.value.get("valid") is False:
            join.outcome(row.skipped("an assessment that was overridden by another"))
        else:
            join.hear(row, _feedback, identity)
    yield from join.outcomes()


def _is_assessment(value: dict[str, Any]) -> bool:
    named = "assessment_name" in value or ("source" in value and "name" in value)
    return named and ("feedback" in value or "expectation" in value or "error" in value)


def _trace_id(value: dict[str, Any]) -> Any:
    return next(
        (
            found
            for path in ("info.trace_id", "info.request_id", "trace_id", "request_id")
            if (found := dig(value, path))
        ),
        None,
    )


def _inside(row: RawRow, identity: str) -> list[RawRow]:
    notes = inside(row, dig(row.value, "info.assessments") or row.value.get("assessments"))
    return [RawRow(row.file, row.row, {**note.value, "trace_id": identity}) for note in notes]


def _maker(row: RawRow, identity: str, mapping: Mapping[str, str], expectations: dict[str, Any]) -> Any:
    value = row.value

    def make(feedback: tuple[Feedback, ...]) -> Example:
        rest = {name: inner for name, inner in expectations.items() if name not in GOLD}
        return log_example(
            value,
            mapping,
            identity,
            feedback,
            asked=("request", None if "prompt" in mapping else _said(value, "Inputs", "request")),
            said=("response", None if "completion" in mapping else _said(value, "Outputs", "response")),
            user=_metadata(value, "mlflow.trace.user"),
            reference=next((str(expectations[name]) for name in GOLD if name in expectations), None),
            metadata={"mlflow_trace": identity, "expectations": rest or None},
        )

    return make


def _metadata(value: dict[str, Any], key: str) -> Any:
    for path in ("info.trace_metadata", "info.request_metadata", "trace_metadata", "request_metadata"):
        found = unpacked(dig(value, path))
        if isinstance(found, dict) and key in found:
            return found[key]
    return None


def _said(value: dict[str, Any], side: str, name: str) -> Any:
    """The whole input or output: of the trace, else of its root span, else what the metadata kept."""
    for path in (f"data.{name}", name, side.lower()):
        if (found := dig(value, path)) not in (None, ""):
            return _decoded(found)
    spans = unpacked(dig(value, "data.spans") or value.get("spans"))
    for span in spans if isinstance(spans, list) else []:
        if isinstance(span, dict) and not (span.get("parent_span_id") or span.get("parent_id")):
            plain = "input.value" if side == "Inputs" else "output.value"
            for path in (f"attributes.mlflow.span{side}", f"attributes.{plain}", side.lower()):
                if (found := dig(span, path)) not in (None, ""):
                    return _decoded(found)
    kept = _metadata(value, f"mlflow.trace{side}")
    if isinstance(kept, str) and kept.endswith("..."):
        raise row_error(name, "only a truncated preview is in this file; export the trace with its spans")
    return _decoded(kept)


def _decoded(value: Any) -> Any:
    """Attributes are JSON: a text stands in quotes there."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        import json

        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _value(held: Any) -> Any:
    """What an expectation or a feedback holds."""
    if isinstance(held, dict) and isinstance(held.get("serialized_value"), dict):
        return unpacked(held["serialized_value"].get("value"))
    return held.get("value") if isinstance(held, dict) else held


def _feedback(note: dict[str, Any]) -> Feedback:
    name = maybe_text(note.get("assessment_name") or note.get("name"), "assessment_name")
    source = unpacked(note.get("source"))
    if not isinstance(source, dict):
        raise RowError(expected("source", "an object", source, 'write {"source_type": …, "source_id": …}'))
    error = note.get("error") or dig(note, "feedback.error")
    text = maybe_text(note.get("rationale"), "rationale") or ""
    provenance = Provenance(
        author=str(source.get("source_id") or f"mlflow:{name}"),
        created_at=iso_time(note.get("create_time") or note.get("create_time_ms")),
    )
    kind = annotator(source.get("source_type"), "program")
    if error:
        code = dig(error, "error_code") or "failed"
        why = (
            f"{code}: {dig(error, 'error_message') or 'no message'}"
            if isinstance(error, dict)
            else str(error)
        )
        return Feedback(
            source=kind, status="failed", error=why, saw_reference=False, provenance=provenance,
            label=qualified_label(name, None), name=name or None, text=text,
        )  # fmt: skip
    score, label = verdict(_value(note.get("feedback")), "feedback.value")
    if not text.strip() and score is None and label is None:
        raise row_error("feedback.value", "the assessment says nothing: no value or rationale; remove it")
    return Feedback(
        text=text, score=score, label=qualified_label(name, label), name=name or None, source=kind,
        saw_reference=False, provenance=provenance,
    )  # fmt: skip
