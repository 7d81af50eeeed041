"""Langfuse exports: traces, observations and scores, as JSON, JSON lines or CSV; shapes: docs/data.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from didact.data.faults import RawRow, Rejected
from didact.data.importers.base import (
    Join,
    Make,
    Outcome,
    annotator,
    log_example,
    make_feedback,
    maybe_text,
    nested_rows,
    score_and_label,
)
from didact.data.record import qualified_label
from didact.types import Feedback

PEOPLE = re.compile(r"user|human|thumb|customer|rating|feedback|review", re.IGNORECASE)


def import_langfuse(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Traces and scored observations, with their scores as feedback."""
    join = Join("trace or observation")
    traces, observations, scores = list[RawRow](), list[RawRow](), list[RawRow]()
    for row in join.readable(rows):
        if _is_score(row.value):
            scores.append(row)
        elif _get(row.value, "trace_id"):
            observations.append(row)
        else:
            traces.append(row)
            trace = _get(row.value, "id")
            observations += nested_rows(row, row.value.get("observations"), traceId=trace)
            scores += nested_rows(row, row.value.get("scores"), traceId=trace)
    roots = _root_observations(observations)
    for row in traces:
        identity = str(_get(row.value, "id") or f"langfuse/{row.row}")
        value = {**roots.get(identity, {}), **_filled(row.value)}
        join.add_answer(row, _maker(value, identity, mapping), f"trace:{identity}", keep=True)
    known = {str(_get(row.value, "id")) for row in traces}
    for row in observations:
        trace = str(_get(row.value, "trace_id"))
        identity = str(_get(row.value, "id") or f"langfuse/{row.row}")
        is_root = trace not in known and roots.get(trace, {}).get("_root") == identity
        ids = [f"observation:{identity}", *([f"trace:{trace}"] if is_root else [])]
        # Without a trace and a root, generations are kept, so that they report why they cannot be used.
        lost = trace not in known and trace not in roots and _is_generation(row.value)
        join.add_answer(row, _maker(row.value, identity, mapping), *ids, keep=is_root or lost)
    for row in scores:
        observation, trace = _get(row.value, "observation_id"), _get(row.value, "trace_id")
        about = (f"observation:{observation}" if observation else None, f"trace:{trace}" if trace else None)
        join.add_feedback(row, _feedback, *about)
    yield from join.outcomes()


def _maker(value: dict[str, Any], identity: str, mapping: Mapping[str, str]) -> Make:
    return partial(
        log_example,
        value,
        mapping,
        identity,
        asked=(value.get("input"), "input"),
        answered=(value.get("output"), "output"),
        user=_get(value, "user_id"),
        metadata={"langfuse_trace": _get(value, "trace_id") or identity, "name": value.get("name")},
    )


def _feedback(score: dict[str, Any]) -> Feedback:
    name = maybe_text(score.get("name"), "name")
    kind = str(_get(score, "data_type") or "").upper()
    text = maybe_text(score.get("comment"), "comment") or ""
    word = maybe_text(_get(score, "string_value"), "string_value")
    number, label = score_and_label(score.get("value"), "value")
    if kind == "TEXT":  # its value is always 0 and has no meaning
        number, label, text = None, None, "\n".join(part for part in (word, text) if part)
    elif kind == "CATEGORICAL":  # its value is the category's index
        number, label = None, word or label
    elif kind == "BOOLEAN" and number is not None:
        label = "true" if number else "false"
    source = str(score.get("source") or "API")
    author = maybe_text(_get(score, "author_user_id"), "author_user_id")
    return make_feedback(
        "value", text=text, score=number, label=qualified_label(name, label), name=name,
        source=annotator(source, "human" if PEOPLE.search(name or "") else "program"),
        author=author or f"langfuse:{name or source}",
        created_at=_get(score, "created_at") or score.get("timestamp"),
    )  # fmt: skip


def _get(value: Mapping[str, Any], key: str) -> Any:
    """The value of a snake_case key or its camelCase twin; None for an empty text."""
    head, *rest = key.split("_")
    found = value.get(key)
    if found in (None, ""):
        found = value.get(head + "".join(part.capitalize() for part in rest))
    return None if found == "" else found


def _is_score(value: dict[str, Any]) -> bool:
    has_value = "value" in value or "stringValue" in value or "string_value" in value
    return "name" in value and has_value and "input" not in value and "output" not in value


def _is_generation(value: dict[str, Any]) -> bool:
    return str(value.get("type")).upper() == "GENERATION"


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if inner not in (None, "", [], {})}


def _root_observations(observations: list[RawRow]) -> dict[str, dict[str, Any]]:
    """Input and output of each trace's root observation, or else of its first GENERATION."""
    best: dict[str, tuple[int, RawRow]] = {}
    for row in observations:
        value = row.value
        if not {"input", "output"} <= _filled(value).keys():
            continue
        rank = 2 if not _get(value, "parent_observation_id") else int(_is_generation(value))
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
