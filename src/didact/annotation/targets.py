"""Answers and what was said about them, wherever they lie: a run directory or a data file.

A run keeps critiques in a file of their own (`feedback.jsonl`), a data file inside the line of the
answer (`types.Example`, or the plain form of `didact.data.record`). Here both are the same: a list of
answers that critiques can be added to.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from didact.data.faults import Rejected, RowError
from didact.data.files import check_examples, json_line
from didact.data.record import parse_example
from didact.errors import DataError, UsageError
from didact.feedback_store import FeedbackRecord, FeedbackStore, MergeResult, invalid_line, new_records
from didact.jsonl import Line, locked, parse_lines, read_all, replace_lines
from didact.types import Example, Feedback, Problem, Rollout, Turn


@dataclass(frozen=True)
class Answer:
    """One answer and everything that was said about it.

    Attributes:
        rollout: The rollout's id in a run, the example's id in a data file.
        index: Which turn of its rollout it is; 0 in a data file.
        problem: What was asked.
        turn: The answer. That of a data file has no ids, and nothing verified it.
        feedback: All versions of all authors, oldest first.
        step: The step of the run at which it was sampled; None in a data file.
    """

    rollout: str
    index: int
    problem: Problem
    turn: Turn
    feedback: tuple[Feedback, ...] = ()
    step: int | None = None

    @property
    def text(self) -> str:
        return self.turn.text

    @property
    def sha256(self) -> str:
        """Of the answer's exact text."""
        return sha256(self.turn.text)


class AnswerStore(Protocol):
    """Answers that critiques can be added to."""

    path: Path

    def answers(self) -> list[Answer]:
        """All answers, in the file's order."""
        ...

    def merge(self, said: Sequence[FeedbackRecord]) -> MergeResult:
        """Add critiques; those that repeat their author's latest words on that answer are left out."""
        ...


class RunAnswers:
    """The answers of a run directory: `rollouts.jsonl` joined with `feedback.jsonl`.

    Args:
        path: The run directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rollouts = path / "rollouts.jsonl"
        self.store = FeedbackStore(path / "feedback.jsonl")

    def answers(self) -> list[Answer]:
        """Every turn of every rollout."""
        said: dict[tuple[str, int], list[Feedback]] = defaultdict(list)
        for entry in self.store.read():
            said[entry.rollout, entry.feedback.turn].append(entry.feedback)
        found = []
        for line in parse_lines(self.rollouts.read_bytes(), self.rollouts):
            record = dict(line.record)
            step = record.pop("step", None)
            try:
                rollout = Rollout.model_validate(record)
            except ValidationError as error:
                raise invalid_line(self.rollouts, line, error, "a rollout") from None
            for index, turn in enumerate(rollout.turns):
                about = tuple(said[rollout.id, index])
                found.append(Answer(rollout.id, index, rollout.problem, turn, about, step))
        return found

    def merge(self, said: Sequence[FeedbackRecord]) -> MergeResult:
        return self.store.merge(said)


class ExampleFile:
    """A data file: one answer a line, in either form of `didact.data.record`.

    A gzipped file and a JSON array can be read, but not be added to.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Example]:
        """All examples; those without an id get that of their row, as everywhere that data files are read.

        Raises:
            DataError: the file cannot be read; or naming a row that is no answer, or whose id an earlier
                row has.
        """
        with locked(self.path, write=False):
            return self._examples()

    def answers(self) -> list[Answer]:
        """Every example's answer."""
        return [given_answer(example) for example in self.read()]

    def merge(self, said: Sequence[FeedbackRecord]) -> MergeResult:
        """Put critiques into the lines of their answers, and rewrite the file in one piece.

        Raises:
            DataError: an answer is no longer there, a critique could not be read again, or the file is
                not JSON lines; nothing was changed.
        """
        with locked(self.path) as handle:
            data = read_all(handle)
            lines = self._lines(data)
            there = {example.id: example for _, example in lines}
            if gone := [entry.rollout for entry in said if entry.rollout not in there]:
                raise DataError(f"{self.path} has no answer {gone[0]!r} any more: export its answers again")
            before = [_in_file(e.id, f) for e in there.values() for f in e.feedback]
            new, merged = new_records(
                before, [_in_file(entry.rollout, _writable(entry.feedback)) for entry in said]
            )
            added: dict[str, list[Feedback]] = defaultdict(list)
            for entry in new:
                added[entry.rollout].append(entry.feedback)
            self._rewrite(data, lines, lambda example: _with(example, added.get(example.id, ())))
        return merged

    def change(self, to: Callable[[Example], Example | None]) -> list[Example]:
        """Rewrite examples in one piece.

        Args:
            to: What becomes of an example: itself, another, or None to remove it.

        Returns:
            Those that were changed or removed, as they were.
        """
        with locked(self.path) as handle:
            data = read_all(handle)
            return self._rewrite(data, self._lines(data), to)

    def check_writable(self) -> None:
        """Raise DataError if critiques can be neither added nor removed: it is no file of JSON lines."""
        with locked(self.path, write=False) as handle:
            self._lines(read_all(handle))

    def _rewrite(
        self,
        before: bytes,
        lines: Sequence[tuple[Line, Example]],
        to: Callable[[Example], Example | None],
    ) -> list[Example]:
        after = [(line, example, to(example)) for line, example in lines]
        changed = [example for _, example, new in after if new is not example]
        if not changed:
            return []
        # The id of a row that names none is its place, which may be another one now: it is written down.
        kept = [
            line.raw if new is example and line.record.get("id") is not None else self._written(new)
            for line, example, new in after
            if new is not None
        ]
        replace_lines(self.path, before, kept)
        return changed

    def _written(self, example: Example) -> bytes:
        """An example's line, which is sure to be read again."""
        line = json_line(example.model_dump(mode="json"))
        try:
            parse_example(json.loads(line), fallback_id="")
        except RowError as error:
            raise DataError(
                f"{self.path}: what was said about {example.id!r} cannot be kept: {error}. "
                "Nothing was changed."
            ) from None
        return line.rstrip(b"\n")

    def _examples(self) -> list[Example]:
        """All examples of a file that is held, by the rules of `didact data validate`."""
        if not self.path.stat().st_size:
            return []
        found = []
        for outcome in check_examples(self.path):
            if isinstance(outcome, Rejected):
                raise DataError(
                    f"{self.path}, {outcome.messages()[0]}. Nothing was changed; see all faults with "
                    f"`didact data validate {self.path}`"
                )
            found.append(outcome)
        return found

    def _lines(self, data: bytes) -> list[tuple[Line, Example]]:
        """Every line and its example."""
        examples = self._examples()
        try:
            lines = list(parse_lines(data, self.path))
        except DataError:
            lines = []
        if len(lines) != len(examples):
            raise DataError(
                f"{self.path} is gzipped, or one JSON value, and what is said is kept in JSON lines: "
                f"`didact data validate {self.path} --out NEW.jsonl` writes it so"
            )
        return list(zip(lines, examples, strict=True))


def open_answers(path: Path) -> AnswerStore:
    """The answers of a run directory or a data file.

    Raises:
        UsageError: there is neither.
    """
    if is_run(path):
        return RunAnswers(path)
    if path.is_dir():
        raise UsageError(
            f"{path} has no rollouts.jsonl: name a run directory that has sampled, or a data file"
        )
    if not path.exists():
        raise UsageError(f"there is no {str(path)!r}: name a run directory or a data file")
    return ExampleFile(path)


def home(path: Path) -> Path:
    """Where a source keeps what it needs again, as a judge's replies: a run itself, or beside a data file.

    >>> home(Path("x/fb.jsonl")).as_posix()
    'x/fb.jsonl.didact'
    """
    return path if is_run(path) else path.with_name(f"{path.name}.didact")


def is_run(path: Path) -> bool:
    """Is it a run directory with answers in it?"""
    return (path / "rollouts.jsonl").is_file()


def given_answer(example: Example) -> Answer:
    """An example as an answer; nothing sampled or verified it."""
    turn = Turn(
        prompt_ids=(), completion_ids=(), logprobs=None, text=example.completion, stop_reason="eos"
    )  # fmt: skip
    return Answer(example.id, 0, example.problem, turn, example.feedback)


def sha256(text: str) -> str:
    """Of a text's UTF-8, half surrogate pairs included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _in_file(example: str, feedback: Feedback) -> FeedbackRecord:
    """Feedback stands in the line of its one answer, so the turn that it names says nothing."""
    return FeedbackRecord(rollout=example, feedback=feedback.model_copy(update={"turn": 0}))


def _writable(feedback: Feedback) -> Feedback:
    """The same with "?" for half a surrogate pair, which data files may not hold."""
    text = json.dumps(feedback.model_dump(mode="json"), ensure_ascii=False)
    return Feedback.model_validate_json(text.encode("utf-8", "replace"))


def _with(example: Example, more: Sequence[Feedback]) -> Example:
    return example.model_copy(update={"feedback": (*example.feedback, *more)}) if more else example
