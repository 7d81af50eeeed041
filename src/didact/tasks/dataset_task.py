"""Tasks with a finite set of problems, and the split of a file into training and evaluation problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from didact.errors import DataError
from didact.rng import derive_seed, generator
from didact.tasks.base import BaseTask
from didact.tasks.rows import SourceLocation
from didact.types import Problem

EvalFraction = Annotated[float, Field(gt=0, lt=1)]
"""About this share of the distinct prompts is kept for evaluation where no file for it is given."""


class DatasetTask(BaseTask):
    """Training problems, in another order each epoch, and evaluation problems.

    Args:
        train: The training problems, in the file's order; at least one.
        evaluation: The evaluation problems, in the order of `eval_problems`.
        files: Every file that problems and verdicts depend on; None is ignored.
        seed: Seeds the order of the training problems.
        stream: Names the random stream of the order, so that two kinds of task do not share one.
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

    @property
    def train_size(self) -> int:
        """Training problems per epoch."""
        return len(self._train)

    def all_train_problems(self) -> Sequence[Problem]:
        """All training problems, in the file's order."""
        return self._train

    def all_problems(self) -> Sequence[Problem]:
        """All problems, those for training first."""
        return [*self._train, *self._eval]

    def train_problem(self, index: int) -> Problem:
        """The index-th training problem; an index ≥ `train_size` continues with the next epoch."""
        epoch, position = divmod(index, len(self._train))
        if epoch != self._epoch or len(self._order) != len(self._train):  # `bind_policy` may drop problems
            self._epoch = epoch
            self._order = generator(self.seed, self._stream, epoch).permutation(len(self._train)).tolist()
        return self._train[self._order[position]]

    def eval_problems(self, n: int) -> Sequence[Problem]:
        """The first n evaluation problems, or all if there are fewer."""
        return self._eval[:n]


class LoadedProblem(NamedTuple):
    """A problem and the row that it was made from."""

    problem: Problem
    location: SourceLocation
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
    """The files that were read."""


class Split(NamedTuple):
    """Training and evaluation problems."""

    train: list[Problem]
    evaluation: list[Problem]
    left_out: dict[str, str]
    files: tuple[Path, ...]


def split_problems(train: LoadedFile, evaluation: LoadedFile | None, fraction: float) -> Split:
    """Training and evaluation problems from two files, or from one that is split by a hash of the question.

    Args:
        train: The file to train on.
        evaluation: The file to evaluate on; None splits `train`.
        fraction: About this share of the distinct questions is then kept for evaluation, in (0, 1).

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
    _refuse_overlap(train, evaluation)
    return Split(
        [p.problem for p in train.problems],
        [p.problem for p in evaluation.problems],
        {**train.left_out, **evaluation.left_out},
        train.files + evaluation.files,
    )


def split_files(
    read: Callable[[Path], LoadedFile], path: Path, eval_path: Path | None, fraction: float
) -> Split:
    """`split_problems` of one file or two; `read` loads a file."""
    return split_problems(read(path), None if eval_path is None else read(eval_path), fraction)


def shipped(package: str, file: str) -> Path:
    """A data file that is installed with a package."""
    return Path(str(resources.files(package) / file))


def held_out_keys(source: str | Path, keys: Iterable[str], fraction: float, stream: str) -> list[str]:
    """The keys that are kept for evaluation, ordered by their hashes.

    A key's hash depends on the key alone, so a question stays on its side while the file grows. Neither side
    is ever empty.

    Args:
        source: Names the file in the error.
        keys: One a row; equal keys stay on one side.
        fraction: About this share of the distinct keys is kept, in (0, 1).
        stream: Names the hash.

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


def _check_ids(loaded: LoadedFile) -> None:
    if not loaded.problems:
        raise DataError(
            f"{loaded.source} has no usable rows: write one JSON object a line. Nothing was written."
        )
    first: dict[str, SourceLocation] = {}
    for problem, location, _ in loaded.problems:
        if (other := first.setdefault(problem.id, location)) is not location:
            location.fail(f"the id {problem.id!r} is already that of row {other.row}; make ids unique")


def _refuse_overlap(train: LoadedFile, evaluation: LoadedFile) -> None:
    """Raise a DataError if a question or an id is on both sides."""
    questions = {p.key: p.location for p in train.problems}
    ids = {p.problem.id: p.location for p in train.problems}
    for problem, location, key in evaluation.problems:
        for what, other in (("prompt", questions.get(key)), ("id", ids.get(problem.id))):
            if other is not None:
                location.fail(f"the {what} of {problem.id!r} is also that of {other}; remove one of the two")
