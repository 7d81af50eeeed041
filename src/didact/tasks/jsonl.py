"""Problems from an own JSONL file: one JSON object a line.

    {"prompt": "What is 2 + 2?", "reference": "4"}
    {"messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"}], "id": "q7"}

Every row is checked when the task is made, before anything is written or trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from didact.errors import DataError, did_you_mean
from didact.tasks.base import Verdict
from didact.tasks.dataset_task import DatasetTask, Place, ReadFile, ReadRow, check_fraction, read_split
from didact.tasks.verifiers import Verifier, make_verifier
from didact.types import Message, Problem

ROLES = ("system", "user", "assistant")


class JsonlTask(DatasetTask):
    """Problems and references from a file of JSON lines.

    A row has its question under `prompt_column`, as a string or as chat messages (or chat messages
    under "messages"), and optionally a reference and an "id". All other columns go into the
    problem's metadata.

    Without `eval_path` the file is split by a hash of the prompt's text: the split depends on
    nothing else, so it is the same for every seed and method, and equal prompts stay on one side.

    Args:
        path: The file to train on.
        eval_path: A second file to evaluate on; then all of `path` is for training.
        verifier: How an answer is verified; see `didact.tasks.verifiers`. "none" leaves every
            reward None, to learn from critiques alone.
        prompt_column: The column of the question.
        reference_column: The column of the gold answer: a string or a number.
        eval_fraction: About this part of the distinct prompts is kept for evaluation, in (0, 1).
        seed: The order of the training problems; each pass over them has an order of its own.

    Raises:
        DataError: a file or row that cannot be used, naming the line, the column and the cure.
        UsageError: an unknown verifier or a setting out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        eval_path: str | Path | None = None,
        verifier: str | Mapping[str, Any] = "exact",
        prompt_column: str = "prompt",
        reference_column: str = "reference",
        eval_fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        check_fraction(eval_fraction)
        self.name = Path(path).stem
        self.prompt_column, self.reference_column = prompt_column, reference_column
        self._verifier = make_verifier(verifier)
        columns = _Columns(prompt_column, reference_column, self._verifier)
        split = read_split(lambda file: _read(file, columns), path, eval_path, eval_fraction)
        files = (path, eval_path, self._verifier.file)
        super().__init__(split.train, split.evaluation, files=files, seed=seed, stream="jsonl-order")

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer with the task's verifier."""
        asked: Any = problem.question
        if len(problem.messages) > 1:
            asked = [m.model_dump() for m in problem.messages]
        reference = problem.metadata.get(self.reference_column, problem.reference)
        row = {**problem.metadata, self.prompt_column: asked, self.reference_column: reference}
        return self._verifier.verify(answer, reference or "", row)


class _Columns(NamedTuple):
    prompt: str
    reference: str
    verifier: Verifier


def _read(path: Path, columns: _Columns) -> ReadFile:
    rows: list[ReadRow] = []
    lines_of_id: dict[str, int] = {}
    for place, row in json_lines(path):
        problem = _problem(place, row, columns)
        if problem.id in lines_of_id:
            first = lines_of_id[problem.id]
            place.fail(f"column 'id': {problem.id!r} is already the id of line {first}; make ids unique")
        lines_of_id[problem.id] = place.line
        rows.append(ReadRow(problem, place, problem.question_key))
    if not rows:
        raise DataError(f"{path} has no rows: write one JSON object a line. Nothing was written.")
    return ReadFile(rows, {})


def json_lines(path: Path) -> list[tuple[Place, dict[str, Any]]]:
    """Every line that is not blank, parsed and proved to be an object."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line_start = data.rfind(b"\n", 0, error.start) + 1
        byte = error.start - line_start + 1
        Place(path, data.count(b"\n", 0, error.start) + 1).fail(
            f"byte {byte} is not UTF-8 (0x{data[error.start]:02x}); save the file as UTF-8", error
        )
    lines = text.split("\n")  # not splitlines(): a U+2028 inside a JSON string ends no line
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [
        (Place(path, number), _parse(Place(path, number), line, is_last=number == filled[-1][0]))
        for number, line in filled
    ]


def _parse(place: Place, line: str, *, is_last: bool) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
        json.dumps(row, ensure_ascii=False).encode()  # a lone surrogate could not be written again
    except json.JSONDecodeError as error:
        cure = "write one complete JSON object a line"
        if is_last and error.pos >= len(line.rstrip()) - 1:
            cure = "the last line is cut off: write the file anew, or remove that line"
        elif is_last and error.msg.startswith("Unterminated"):
            cure = "the last line is cut off inside a string: write the file anew, or remove that line"
        elif place.line == 1 and line.lstrip().startswith("["):
            cure = "this looks like a JSON array: write one object a line, without brackets and commas"
        place.fail(f"invalid JSON at character {error.colno} ({error.msg}); {cure}", error)
    except UnicodeEncodeError as error:
        place.fail("a string holds half of a surrogate pair; write the character itself", error)
    except (ValueError, RecursionError) as error:
        place.fail(f"JSON that cannot be used ({error}); simplify this row", error)
    if not isinstance(row, dict):
        place.fail(f"a row must be a JSON object, but this is a {type(row).__name__}; wrap it in {{…}}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; use null")


def _problem(place: Place, row: dict[str, Any], columns: _Columns) -> Problem:
    column = columns.prompt
    if column not in row and "messages" in row:
        column = "messages"
    if column not in row:
        place.fail(f"there is no column {column!r}: {_near(column, row)}; set prompt_column, or add it")
    identity = row.get("id", f"{place.path.stem}/{place.line}")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        place.fail(f"column 'id' must be a string or an integer, not {identity!r}")
    reference = _reference(place, row, columns)
    rest = {k: v for k, v in row.items() if k not in (column, columns.reference, "id")}
    if reference is not None and not columns.verifier.reference_is_answer:
        rest[columns.reference], reference = reference, None
    return Problem(
        id=str(identity), messages=_messages(place, column, row[column]), reference=reference, metadata=rest
    )


def _messages(place: Place, column: str, value: Any) -> tuple[Message, ...]:
    chat = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(chat, list) or not chat:
        place.fail(f"column {column!r} must be a text or a list of chat messages, not {_shown(value)}")
    for i, message in enumerate(chat, start=1):
        where = f"column {column!r}" if isinstance(value, str) else f"column {column!r}, message {i}"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            place.fail(f'{where} must be {{"role": …, "content": …}}, not {_shown(message)}')
        if message["role"] not in ROLES:
            place.fail(f"{where}: unknown role {message['role']!r}: {_near(str(message['role']), ROLES)}")
        if not isinstance(message["content"], str):
            place.fail(f"{where}: content must be a text, not {_shown(message['content'])}")
        if not message["content"].strip():
            place.fail(f"{where} is empty; fill it in or remove the row")
    if chat[-1]["role"] != "user":
        place.fail(
            f"column {column!r}: the last message must be the user's, not the {chat[-1]['role']}'s; "
            "move a given answer to the reference column"
        )
    return tuple(Message(**message) for message in chat)


def _reference(place: Place, row: dict[str, Any], columns: _Columns) -> str | None:
    name, verifier = columns.reference, columns.verifier
    value = row.get(name)
    if value is None:
        if verifier.needs_reference:
            missing = f"column {name!r} is null" if name in row else f"there is no column {name!r}"
            hint = "" if name in row else f": {_near(name, row)}"
            place.fail(
                f"{missing}{hint}, and the verifier needs it; set reference_column, or "
                "verifier=none to learn from critiques alone"
            )
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        place.fail(f"column {name!r} must be a text or a number, not {_shown(value)}")
    reference = str(value)
    if not reference.strip():
        place.fail(f"column {name!r} is empty; fill it in or remove the row")
    if wrong := verifier.check_reference(reference):
        place.fail(f"column {name!r}: {wrong}")
    return reference


def _near(word: str, valid: Any) -> str:
    return did_you_mean(word, map(str, valid))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
