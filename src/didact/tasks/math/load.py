r"""Mathematical problems from JSON lines, of four public shapes and one of our own.

    own        {"problem", "answer"}, and optionally "id", "level", "topic"
    math500    {"problem", "solution", "answer", "subject", "level", "unique_id"}
    aime       {"id", "problem", "solution", "answer", "url", "year"}, {"ID", "Problem", "Solution", "Answer"}
               or {"problem_idx", "problem", "answer"}; answers are integers from 0 to 999
    deepmath   {"question", "final_answer", "difficulty", "topic", "r1_solution_1" … "r1_solution_3"}
    dapo       {"prompt": [{"role", "content"}] or a text, "reward_model": {"ground_truth", "style"},
                "data_source", "ability", "extra_info": {"index"}}; "solution" may stand for the ground truth

The columns are those of the public data sets' cards, MATH-500, AIME 2024 (three publishers), DeepMath-103K
and DAPO-Math-17k with its processed copy; the rows themselves were not looked at. A data set of Parquet
files becomes JSON lines with `datasets.load_dataset(…).to_json("file.jsonl")`. Take a deduplicated copy of
DAPO-Math-17k: the first one repeats each prompt about a hundred times.

Worked solutions stay out of the problem: they are long, and a reference is an answer here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from didact.errors import DataError, did_you_mean
from didact.tasks.dataset_task import Place, ReadFile, ReadRow
from didact.tasks.jsonl import json_lines
from didact.tasks.math.answers import MAX_ANSWER_CHARS, boxed, integer
from didact.types import Message, Problem

ANSWER = "answer"
"""The gold answer in a problem's metadata, without a box around it."""
_KEPT = ("level", "topic", "subject", "difficulty", "data_source", "year", "method")
_DAPO_HEAD = "Solve the following math problem step by step. The last line of your response should be"
_DAPO_TAIL = 'Remember to put your answer on its own line after "Answer:".'


class Shape(NamedTuple):
    """Where a data set keeps what."""

    question: tuple[str, ...]
    """The question's column; the first that is there."""
    answer: tuple[str, ...]
    identity: tuple[str, ...] = ()


SHAPES: dict[str, Shape] = {
    "own": Shape(("problem",), ("answer",), ("id",)),
    "math500": Shape(("problem",), ("answer",), ("unique_id",)),
    "aime": Shape(("problem", "Problem"), ("answer", "Answer"), ("id", "ID", "problem_idx")),
    "deepmath": Shape(("question",), ("final_answer",), ("id",)),
    "dapo": Shape(("prompt",), ("reward_model", "solution"), ("id",)),
}
_TELLING: dict[str, tuple[set[str], ...]] = {
    "dapo": ({"prompt", "reward_model"},),
    "deepmath": ({"final_answer"},),
    "math500": ({"unique_id"},),
    "aime": ({"Problem"}, {"problem_idx"}, {"problem", "answer", "url"}),
}
"""A row with all columns of one of these sets is of that shape."""


class Wording(NamedTuple):
    """How a problem is asked."""

    instruction: str
    """Follows the question; empty for none."""
    reference: str
    """Template of the reference, with one %s for the gold answer."""


def load(path: Path, shape: str, wording: Wording, *, skip_conflicts: bool = False) -> ReadFile:
    """Read a file.

    A row that repeats an earlier question with the same answer is left out. Two answers to one
    question are refused, or both left out.

    Args:
        path: JSON lines.
        shape: One of `SHAPES`, or "auto" to tell by the columns of each row.
        wording: How the problems are asked.
        skip_conflicts: Leave out questions with two answers.

    Raises:
        DataError: naming the line, the column and the cure.
    """
    by_key = dict[str, ReadRow]()
    left_out, conflicts = dict[str, str](), set[str]()
    lines_of_id = dict[str, int]()
    for place, row in json_lines(path):
        read = _row(place, row, shape, wording)
        line = f"{path}, line {place.line}"
        if (first := by_key.get(read.key)) is not None:
            same = first.problem.metadata[ANSWER] == read.problem.metadata[ANSWER]
            if not same and not skip_conflicts:
                place.fail(
                    f"the question of line {first.place.line} has another answer here; correct one of the "
                    "two, or set conflicts to skip"
                )
            if not same:
                conflicts.add(read.key)
            left_out[line] = f"{'repeats' if same else 'contradicts'} line {first.place.line}"
            continue
        identity = read.problem.id
        if identity in lines_of_id:
            place.fail(
                f"the id {identity!r} is already that of line {lines_of_id[identity]}; make ids unique"
            )
        lines_of_id[identity] = place.line
        by_key[read.key] = read
    for key in conflicts:
        place = by_key.pop(key).place
        left_out[f"{path}, line {place.line}"] = "another line contradicts it"
    if not by_key:
        raise DataError(f"{path} has no rows that can be used: write one JSON object a line.")
    return ReadFile(list(by_key.values()), left_out)


def _row(place: Place, row: dict[str, Any], shape: str, wording: Wording) -> ReadRow:
    kind = _shape(place, row) if shape == "auto" else shape
    columns = SHAPES[kind]
    before, question = _question(place, row, columns, kind)
    answer = _answer(place, row, columns, kind)
    asked = f"{question}\n\n{wording.instruction}" if wording.instruction else question
    kept = {name: row[name] for name in _KEPT if isinstance(row.get(name), str | int | float)}
    problem = Problem(
        id=_identity(place, row, columns, kind),
        messages=(*before, Message(role="user", content=asked)),
        reference=wording.reference % answer,
        metadata={**kept, ANSWER: answer, "shape": kind},
    )
    return ReadRow(problem, place, " ".join(question.split()))


def _shape(place: Place, row: Mapping[str, Any]) -> str:
    known = (name for name, telling in _TELLING.items() if any(c <= row.keys() for c in telling))
    own = "own" if {"problem", "answer"} <= row.keys() else None
    if (found := next(known, own)) is None:
        missing = [column for column in ("problem", "answer") if column not in row]
        near = "; ".join(f"{column!r} is missing: {did_you_mean(column, row)}" for column in missing)
        place.fail(
            f"its columns are those of no known shape. {near}; rename the columns, or set shape to one "
            f"of {', '.join(SHAPES)}"
        )
    return found


def _column(place: Place, row: Mapping[str, Any], names: tuple[str, ...], kind: str) -> str:
    found = next((name for name in names if row.get(name) is not None), None)
    if found is None:
        missing = "is null" if names[0] in row else f"is missing: {did_you_mean(names[0], row)}"
        place.fail(f"column {names[0]!r} of the shape {kind!r} {missing}; fill it in, or set another shape")
    return found


def _question(
    place: Place, row: dict[str, Any], columns: Shape, kind: str
) -> tuple[tuple[Message, ...], str]:
    name = _column(place, row, columns.question, kind)
    value = row[name]
    chat = value if isinstance(value, list) else [{"role": "user", "content": value}]
    messages = list[Message]()
    for message in chat:
        try:
            messages.append(Message.model_validate(message))
        except ValueError:
            place.fail(
                f"column {name!r} must be a text or chat messages with role and content, not {_shown(value)}"
            )
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        place.fail(f"column {name!r} must end with a question of the user, not {_shown(value)}")
    question = messages[-1].content.strip()
    return tuple(messages[:-1]), _without_frame(question) if kind == "dapo" else question


def _without_frame(question: str) -> str:
    """The question without DAPO's own instructions, which ask for "Answer:" in place of a box."""
    if question.startswith(_DAPO_HEAD) and "\n\n" in question:
        question = question.split("\n\n", 1)[1]
    return question.removesuffix(_DAPO_TAIL).strip()


def _answer(place: Place, row: dict[str, Any], columns: Shape, kind: str) -> str:
    name = _column(place, row, columns.answer, kind)
    value = row[name]
    if kind == "dapo" and isinstance(value, Mapping):
        name, value = f"{name}.ground_truth", value.get("ground_truth")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        place.fail(f"column {name!r} must be a text or a number, not {_shown(value)}")
    text = str(value).strip()
    text = (boxed(text) or text).strip().strip("$").strip()
    if not text:
        place.fail(f"column {name!r} is empty; fill it in or remove the row")
    if len(text) > MAX_ANSWER_CHARS:
        place.fail(
            f"column {name!r} has {len(text)} characters, more than the {MAX_ANSWER_CHARS} of a final "
            "answer; give the answer without its solution"
        )
    if boxed(rf"\boxed{{{text}}}") != text:
        place.fail(f"column {name!r} has braces that do not match: {_shown(text)}; correct them")
    if kind == "aime":
        number = integer(text)
        if number is None or not 0 <= number <= 999:
            place.fail(f"column {name!r} must be an integer from 0 to 999, not {_shown(text)}; correct it")
        return str(number)
    return text


def _identity(place: Place, row: dict[str, Any], columns: Shape, kind: str) -> str:
    for name in columns.identity:
        value = row.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | None) or value == "":
            place.fail(f"column {name!r} must be a text or an integer, not {_shown(value)}")
        if value is not None:
            return str(value)
    return f"{place.path.stem}/{place.line}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
