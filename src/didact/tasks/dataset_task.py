"""Tasks whose problems are all there when the task is made, and how a file of them is split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from didact.errors import DataError, UsageError
from didact.rng import derive_seed, generator
from didact.tasks.base import BaseTask
from didact.types import Problem


class DatasetTask(BaseTask):
    """Problems for training, which come again in another order once all have come, and for evaluation.

    Args:
        train: The training problems, in the file's order; at least one.
        evaluation: The evaluation problems, in the order in which `eval_problems` gives them.
        files: Every file that the problems and verdicts come from; None stands for no file.
        seed: The order of the training problems; each pass over them has an order of its own.
        stream: Names the random stream of the orders, so that two kinds of task do not share one.
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
        """How many training problems one pass has."""
        return len(self._train)

    def all_train_problems(self) -> Sequence[Problem]:
        """All training problems, in the file's order."""
        return self._train

    def all_problems(self) -> Sequence[Problem]:
        """All problems, those for training first."""
        return [*self._train, *self._eval]

    train_problems, problems = all_train_problems, all_problems

    def train_problem(self, index: int) -> Problem:
        """The index-th training problem; index ≥ `train_size` goes on with the next pass."""
        epoch, place = divmod(index, len(self._train))
        # A task that left problems out since, because they do not fit the model, has no order of them yet.
        if epoch != self._epoch or len(self._order) != len(self._train):
            self._epoch = epoch
            self._order = generator(self.seed, self._stream, epoch).permutation(len(self._train)).tolist()
        return self._train[self._order[place]]

    def eval_problems(self, n: int) -> Sequence[Problem]:
        """The first n evaluation problems, or all of them where there are fewer."""
        return self._eval[:n]


class Place(NamedTuple):
    """Where something is wrong."""

    path: Path
    line: int

    def fail(self, what: str, cause: Exception | None = None) -> NoReturn:
        raise DataError(f"{self.path}, line {self.line}: {what}. Nothing was written.") from cause


class ReadRow(NamedTuple):
    """A row of a file as a problem, and where it stands."""

    problem: Problem
    place: Place
    key: str
    """What the prompt says, white space aside: equal keys are the same prompt."""


class ReadFile(NamedTuple):
    """What a file gave."""

    rows: list[ReadRow]
    left_out: dict[str, str]
    """Why, by id or line, rows are not used."""


class Split(NamedTuple):
    """The problems of one file or two, on two sides."""

    train: list[Problem]
    evaluation: list[Problem]
    left_out: dict[str, str]
    """Why, by id or line, rows are not used."""


def read_split(
    read: Callable[[Path], ReadFile], path: str | Path, eval_path: str | Path | None, fraction: float
) -> Split:
    """The problems of a file, split by a hash of the prompt, or those of a file for each side.

    Args:
        read: Reads and checks a file.
        path: The file to train on.
        eval_path: The file to evaluate on; None to keep a part of `path` for that.
        fraction: About this part of the distinct prompts is kept then, in (0, 1).

    Raises:
        DataError: a file that cannot be used or split, or a row of the one that is also in the other.
    """
    loaded = read(Path(path))
    if eval_path is None:
        return Split(*_split(Path(path), loaded.rows, fraction), dict(loaded.left_out))
    held_out = read(Path(eval_path))
    _refuse_overlap(loaded.rows, held_out.rows)
    return Split(
        [row.problem for row in loaded.rows],
        [row.problem for row in held_out.rows],
        loaded.left_out | held_out.left_out,
    )


def held_out_keys(path: Path, keys: Iterable[str], fraction: float, stream: str) -> list[str]:
    """The keys of a file that are kept for evaluation, in the order of their hashes.

    A key's hash depends on nothing else, so that it stays on its side as files grow. Neither side is ever
    empty.

    Args:
        path: The file, for the error.
        keys: What its rows ask; equal keys stay on one side.
        fraction: About this part of them is kept, in (0, 1).
        stream: Names the hash.

    Raises:
        DataError: there are less than two distinct keys.
    """
    place_of = {key: derive_seed(0, stream, key) / 2**63 for key in keys}
    ranked = sorted(place_of, key=place_of.__getitem__)
    wanted = sum(place < fraction for place in place_of.values())
    if len(ranked) < 2:
        raise DataError(
            f"{path} has one row only, or one prompt in all rows: it asks one question only and cannot be "
            "split into training and evaluation. Add rows, or give eval_path. Nothing was written."
        )
    return ranked[: min(max(wanted, 1), len(ranked) - 1)]


def check_fraction(eval_fraction: float, what: str = "") -> None:
    """Refuse a part for evaluation outside (0, 1); `what` opens the message, as "task 'code': ".

    Raises:
        UsageError: it is outside.
    """
    if not 0 < eval_fraction < 1:
        raise UsageError(f"{what}eval_fraction must lie between 0 and 1, not {eval_fraction}")


def _split(path: Path, rows: list[ReadRow], fraction: float) -> tuple[list[Problem], list[Problem]]:
    """(train, eval), by a hash of the prompt alone; equal prompts stay on one side."""
    kept = held_out_keys(path, (row.key for row in rows), fraction, "jsonl-split")
    rank = {key: i for i, key in enumerate(kept)}
    held_out = sorted((row for row in rows if row.key in rank), key=lambda row: rank[row.key])
    return [row.problem for row in rows if row.key not in rank], [row.problem for row in held_out]


def _refuse_overlap(train: list[ReadRow], evaluation: list[ReadRow]) -> None:
    """Raise DataError if a prompt or an id of the evaluation rows is trained on."""
    known = {row.key: row.place for row in train}
    ids = {row.problem.id: row.place for row in train}
    for row in evaluation:
        if row.key in known:
            other = known[row.key]
            row.place.fail(
                f"this prompt is also trained on ({other.path}, line {other.line}); remove one of the two"
            )
        if row.problem.id in ids:
            other = ids[row.problem.id]
            row.place.fail(
                f"column 'id': {row.problem.id!r} is also the id of {other.path}, line {other.line}; "
                "make ids unique"
            )
