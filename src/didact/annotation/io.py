"""Exports answers as an annotation table and imports the critiques that annotators wrote into it.

A table has rollout, turn, question, answer and empty columns: `critique` (text), `score` (a number), `label`
(as "wrong"), `spans` (quotes from the answer) and `annotator`. Rows in which all of them are empty are
skipped. Spans are quotes, one a line, "good: …" or "poor: …" (poor by default), stripped; or JSON, which can
quote several lines and give the start of a repeated quote:

    [{"quote": "is 7", "label": "poor", "start": 12, "phrase": "the sum is off"}]

Critiques are joined by rollout and turn, and each quote is checked against the answer. Rows that cannot be
used are written to a second table with their errors; the others are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from didact.annotation.table import (
    COLUMNS,
    TYPED,
    escape_csv_formula,
    is_csv,
    read_table,
    table_bytes,
    write_table,
)
from didact.annotation.targets import AnnotatedAnswer, AnswerStore, text_sha256
from didact.data.faults import RawRow, Rejected, RowError, row_error, shown
from didact.data.files import refuse_existing
from didact.errors import UsageError, did_you_mean
from didact.feedback_store import FeedbackRecord, MergeResult, same_content
from didact.jsonl import write_atomically
from didact.rng import derive_seed
from didact.spans.match import QuoteError, find_quote
from didact.types import Feedback, Problem, Provenance, Span

LABELS = ("good", "poor")


@dataclass(frozen=True)
class TableImport:
    """The outcome of importing a table."""

    merged: MergeResult
    blank: int
    rejected: tuple[Rejected, ...]
    rejected_file: Path | None
    """The table of the rejected rows with their errors; None if there are none."""


def choose_answers(
    answers: Sequence[AnnotatedAnswer],
    *,
    n: int | None = None,
    step: int | None = None,
    only_wrong: bool = False,
    seed: int = 0,
) -> list[AnnotatedAnswer]:
    """Select answers to annotate, in their order; UsageError if none is left.

    At most `n` are drawn by a hash of answer and seed, of those sampled at training step `step` and, with
    `only_wrong`, rejected by the verifier.
    """
    left = [a for a in answers if step is None or a.step == step]
    if not left and answers:
        steps = sorted({a.step for a in answers if a.step is not None})
        there = f"there are {steps[0]} to {steps[-1]}" if steps else "a data file has none"
        raise UsageError(f"no answer is of step {step}: {there}")
    if only_wrong:
        left = [a for a in left if a.turn.reward is not None and not a.turn.correct]
        if not left:
            raise UsageError("the verifier refused none of these answers: leave out --only-wrong")
    if not left:
        raise UsageError("there are no answers to criticise yet")
    if n is None or n >= len(left):
        return left
    ranks = {i: derive_seed(seed, "critique-export", a.rollout, a.index) for i, a in enumerate(left)}
    return [left[i] for i in sorted(sorted(ranks, key=ranks.__getitem__)[:n])]


def export_answers(answers: Sequence[AnnotatedAnswer], out: Path, *, with_reference: bool = False) -> None:
    """Write a new annotation table, .csv or .jsonl, with a row for each answer.

    `with_reference` includes the private reference; critiques are then marked with `saw_reference`.
    """
    is_csv(out)
    if out.exists():
        raise UsageError(f"{out} exists, and may hold annotations: name a new file with --out")
    refuse_existing(out)
    columns = [c for c in COLUMNS if c != "error" and (with_reference or c != "reference")]
    rows = [
        {
            "rollout": a.rollout, "turn": a.index, "question": _question(a.problem), "answer": a.text,
            "reference": a.problem.reference or "", "answer_sha256": a.sha256,
        }
        for a in answers
    ]  # fmt: skip
    write_table(out, columns, rows)


def import_critiques(store: AnswerStore, file: Path, *, annotator: str | None = None) -> TableImport:
    """Import the critiques of a table.

    An exact repeat of an annotator's critique is skipped; a different one is added as a new version. The
    author of rows without one is `annotator`. Nothing is imported from a table that cannot be read.
    """
    rows = read_table(file)
    reader = _RowReader(store.answers(), annotator)
    records: list[FeedbackRecord] = []
    rejected: list[tuple[RawRow, RowError]] = []
    typed = [name for name in TYPED if name != "annotator"]
    filled = [row for row in rows if any(_is_filled(row.value.get(name)) for name in typed)]
    for row in filled:
        try:
            records.append(reader.read(row))
        except RowError as error:
            rejected.append((row, error))
    rejected_file = _write_rejected(file, rejected)
    failed = tuple(row.rejected(error) for row, error in rejected)
    return TableImport(store.merge(records), len(rows) - len(filled), failed, rejected_file)


class _RowReader:
    """Turns rows into feedback records; raises RowError."""

    def __init__(self, answers: Sequence[AnnotatedAnswer], annotator: str | None) -> None:
        self.answers = {(a.rollout, a.index): a for a in answers}
        self.annotator = annotator
        self.at = datetime.now(UTC).isoformat(timespec="seconds")
        self.seen: dict[tuple[str, int, str], tuple[int, Feedback]] = {}

    def read(self, row: RawRow) -> FeedbackRecord:
        cells = row.value
        answer = self._answer(cells)
        author = _text(cells, "annotator").strip() or (self.annotator or "").strip()
        if not author:
            raise row_error("annotator", "nobody is named: fill it in, or give --annotator")
        feedback = Feedback(
            turn=answer.index,
            text=_text(cells, "critique"),
            source="human",
            score=_score(cells.get("score")),
            label=_text(cells, "label").strip() or None,
            spans=_spans(cells.get("spans", ""), answer.text, escaped=is_csv(row.file)),
            saw_reference=_is_filled(cells.get("reference")),
            provenance=Provenance(author=author, created_at=self.at),
        )
        number, before = self.seen.setdefault((answer.rollout, answer.index, author), (row.row, feedback))
        if not same_content(before, feedback):
            message = f"{author} says something else of this answer in row {number}: keep one"
            raise row_error("critique", message)
        return FeedbackRecord(rollout=answer.rollout, feedback=feedback)

    def _answer(self, cells: Mapping[str, Any]) -> AnnotatedAnswer:
        rollout, turn = str(cells.get("rollout", "")), str(cells.get("turn", ""))
        # No run has a turn of ten digits, and Python refuses to parse numbers of thousands of digits.
        if not turn.isascii() or not turn.isdigit() or len(turn) > 9:
            message = f"{shown(turn)} is no turn: it is a number from 0, as it was exported"
            raise row_error("turn", message)
        answer = self.answers.get((rollout, int(turn)))
        if answer is None:
            ids = {r for r, _ in self.answers}
            if rollout in ids:
                raise row_error("turn", f"{rollout!r} has no turn {turn}: put it back as it was exported")
            near = f": {did_you_mean(rollout, ids)}" if len(ids) <= 1000 else ""
            message = f"there is no answer {rollout!r}{near}; put it back as it was exported"
            raise row_error("rollout", message)
        _check_unchanged(cells, answer)
        return answer


def _check_unchanged(cells: Mapping[str, Any], answer: AnnotatedAnswer) -> None:
    """Raise RowError if the annotator read another answer than the one on file."""
    sha, text = cells.get("answer_sha256"), cells.get("answer")
    if sha is None and text is None and answer.text:
        raise row_error("answer_sha256", "neither the answer nor its hash is there: export the answers again")
    if sha is not None and sha != answer.sha256:
        raise row_error("answer_sha256", "the answer on file is another one: export the answers again")
    if text is None:
        return
    if sha is None and text_sha256(str(text)) != answer.sha256:
        raise row_error("answer", "differs from the answer on file: put it back as it was exported")
    # Spreadsheets may change line ends; with the right hash that is no other answer.
    if _unix_newlines(str(text)) != _unix_newlines(answer.text):
        raise row_error("answer", "was changed or cut off after the export: put it back, or export as .jsonl")


def _text(cells: Mapping[str, Any], column: str) -> str:
    value = cells.get(column, "")
    if not isinstance(value, str):
        raise row_error(column, f"must be a text, not {json.dumps(value)}")
    return value if value.strip() else ""


def _score(value: Any) -> float | None:
    if not _is_filled(value):
        return None
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        cure = "write it as 0.5, or into the column 'label'"
        raise row_error("score", f"{value!r} is not a number: {cure}")
    return score


def _spans(value: Any, answer: str, *, escaped: bool) -> tuple[Span, ...]:
    """The spans of a cell: a list, JSON, or one quote a line."""
    if isinstance(value, str) and value.lstrip().startswith("[") and '"quote"' in value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            cure = 'write [{"quote": "…", "label": "poor"}]'
            raise row_error("spans", f"is not JSON ({error}): {cure}") from None
    items = value
    if not isinstance(items, list):
        items = [line for line in _unix_newlines(str(value)).split("\n") if line.strip()]
    try:
        return tuple(
            _quoted_line(answer, item, escaped=escaped) if isinstance(item, str) else _span(answer, item)
            for item in items
        )
    except QuoteError as error:
        raise row_error("spans", str(error)) from None


def _span(answer: str, item: object) -> Span:
    if not isinstance(item, Mapping) or not isinstance(item.get("quote"), str):
        cure = 'write {"quote": "…", "label": "poor"}'
        raise row_error("spans", f"{json.dumps(item)[:60]} is no span: {cure}")
    known = ("quote", "label", "start", "end", "phrase")
    if unknown := [key for key in item if key not in known]:
        message = f"unknown key {unknown[0]!r}: {did_you_mean(str(unknown[0]), known)}"
        raise row_error("spans", message)
    label, start, phrase = item.get("label", "poor"), item.get("start"), item.get("phrase")
    if label not in LABELS:
        raise row_error("spans", f"unknown label {label!r}: {did_you_mean(str(label), LABELS)}")
    if isinstance(start, bool) or not isinstance(start, int | None) or not isinstance(phrase, str | None):
        raise row_error("spans", "`start` is a number of code points from 0, and `phrase` a text")
    span = find_quote(answer, item["quote"], label, start=start, phrase=phrase)
    if item.get("end") not in (None, span.end):
        message = f"`end` is {item['end']}, but the quote ends at {span.end}: leave `end` out"
        raise row_error("spans", message)
    return span


def _quoted_line(answer: str, line: str, *, escaped: bool) -> Span:
    """A quote, perhaps behind "good:" or "poor:"."""
    head, colon, rest = line.partition(":")
    label: Literal["good", "poor"] = "poor"
    if colon and head.strip().lower() in LABELS:
        label, line = cast("Any", head.strip().lower()), rest
    quote, cell = line.strip(), escape_csv_formula(answer)
    if escaped and quote not in answer and cell != answer and cell.startswith(quote):
        quote = quote[1:]  # copied with the apostrophe that escapes the cell
    return find_quote(answer, quote, label)


def _write_rejected(file: Path, rejected: Sequence[tuple[RawRow, RowError]]) -> Path | None:
    """Write rejected rows with their errors to a table that can be corrected and imported."""
    if not rejected:
        return None
    rows = [
        {**row.value, "error": "; ".join(f"{fault.column}: {fault.message}" for fault in error.faults)}
        for row, error in rejected
    ]
    columns = [c for c in COLUMNS if c != "reference" or any("reference" in row for row in rows)]
    data = table_bytes(file, columns, rows)
    out, number = file.with_name(f"{file.stem}.rejected{file.suffix}"), 1
    while out.exists() and out.read_bytes() != data:  # an earlier one, which may be edited already
        number += 1
        out = file.with_name(f"{file.stem}.rejected.{number}{file.suffix}")
    write_atomically(out, data)
    return out


def _question(problem: Problem) -> str:
    """The question, or the whole conversation with roles."""
    if len(problem.messages) == 1:
        return problem.question
    return "\n\n".join(f"{m.role}: {m.content}" for m in problem.messages)


def _unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_filled(value: object) -> bool:
    return value is not None and value != [] and (not isinstance(value, str) or bool(value.strip()))
