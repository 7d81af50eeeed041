"""Tasks with a finite set of problems, the rows of their files, and the split for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

from pydantic import Field

from didact.data.faults import Fault, RowError, shown
from didact.data.record import parse_messages
from didact.data.rows import parquet_rows, require_rows, stem
from didact.errors import DataError, did_you_mean
from didact.rng import derive_seed, generator
from didact.tasks.base import BaseTask
from didact.types import Message, Problem

EvalFraction = Annotated[float, Field(gt=0, lt=1)]
"""About this share of the distinct prompts is kept for evaluation where no file for it is given."""


class DatasetTask(BaseTask):
    """Training problems, at least one, in another order each epoch, and evaluation problems.

    The order depends on `seed` and on the name `stream`, so that two kinds of task do not share one. Of the
    `files` on which problems and verdicts depend, None is ignored.
    """

    def __init__(
        self,
        train: Sequence[Problem],
        evaluation: Sequence[Problem],
        *,
        files: Iterable[str | Path | None],
        seed: int,
        stream: str,
    ) -> None:
        self.seed = seed
        self.files = tuple(Path(file) for file in files if file is not None)
        self._train, self._eval, self._stream = train, evaluation, stream
        self._epoch, self._order = -1, list[int]()

    def all_train_problems(self) -> Sequence[Problem]:
        return self._train

    def all_problems(self) -> Sequence[Problem]:
        return [*self._train, *self._eval]

    def train_problem(self, index: int) -> Problem:
        epoch, position = divmod(index, len(self._train))
        if epoch != self._epoch or len(self._order) != len(self._train):  # `bind_policy` may drop problems
            self._epoch = epoch
            self._order = generator(self.seed, self._stream, epoch).permutation(len(self._train)).tolist()
        return self._train[self._order[position]]

    def eval_problems(self, n: int) -> Sequence[Problem]:
        return self._eval[:n]


class FileRow(NamedTuple):
    """One row of a file or dataset."""

    source: str
    """The file's path, or the dataset's id and split."""
    number: int
    """From 1; of a JSON lines file the line, of a CSV file the row of a spreadsheet."""
    values: Mapping[str, Any]
    default_id: str
    """Its id where no column has one."""

    @property
    def place(self) -> str:
        """The row's source and number."""
        return f"{self.source}, row {self.number}"

    def fail(self, column: str | None, message: str) -> NoReturn:
        """Raise a DataError that names the row and, if it is not None, the column."""
        raise DataError(f"{self.place}: {Fault(column, message)}. Nothing was written.")

    def text(self, column: str, *, default: str | None = None) -> str:
        """A text that is not blank, or `default` where the column is missing."""
        value = self.values.get(column)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (default is None and not value.strip()):
            self.fail(column, f"must be a text that is not blank, not {shown(value)}")
        return value

    def texts(self, column: str) -> list[str]:
        """A list of texts; empty where the column is missing."""
        value = self.values.get(column, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(column, f"must be a list of texts, not {shown(value)}")
        return value

    def text_or_number(self, column: str) -> str:
        """A text or number as text, not blank."""
        value = self.values.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self.fail(column, f"must be a text or a number, not {shown(value)}")
        if not str(value).strip():
            self.fail(column, "is empty; fill it in or remove the row")
        return str(value)

    def messages(self, column: str) -> tuple[Message, ...]:
        """A text, or chat messages of which the last is the user's."""
        try:
            return parse_messages(self.values[column], column)
        except RowError as error:
            self.fail(*error.faults[0])

    def identity(self, *columns: str) -> str:
        """The id in the first of these columns that has one, else `default_id`."""
        for column in columns:
            value = self.values.get(column)
            if isinstance(value, bool) or not isinstance(value, str | int | None) or value == "":
                self.fail(column, f"must be a text or an integer, not {shown(value)}")
            if value is not None:
                return str(value)
        return self.default_id

    def missing(self, column: str, cure: str) -> NoReturn:
        """Raise a DataError for a column that is not there, naming one with nearly its name."""
        what = "is null" if column in self.values else f"is missing: {did_you_mean(column, self.values)}"
        self.fail(column, f"{what}; {cure}")


def read_file(path: Path) -> Iterator[FileRow]:
    """Every row of a file: Parquet or CSV (.csv, .tsv) by the ending of its name, else JSON.

    Raises:
        DataError: the file or a row cannot be read.
        UsageError: a Parquet file, and pyarrow is not installed.
    """
    name = stem(path)
    for row in parquet_rows(path) if path.suffix.lower() == ".parquet" else require_rows(path):
        yield FileRow(str(path), row.row, row.value, f"{name}/{row.row}")


class LoadedProblem(NamedTuple):
    """A problem and the row that it was made from."""

    problem: Problem
    row: FileRow
    key: str
    """The question without its white space: equal keys are the same question."""


class LoadedFile(NamedTuple):
    """The problems of one file or dataset."""

    source: str
    """Its path or id, for errors."""
    problems: Sequence[LoadedProblem]
    left_out: Mapping[str, str]
    """The reason, by id or row, why a row is not used."""
    files: tuple[Path, ...]


class Split(NamedTuple):
    """Training and evaluation problems."""

    train: list[Problem]
    evaluation: list[Problem]
    left_out: dict[str, str]
    files: tuple[Path, ...]


def split_problems(train: LoadedFile, evaluation: LoadedFile | None, fraction: float) -> Split:
    """Training and evaluation problems from two files, or from one, split as `held_out_keys` does.

    Raises:
        DataError: no problem, two problems with one id, a file that cannot be split, or a question or id on
            both sides.
    """
    _check_ids(train)
    if evaluation is None:
        keys = held_out_keys(train.source, (p.key for p in train.problems), fraction, "jsonl-split")
        rank = {key: i for i, key in enumerate(keys)}
        held_out = sorted((p for p in train.problems if p.key in rank), key=lambda p: rank[p.key])
        kept = [p.problem for p in train.problems if p.key not in rank]
        return Split(kept, [p.problem for p in held_out], dict(train.left_out), train.files)
    _check_ids(evaluation)
    questions = {p.key: p.row for p in train.problems}
    ids = {p.problem.id: p.row for p in train.problems}
    for problem, row, key in evaluation.problems:
        for what, other in (("prompt", questions.get(key)), ("id", ids.get(problem.id))):
            if other is not None:
                row.fail(
                    None, f"the {what} of {problem.id!r} is also that of {other.place}; remove one of the two"
                )
    return Split(
        [p.problem for p in train.problems],
        [p.problem for p in evaluation.problems],
        {**train.left_out, **evaluation.left_out},
        train.files + evaluation.files,
    )


def _check_ids(loaded: LoadedFile) -> None:
    if not loaded.problems:
        raise DataError(
            f"{loaded.source} has no usable rows: write one JSON object a line. Nothing was written."
        )
    first: dict[str, FileRow] = {}
    for problem, row, _ in loaded.problems:
        if (other := first.setdefault(problem.id, row)) is not row:
            row.fail(None, f"the id {problem.id!r} is already that of row {other.number}; make ids unique")


def shipped(package: str, file: str) -> Path:
    """A data file that is installed with a package."""
    return Path(str(resources.files(package) / file))


def held_out_keys(source: str | Path, keys: Iterable[str], fraction: float, stream: str) -> list[str]:
    """The keys that are kept for evaluation, about a `fraction` in (0, 1), ordered by their hashes.

    A key's hash depends on the key and the name `stream` alone, so a question stays on its side while
    the file `source` grows, and equal keys are on one side. Neither side is ever empty.

    Raises:
        DataError: fewer than two distinct keys.
    """
    hashes = {key: derive_seed(0, stream, key) / 2**63 for key in keys}
    ranked = sorted(hashes, key=hashes.__getitem__)
    wanted = sum(value < fraction for value in hashes.values())
    if len(ranked) < 2:
        raise DataError(
            f"{source} has one row only, or one prompt in all rows, and cannot be split into training and "
            "evaluation. Add rows, or give eval_path. Nothing was written."
        )
    return ranked[: min(max(wanted, 1), len(ranked) - 1)]
