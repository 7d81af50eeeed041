"""Langfuse exports: traces, observations and scores, as JSON, JSON lines or CSV.

Shapes after the Langfuse documentation, "Export Data from UI" and "Blob Storage Export Field
Reference" (undated copies), and the score schema of its public API:

- the UI export of a table, an array of rows in camelCase (`id`, `traceId`, `type`, `input`, `output`);
- the blob-storage files `traces/`, `observations/` or `observations_v2/`, and `scores/`, in snake_case;
- a trace downloaded as JSON, with its `observations` and `scores` inside.

Scores are joined to the observation that they name, else to their trace; give the files together:
`didact data import langfuse traces.jsonl scores.jsonl`. A score has `name`, `value`, `string_value`,
`data_type` (NUMERIC, BOOLEAN, CATEGORICAL, TEXT), `comment` and `source`: ANNOTATION is a person, EVAL a
judge. API is whatever the SDK sent: a person where the name says so (user-feedback, thumbs, rating),
a program otherwise.

A trace is an example, with or without scores; an observation is one if it has scores of its own, or if
its trace is not in the files and it is the trace's root or a GENERATION without a root.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from didact.data.faults import RawRow, Rejected, row_error
from didact.data.feedback_parser import qualified_label
from didact.data.importers.base import Outcome, annotator, iso_time, log_example, maybe_text, verdict
from didact.data.importers.join import Answer, Join, inside
from didact.types import Feedback, Provenance

PEOPLE = re.compile(r"user|human|thumb|customer|rating|feedback|review", re.IGNORECASE)


def import_langfuse(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Traces and scored observations, with their scores as feedback."""
    join = Join("trace or observation")
    traces, observations, scores = list[RawRow](), list[RawRow](), list[RawRow]()
    for row in rows:
        if isinstance(row, Rejected):
            join.outcome(row)
        elif _is_score(row.value):
            scores.append(row)
        elif _get(row.value, "trace_id"):
            observations.append(row)
        else:
            traces.append(row)
            observations += _inside(row, "observations")
            scores += _inside(row, "scores")
    roots = _trace_inputs(observations)
    for row in traces:
        identity = str(_get(row.value, "id") or f"langfuse/{row.row}")
        filled = RawRow(row.file, row.row, {**roots.get(identity, {}), **_filled(row.value)})
        join.answer(Answer(row, _maker(filled, identity, mapping), wanted=True), f"trace:{identity}")
    known = {str(_get(row.value, "id")) for row in traces}
    for row in observations:
        _add_observation(join, row, known, mapping, roots)
    for row in scores:
        _add_score(join, row)
    yield from join.outcomes()


def _add_observation(
    join: Join, row: RawRow, traces: set[str], mapping: Mapping[str, str], roots: dict[str, Any]
) -> None:
    trace = str(_get(row.value, "trace_id"))
    identity = str(_get(row.value, "id") or f"langfuse/{row.row}")
    stands_for_trace = trace not in traces and roots.get(trace, {}).get("_root") == identity
    ids = [f"observation:{identity}", *([f"trace:{trace}"] if stands_for_trace else [])]
    # Where nothing can stand for the trace, its generations are made, and say why they cannot be.
    lost = trace not in traces and trace not in roots and str(row.value.get("type")).upper() == "GENERATION"
    join.answer(Answer(row, _maker(row, identity, mapping), wanted=stands_for_trace or lost), *ids)


def _add_score(join: Join, row: RawRow) -> None:
    observation, trace = _get(row.value, "observation_id"), _get(row.value, "trace_id")
    names = (f"observation:{observation}" if observation else None, f"trace:{trace}" if trace else None)
    join.hear(row, _feedback, *names)


def _maker(row: RawRow, identity: str, mapping: Mapping[str, str]) -> Any:
    value = row.value
    metadata = {"langfuse_trace": _get(value, "trace_id") or identity, "name": value.get("name")}
    asked, said, user = ("input", value.get("input")), ("output", value.get("output")), _get(value, "user_id")
    return partial(
        log_example, value, mapping, identity, asked=asked, said=said, user=user, metadata=metadata
    )


def _feedback(score: dict[str, Any]) -> Feedback:
    name = maybe_text(score.get("name"), "name")
    kind = str(_get(score, "data_type") or "").upper()
    text = maybe_text(score.get("comment"), "comment") or ""
    word = maybe_text(_get(score, "string_value"), "string_value")
    number, label = verdict(score.get("value"), "value")
    if kind == "TEXT":  # its value is always 0 and means nothing
        number, label, text = None, None, "\n".join(part for part in (word, text) if part)
    elif kind == "CATEGORICAL":  # its value is the category's index
        number, label = None, word or label
    elif kind == "BOOLEAN" and number is not None:
        label = "true" if number else "false"
    source = str(score.get("source") or "API")
    default = "human" if PEOPLE.search(name or "") else "program"
    author = maybe_text(_get(score, "author_user_id"), "author_user_id")
    label = qualified_label(name, label)
    if not text.strip() and number is None and label is None:
        raise row_error("value", "the score says nothing: no value, string value or comment; remove it")
    return Feedback(
        text=text, score=number, label=label, name=name or None, saw_reference=False,
        source=annotator(source, "human" if default == "human" else "program"),
        provenance=Provenance(
            author=author or f"langfuse:{name or source}",
            created_at=iso_time(_get(score, "created_at") or score.get("timestamp")),
        ),
    )  # fmt: skip


def _get(value: Mapping[str, Any], key: str) -> Any:
    """The value under a snake_case key or its camelCase twin; an empty text is none."""
    head, *rest = key.split("_")
    found = value.get(key)
    if found in (None, ""):
        found = value.get(head + "".join(part.capitalize() for part in rest))
    return None if found == "" else found


def _is_score(value: dict[str, Any]) -> bool:
    has_value = "value" in value or "stringValue" in value or "string_value" in value
    return "name" in value and has_value and "input" not in value and "output" not in value


def _inside(row: RawRow, key: str) -> list[RawRow]:
    """Rows inside a trace; those that are ids alone have nothing to read."""
    return inside(row, row.value.get(key), traceId=_get(row.value, "id"))


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if inner not in (None, "", [], {})}


def _trace_inputs(observations: list[RawRow]) -> dict[str, dict[str, Any]]:
    """By trace: input and output of the observation that stands for it."""
    best: dict[str, tuple[int, RawRow]] = {}
    for row in observations:
        value = row.value
        if not _filled({"input": value.get("input")}) or not _filled({"output": value.get("output")}):
            continue
        generation = str(value.get("type")).upper() == "GENERATION"
        rank = 2 if not _get(value, "parent_observation_id") else int(generation)
        trace = str(_get(value, "trace_id"))
        if rank and (trace not in best or rank > best[trace][0]):
            best[trace] = rank, row
    return {
        trace: {
            "input": row.value["input"],
            "output": row.value["output"],
            "_root": str(_get(row.value, "id") or f"langfuse/{row.row}"),
        }
        for trace, (_, row) in best.items()
    }
