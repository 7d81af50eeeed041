"""CSV and JSON lines with any columns, named by `--map`.

    didact data import csv tickets.csv --map prompt=question,completion=answer,feedback=comment

A target without a mapping is read from the column of its name; feedback also from critique, rationale,
explanation and comment. Several such columns are several pieces of feedback. Rows with the same id, prompt
and answer become one example with all their feedback. Other columns go into the problem's metadata. An
answer without feedback is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from didact.data.faults import RawRow, Rejected, RowError, columns_near, expected, row_error
from didact.data.importers.base import Outcome
from didact.data.record import TEXT_ALIASES, parse_example
from didact.data.rows import stem
from didact.types import Example


def import_table(
    rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str], *, cells: bool
) -> Iterator[Outcome]:
    """One example an id. `cells` are texts of which some are parsed; other values keep their types."""
    found: dict[str, tuple[RawRow, Example]] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        try:
            record = _record(row.value, mapping, cells=cells)
            example = parse_example(record, fallback_id=f"{stem(row.file)}/{row.row}", strict=False)
            if example.id in found:
                example = _joined(*found[example.id], example)
        except RowError as error:
            yield row.rejected(error)
        else:
            found[example.id] = found.get(example.id, (row, example))[0], example
    yield from (example for _, example in found.values())


def _joined(first: RawRow, known: Example, new: Example) -> Example:
    """One example with the feedback of both rows."""
    if (known.completion, known.problem.messages) != (new.completion, new.problem.messages):
        message = (
            f"{new.id!r} is already the id of row {first.row}, with another prompt or answer; make ids unique"
        )
        raise row_error("id", message)
    if known.user != new.user or known.problem.reference != new.problem.reference:
        raise row_error("id", f"row {first.row} has the id {new.id!r} with another user or reference")
    if any(feedback in known.feedback for feedback in new.feedback) or not new.feedback:
        raise row_error(None, f"says nothing that row {first.row} with the same id does not say; remove it")
    metadata = {**new.problem.metadata, **known.problem.metadata}
    problem = known.problem.model_copy(update={"metadata": metadata})
    return known.model_copy(update={"problem": problem, "feedback": known.feedback + new.feedback})


def _record(value: dict[str, Any], mapping: Mapping[str, str], *, cells: bool) -> dict[str, Any]:
    """The row in the plain form."""
    record = dict(value)
    for target, column in mapping.items():
        if column not in value:
            near = columns_near(column, value)
            raise row_error(column, f"--map {target}={column}: there is no such column: {near}")
    for target, twin in (("prompt", "messages"), ("completion", "completion")):
        if not {target, twin} & (set(mapping) | set(value)):
            near = columns_near(target, value)
            raise row_error(target, f"is missing: {near}; say which it is with --map {target}=COLUMN")
    taken = {target: value[column] for target, column in mapping.items()}
    for column in set(mapping.values()) - set(mapping):
        del record[column]
    if "feedback" in mapping:
        # The named column is the feedback; its aliases are then columns like others.
        aliases = {alias: record.pop(alias) for alias in TEXT_ALIASES[2:] if alias in record}
        metadata = record.get("metadata", {})
        if aliases:
            record["metadata"] = {
                **(metadata if isinstance(metadata, dict) else {"metadata": metadata}),
                **aliases,
            }
    record.update(taken)
    return _typed(record) if cells else record


def _typed(record: dict[str, Any]) -> dict[str, Any]:
    """Cells as values: empty ones removed, scores as numbers, messages as JSON."""
    keep = ("prompt", "completion")  # an empty one is a fault of its own
    typed = {key: value for key, value in record.items() if value != "" or key in keep}
    if isinstance(score := typed.get("score"), str):
        try:
            typed["score"] = float(score)
        except ValueError:
            cure = "write a number, or map the column as a label: --map label=COLUMN"
            raise RowError(expected("score", "a number", score, cure)) from None
    for column in ("messages", "metadata"):
        if isinstance(text := typed.get(column), str):
            try:
                typed[column] = json.loads(text)
            except (ValueError, RecursionError):
                if column == "metadata":
                    typed[column] = {"metadata": text}
    return typed
