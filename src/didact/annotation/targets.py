"""Answers and the feedback on them, in a run directory or a data file.

A run keeps feedback in a file of its own (`feedback.jsonl`), a data file in the line of the answer
(`types.Example`, or the plain form of `didact.data.record`). Both are read as a list of `AnnotatedAnswer`
and take new feedback.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pydantic import ValidationError

from didact.data.faults import RowError
from didact.data.files import read_examples
from didact.data.record import parse_example
from didact.errors import DataError, UsageError
from didact.feedback_store import FeedbackRecord, FeedbackStore, MergeResult, invalid_line, new_records
from didact.jsonl import Line, encode, locked, parse_lines, read_all, replace_lines
from didact.types import Example, Feedback, Problem, Rollout, Turn


@dataclass(frozen=True)
class AnnotatedAnswer:
    """One answer and all feedback on it."""

    rollout: str
    """The rollout's id in a run, the example's id in a data file."""
    index: int
    """The turn of its rollout; 0 in a data file."""
    problem: Problem
    turn: Turn
    """The answer; in a data file without ids and reward."""
    feedback: tuple[Feedback, ...] = ()
    """All versions by all authors, oldest first."""
    step: int | None = None
    """The training step that sampled it; None in a data file."""

    @classmethod
    def of(cls, example: Example) -> AnnotatedAnswer:
        """An example's answer, neither sampled nor verified."""
        text = example.completion
        turn = Turn(prompt_ids=(), completion_ids=(), logprobs=None, text=text, stop_reason="eos")
        return cls(example.id, 0, example.problem, turn, example.feedback)

    @property
    def text(self) -> str:
        return self.turn.text

    @property
    def sha256(self) -> str:
        """The hash of the answer's exact text."""
        return text_sha256(self.turn.text)


class RunAnswers:
    """The answers of a run directory: `rollouts.jsonl` joined with `feedback.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rollouts = path / "rollouts.jsonl"
        self.store = FeedbackStore(path / "feedback.jsonl")

    def answers(self) -> list[AnnotatedAnswer]:
        """Every turn of every rollout."""
        feedback: dict[tuple[str, int], list[Feedback]] = defaultdict(list)
        for entry in self.store.read():
            feedback[entry.rollout, entry.feedback.turn].append(entry.feedback)
        found = []
        for line in parse_lines(self.rollouts.read_bytes(), self.rollouts):
            record = dict(line.record)
            step = record.pop("step", None)
            try:
                rollout = Rollout.model_validate(record)
            except ValidationError as error:
                raise invalid_line(self.rollouts, line, error, "a rollout") from None
            found += [
                AnnotatedAnswer(rollout.id, i, rollout.problem, turn, tuple(feedback[rollout.id, i]), step)
                for i, turn in enumerate(rollout.turns)
            ]
        return found

    def merge(self, records: Sequence[FeedbackRecord]) -> MergeResult:
        """Append feedback, except exact repeats of its author's latest version on the same answer."""
        return self.store.merge(records)


class ExampleFile:
    """A data file: one answer a line, in either form of `didact.data.record`.

    A gzipped file or a JSON array can be read but takes no feedback.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Example]:
        """All examples; DataError by the rules of `didact data validate`."""
        with locked(self.path, write=False):
            return self._examples()

    def answers(self) -> list[AnnotatedAnswer]:
        """Every example's answer."""
        return [AnnotatedAnswer.of(example) for example in self.read()]

    def merge(self, records: Sequence[FeedbackRecord]) -> MergeResult:
        """Add feedback to the lines of its answers, as `RunAnswers.merge`, and rewrite the file atomically.

        DataError if an answer is missing, a feedback cannot be stored, or the file is not JSON lines; nothing
        is changed.
        """
        result = MergeResult(0, 0, 0)

        def add(examples: Sequence[Example]) -> list[Example | None]:
            nonlocal result
            ids = {example.id for example in examples}
            if missing := [record.rollout for record in records if record.rollout not in ids]:
                raise DataError(
                    f"{self.path} has no answer {missing[0]!r} any more: export its answers again"
                )
            existing = [_record(e.id, f) for e in examples for f in e.feedback]
            new, result = new_records(existing, [_record(r.rollout, r.feedback) for r in records])
            added: dict[str, tuple[Feedback, ...]] = defaultdict(tuple)
            for record in new:
                added[record.rollout] += (record.feedback,)
            return [
                e.model_copy(update={"feedback": e.feedback + added[e.id]}) if e.id in added else e
                for e in examples
            ]

        self._rewrite(add)
        return result

    def change(self, to: Callable[[Example], Example | None]) -> list[Example]:
        """Rewrite the file atomically; returns the changed and removed examples as they were.

        `to` maps an example to itself, to another, or to None to remove it.
        """
        return self._rewrite(lambda examples: [to(example) for example in examples])

    def check_writable(self) -> None:
        """Raise DataError if the file is not JSON lines, so that feedback cannot be added or removed."""
        with locked(self.path, write=False) as handle:
            self._lines(read_all(handle))

    def _rewrite(self, to: Callable[[Sequence[Example]], list[Example | None]]) -> list[Example]:
        with locked(self.path) as handle:
            data = read_all(handle)
            lines = self._lines(data)
            after = to([example for _, example in lines])
            changed = [e for (_, e), new in zip(lines, after, strict=True) if new is not e]
            if not changed:
                return []
            kept = [
                # An implicit id is the row's number, which may change: it is written out.
                line.raw if new is example and line.record.get("id") is not None else self._encoded(new)
                for (line, example), new in zip(lines, after, strict=True)
                if new is not None
            ]
            replace_lines(self.path, data, kept)
        return changed

    def _encoded(self, example: Example) -> bytes:
        """An example's line, checked to be readable."""
        line = encode([example.model_dump(mode="json")]).rstrip(b"\n")
        try:
            parse_example(json.loads(line), fallback_id="")
        except RowError as error:
            raise DataError(
                f"{self.path}: the feedback on {example.id!r} cannot be kept: {error}. Nothing was changed."
            ) from None
        return line

    def _examples(self) -> list[Example]:
        """All examples of the locked file."""
        return list(read_examples(self.path)) if self.path.stat().st_size else []

    def _lines(self, data: bytes) -> list[tuple[Line, Example]]:
        """Every line with its example."""
        examples = self._examples()
        try:
            lines = list(parse_lines(data, self.path))
        except DataError:
            lines = []
        if len(lines) != len(examples):
            raise DataError(
                f"{self.path} is gzipped or one JSON value, and feedback is kept in JSON lines: "
                f"`didact data validate {self.path} --out NEW.jsonl` writes it so"
            )
        return list(zip(lines, examples, strict=True))


AnswerStore: TypeAlias = RunAnswers | ExampleFile


def open_answers(path: Path) -> AnswerStore:
    """The answers of a run directory or a data file; UsageError if it is neither."""
    if is_run(path):
        return RunAnswers(path)
    if path.is_dir():
        raise UsageError(
            f"{path} has no rollouts.jsonl: name a run directory that has sampled, or a data file"
        )
    if not path.exists():
        raise UsageError(f"there is no {str(path)!r}: name a run directory or a data file")
    return ExampleFile(path)


def cache_folder(path: Path) -> Path:
    """The folder for files of a source, such as a judge's replies: the run itself, or beside a data file.

    >>> cache_folder(Path("x/fb.jsonl")).as_posix()
    'x/fb.jsonl.didact'
    """
    return path if is_run(path) else path.with_name(f"{path.name}.didact")


def is_run(path: Path) -> bool:
    """Is it a run directory with answers in it?"""
    return (path / "rollouts.jsonl").is_file()


def text_sha256(text: str) -> str:
    """The hex digest of a text in UTF-8, lone surrogates included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _record(example: str, feedback: Feedback) -> FeedbackRecord:
    """Feedback on an example: on its only turn, with "?" for lone surrogates, which it may not hold."""
    text = json.dumps({**feedback.model_dump(mode="json"), "turn": 0}, ensure_ascii=False)
    clean = Feedback.model_validate_json(text.encode("utf-8", "replace"))
    return FeedbackRecord(rollout=example, feedback=clean)
