"""Math problems of five shapes, distinguished by their columns; docs/data.md has them.

Worked solutions stay out of the problem: they are long, and a reference is an answer here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from didact.data.faults import shown
from didact.errors import did_you_mean
from didact.tasks.dataset_task import FileRow, LoadedFile, LoadedProblem, read_file
from didact.tasks.math.answers import MAX_ANSWER_CHARS, boxed
from didact.tasks.math.notation import number
from didact.types import Message, Problem

ANSWER = "answer"
"""The gold answer in a problem's metadata, without a box around it."""
_KEPT = ("level", "topic", "subject", "difficulty", "data_source", "year", "method")
_DAPO_HEAD = "Solve the following math problem step by step. The last line of your response should be"
_DAPO_TAIL = 'Remember to put your answer on its own line after "Answer:".'


class MathShape(NamedTuple):
    """The columns of a data set; of several names the first that a row has."""

    question: tuple[str, ...]
    answer: tuple[str, ...]
    identity: tuple[str, ...]
    distinctive: tuple[set[str], ...]
    """A row with all columns of one of these sets is of this shape, unless it is of an earlier one."""


_AIME = ({"Problem"}, {"problem_idx"}, {"problem", "answer", "url"})
SHAPES: dict[str, MathShape] = {
    "dapo": MathShape(("prompt",), ("reward_model", "solution"), ("id",), ({"prompt", "reward_model"},)),
    "deepmath": MathShape(("question",), ("final_answer",), ("id",), ({"final_answer"},)),
    "math500": MathShape(("problem",), ("answer",), ("unique_id",), ({"unique_id"},)),
    "aime": MathShape(("problem", "Problem"), ("answer", "Answer"), ("id", "ID", "problem_idx"), _AIME),
    "own": MathShape(("problem",), ("answer",), ("id",), ({"problem", "answer"},)),
}


def load(
    path: Path, shape: str, instruction: str, reference: str, *, skip_conflicts: bool = False
) -> LoadedFile:
    """Read a file.

    A row that repeats an earlier question with the same answer is left out. Two answers to one question are
    refused, or both left out.

    Args:
        path: A file that `read_file` reads.
        shape: One of `SHAPES`, or "auto" to decide by the columns of each row.
        instruction: Follows every question; empty for none.
        reference: Template with one %s for the gold answer.
        skip_conflicts: Leave out both.

    Raises:
        DataError: naming the row, the column and the cure.
    """
    by_key = dict[str, LoadedProblem]()
    left_out, conflicts = dict[str, str](), set[str]()
    for row in read_file(path):
        read = _problem(row, shape, instruction, reference)
        first = by_key.setdefault(read.key, read)
        if first is read:
            continue
        same = first.problem.metadata[ANSWER] == read.problem.metadata[ANSWER]
        if not same:
            if not skip_conflicts:
                row.fail(
                    None,
                    f"the question of row {first.row.number} has another answer here; correct one of the "
                    "two, or set conflicts to skip",
                )
            conflicts.add(read.key)
        left_out[row.place] = f"{'repeats' if same else 'contradicts'} row {first.row.number}"
    for key in conflicts:
        left_out[by_key.pop(key).row.place] = "another row contradicts it"
    return LoadedFile(str(path), list(by_key.values()), left_out, (path,))


def _problem(row: FileRow, shape: str, instruction: str, reference: str) -> LoadedProblem:
    kind = _shape(row) if shape == "auto" else shape
    columns = SHAPES[kind]
    *before, last = row.messages(_column(row, columns.question, kind))
    question = _without_frame(last.content.strip()) if kind == "dapo" else last.content.strip()
    answer = _answer(row, columns, kind)
    asked = f"{question}\n\n{instruction}" if instruction else question
    kept = {name: row.values[name] for name in _KEPT if isinstance(row.values.get(name), str | int | float)}
    problem = Problem(
        id=row.identity(*columns.identity),
        messages=(*before, Message(role="user", content=asked)),
        reference=reference % answer,
        metadata={**kept, ANSWER: answer, "shape": kind},
    )
    return LoadedProblem(problem, row, " ".join(question.split()))


def _shape(row: FileRow) -> str:
    columns = row.values.keys()
    for name, shape in SHAPES.items():
        if any(names <= columns for names in shape.distinctive):
            return name
    missing = [column for column in ("problem", "answer") if column not in columns]
    near = "; ".join(f"column {column!r} is missing: {did_you_mean(column, columns)}" for column in missing)
    return row.fail(
        None,
        f"the columns are those of no known shape. {near}; rename the columns, or set shape to one of "
        f"{', '.join(SHAPES)}",
    )


def _column(row: FileRow, names: tuple[str, ...], kind: str) -> str:
    found = next((name for name in names if row.values.get(name) is not None), None)
    return found or row.missing(names[0], f"the shape {kind!r} needs it: fill it in, or set another shape")


def _without_frame(question: str) -> str:
    """The question without DAPO's own instructions, which ask for "Answer:" in place of a box."""
    if question.startswith(_DAPO_HEAD) and "\n\n" in question:
        question = question.split("\n\n", 1)[1]
    return question.removesuffix(_DAPO_TAIL).strip()


def _answer(row: FileRow, columns: MathShape, kind: str) -> str:
    name = _column(row, columns.answer, kind)
    value = row.values[name]
    if kind == "dapo" and isinstance(value, Mapping):
        column = f"{name}.ground_truth"
        name, row = column, row._replace(values={column: value.get("ground_truth")})
    text = row.text_or_number(name).strip()
    text = (boxed(text) or text).strip().strip("$").strip()
    if not text:
        row.fail(name, "is empty; fill it in or remove the row")
    if len(text) > MAX_ANSWER_CHARS:
        row.fail(
            name,
            f"has {len(text)} characters, but a final answer at most {MAX_ANSWER_CHARS}; give it without its "
            "solution",
        )
    if boxed(rf"\boxed{{{text}}}") != text:
        row.fail(name, f"has braces that do not match: {shown(text)}; correct them")
    if kind == "aime":
        value = number(text)
        if value is None or value.denominator != 1 or not 0 <= value <= 999:
            row.fail(name, f"must be an integer from 0 to 999, not {shown(text)}; correct it")
        return str(value)
    return text
