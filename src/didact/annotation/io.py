"""Answers out to people, and their critiques back: a table that anybody can fill in.

Out go rollout, turn, question, answer and empty columns: `critique` (what is wrong, in words), `score` (a
number), `label` (as "wrong"), `spans` (quotes from the answer) and `annotator`. Each may stay empty; a row
in which all do is left out. Spans are quotes, one a line, "good: …" or "poor: …" (poor where it does not
say), without the spaces around them; or JSON, which can also quote over several lines and say where a
repeated quote starts:

    [{"quote": "is 7", "label": "poor", "start": 12, "phrase": "the sum is off"}]

Back come critiques joined by rollout and turn, each quote checked against the exact answer. A row that
cannot be used is written beside with its error, and the others are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, cast

from didact.annotation.table import (
    COLUMNS,
    TYPED,
    Row,
    check_table_name,
    protect,
    read_table,
    table_bytes,
    write_table,
)
from didact.annotation.targets import AnnotatedAnswer, AnswerStore, sha256
from didact.data.faults import shown
from didact.data.files import refuse_existing
from didact.errors import UsageError, did_you_mean
from didact.feedback_store import FeedbackRecord, MergeResult, same_content
from didact.jsonl import write_atomically
from didact.rng import derive_seed
from didact.spans.match import QuoteError, find_quote
from didact.types import Feedback, Message, Problem, Provenance, Span

POLARITIES = ("good", "poor")
Clock = Callable[[], datetime]


def now() -> datetime:
    """The time, with its offset."""
    return datetime.now(UTC)


class Rejected(NamedTuple):
    """A row that was not imported."""

    row: int
    column: str
    reason: str
    """With the cure."""

    def __str__(self) -> str:
        return f"row {self.row}, column {self.column!r}: {self.reason}"


@dataclass(frozen=True)
class Imported:
    """What became of a table.

    Attributes:
        merged: Critiques that were added, changed or known already.
        blank: Rows in which nobody said anything.
        rejected: Rows that could not be used.
        rejected_file: Where these were written, with their errors; None where there are none.
    """

    merged: MergeResult
    blank: int
    rejected: tuple[Rejected, ...]
    rejected_file: Path | None


def choose_answers(
    answers: Sequence[AnnotatedAnswer],
    *,
    n: int | None = None,
    step: int | None = None,
    only_wrong: bool = False,
    seed: int = 0,
) -> list[AnnotatedAnswer]:
    """The answers that somebody should look at, in the order in which they were given.

    Args:
        answers: All there are.
        n: At most so many, drawn by a hash of answer and seed; None for all.
        step: Only those that were sampled at this step of the run.
        only_wrong: Only those that the verifier refused.
        seed: Another draw.

    Raises:
        UsageError: nothing is left to look at.
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
    """Write answers to criticise as a table.

    Args:
        answers: What to show.
        out: A new .csv or .jsonl file.
        with_reference: Show the private reference too; the critiques then say that their author saw it.

    Raises:
        UsageError: the file exists, has another ending, or its folder is not there.
    """
    check_table_name(out)
    if out.exists():
        raise UsageError(f"{out} exists, and may hold what somebody wrote: name a new file with --out")
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


def import_critiques(
    store: AnswerStore, file: Path, *, annotator: str | None = None, clock: Clock = now
) -> Imported:
    """Take in what people wrote into a table.

    Nobody's words are replaced. The same words of the same annotator about the same answer are passed
    over; other words are added as a newer version, and the latest counts.

    Args:
        store: The answers, and where critiques go.
        file: The table as it came back, .csv or .jsonl.
        annotator: Who wrote the rows whose column `annotator` is empty.
        clock: Says when.

    Raises:
        DataError: the table cannot be read; nothing was imported.
    """
    rows = read_table(file)
    reader = _Reader(store.answers(), annotator, clock().isoformat(timespec="seconds"))
    said: list[FeedbackRecord] = []
    rejected: list[tuple[Row, Rejected]] = []
    blank = 0
    for row in rows:
        if not any(_filled(row.cells.get(name)) for name in TYPED if name != "annotator"):
            blank += 1
            continue
        try:
            said.append(reader.read(row))
        except _Unusable as error:
            rejected.append((row, error.what))
    beside = _write_rejected(file, rejected)
    return Imported(store.merge(said), blank, tuple(what for _, what in rejected), beside)


class _Unusable(Exception):
    def __init__(self, what: Rejected) -> None:
        super().__init__(str(what))
        self.what = what


class _Reader:
    """Rows → critiques."""

    def __init__(self, answers: Sequence[AnnotatedAnswer], annotator: str | None, at: str) -> None:
        self.answers = {(a.rollout, a.index): a for a in answers}
        self.annotator = annotator
        self.at = at
        self.taken: dict[tuple[str, int, str], tuple[int, Feedback]] = {}

    def read(self, row: Row) -> FeedbackRecord:
        answer = self._answer(row)
        author = self._author(row)
        feedback = Feedback(
            turn=answer.index,
            text=self._text(row, "critique"),
            source="human",
            score=self._score(row),
            label=self._text(row, "label").strip() or None,
            spans=self._spans(row, answer),
            saw_reference=_filled(row.cells.get("reference")),
            provenance=Provenance(author=author, created_at=self.at),
        )
        key = (answer.rollout, answer.index, author)
        number, before = self.taken.setdefault(key, (row.number, feedback))
        if not same_content(before, feedback):
            _fail(row, "critique", f"{author} says something else of this answer in row {number}: keep one")
        return FeedbackRecord(rollout=answer.rollout, feedback=feedback)

    def _answer(self, row: Row) -> AnnotatedAnswer:
        rollout, turn = str(row.cells.get("rollout", "")), str(row.cells.get("turn", ""))
        # No run has a turn of ten digits, and Python reads no number of thousands.
        if not turn.isascii() or not turn.isdigit() or len(turn) > 9:
            _fail(row, "turn", f"{shown(turn)} is no turn: it is a number from 0, as it was exported")
        answer = self.answers.get((rollout, int(turn)))
        if answer is None:
            ids = {r for r, _ in self.answers}
            if rollout in ids:
                _fail(row, "turn", f"{rollout!r} has no turn {turn}: put it back as it was exported")
            near = f": {did_you_mean(rollout, ids)}" if len(ids) <= 1000 else ""
            _fail(row, "rollout", f"there is no answer {rollout!r}{near}; put it back as it was exported")
        self._check_unchanged(row, answer)
        return answer

    def _check_unchanged(self, row: Row, answer: AnnotatedAnswer) -> None:
        """Was what the annotator read the answer that is on file?"""
        sha, shown = row.cells.get("answer_sha256"), row.cells.get("answer")
        if sha is None and shown is None and answer.text:
            _fail(row, "answer_sha256", "neither the answer nor its hash is there: export the answers again")
        if sha is not None and sha != answer.sha256:
            _fail(row, "answer_sha256", "the answer on file is another one: export the answers again")
        # Spreadsheets may write line ends of their own; with the hash beside, that is no other answer.
        if shown is not None and sha is None and sha256(str(shown)) != answer.sha256:
            _fail(row, "answer", "differs from the answer on file: put it back as it was exported")
        if shown is not None and _lines(str(shown)) != _lines(answer.text):
            _fail(
                row, "answer",
                "was changed or cut off after the export: put it back, or export as .jsonl",
            )  # fmt: skip

    def _author(self, row: Row) -> str:
        author = self._text(row, "annotator").strip() or (self.annotator or "").strip()
        if not author:
            _fail(row, "annotator", "nobody is named: fill it in, or give --annotator")
        return author

    def _text(self, row: Row, column: str) -> str:
        value = row.cells.get(column, "")
        if not isinstance(value, str):
            _fail(row, column, f"must be a text, not {json.dumps(value)}")
        _check_characters(row, column, value)
        return value if value.strip() else ""

    def _score(self, row: Row) -> float | None:
        value = row.cells.get("score")
        if not _filled(value):
            return None
        try:
            score = float("nan") if isinstance(value, bool) else float(cast("Any", value))
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not math.isfinite(score):
            _fail(row, "score", f"{value!r} is not a number: write it as 0.5, or into the column 'label'")
        return score

    def _spans(self, row: Row, answer: AnnotatedAnswer) -> tuple[Span, ...]:
        value = row.cells.get("spans", "")
        items = value if isinstance(value, list) else _json_spans(row, str(value))
        try:
            if items is not None:
                return tuple(_span(row, answer, item) for item in items)
            lines = [line for line in str(value).replace("\r\n", "\n").split("\n") if line.strip()]
            return tuple(_plain_span(row, answer, line) for line in lines)
        except QuoteError as error:
            _fail(row, "spans", str(error))


def _json_spans(row: Row, text: str) -> list[Any] | None:
    """The spans of a cell that is JSON, or None where it is plain quotes."""
    if not text.lstrip().startswith("[") or '"quote"' not in text:
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        _fail(row, "spans", f'is not JSON ({error}): write [{{"quote": "…", "label": "poor"}}]')
    return items if isinstance(items, list) else None


def _span(row: Row, answer: AnnotatedAnswer, item: object) -> Span:
    if isinstance(item, str):
        return _plain_span(row, answer, item)
    if not isinstance(item, Mapping) or not isinstance(item.get("quote"), str):
        _fail(row, "spans", f'{json.dumps(item)[:60]} is no span: write {{"quote": "…", "label": "poor"}}')
    known = ("quote", "label", "start", "end", "phrase")
    if unknown := [key for key in item if key not in known]:
        _fail(row, "spans", f"unknown key {unknown[0]!r}: {did_you_mean(str(unknown[0]), known)}")
    label, start, phrase = item.get("label", "poor"), item.get("start"), item.get("phrase")
    if label not in POLARITIES:
        _fail(row, "spans", f"unknown label {label!r}: {did_you_mean(str(label), POLARITIES)}")
    if isinstance(start, bool) or not isinstance(start, int | None) or not isinstance(phrase, str | None):
        _fail(row, "spans", "`start` is a number of code points from 0, and `phrase` a text")
    if phrase is not None:
        _check_characters(row, "spans", phrase)
    span = find_quote(answer.text, item["quote"], label, start=start, phrase=phrase)
    if item.get("end") not in (None, span.end):
        _fail(row, "spans", f"`end` is {item['end']}, but the quote ends at {span.end}: leave `end` out")
    return span


def _plain_span(row: Row, answer: AnnotatedAnswer, line: str) -> Span:
    """A quote on a line of its own, perhaps behind "good:" or "poor:", without the spaces around it."""
    head, colon, rest = line.partition(":")
    label: Literal["good", "poor"] = "poor"
    if colon and head.strip().lower() in POLARITIES:
        label, line = cast("Any", head.strip().lower()), rest
    quote, cell = line.strip(), protect(answer.text)
    if row.protected and quote not in answer.text and cell != answer.text and cell.startswith(quote):
        quote = quote[1:]  # copied with the apostrophe that protected the cell
    return find_quote(answer.text, quote, label)


def _write_rejected(file: Path, rejected: Sequence[tuple[Row, Rejected]]) -> Path | None:
    """Write unusable rows and their errors beside, to be mended and imported in their turn."""
    if not rejected:
        return None
    rows = [{**row.cells, "error": f"{what.column}: {what.reason}"} for row, what in rejected]
    columns = [c for c in COLUMNS if c != "reference" or any("reference" in row for row in rows)]
    data = table_bytes(file, columns, rows)
    number = 1
    while True:
        infix = "rejected" if number == 1 else f"rejected.{number}"
        beside = file.with_name(f"{file.stem}.{infix}{file.suffix}")
        # Somebody may have begun to mend an earlier one.
        if not beside.exists() or beside.read_bytes() == data:
            break
        number += 1
    write_atomically(beside, data)
    return beside


def _question(problem: Problem) -> str:
    """What was asked; a conversation with who said what."""
    if len(problem.messages) == 1:
        return problem.question

    def said(message: Message) -> str:
        return f"{message.role}: {message.content}"

    return "\n\n".join(map(said, problem.messages))


def _filled(value: object) -> bool:
    return value is not None and value != [] and (not isinstance(value, str) or bool(value.strip()))


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_characters(row: Row, column: str, text: str) -> None:
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        _fail(row, column, "holds half of a surrogate pair: write the character itself")


def _fail(row: Row, column: str, reason: str) -> NoReturn:
    raise _Unusable(Rejected(row.number, column, reason))
