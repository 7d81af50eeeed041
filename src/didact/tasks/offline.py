"""Recorded answers with their critiques: a data file as a task.

The first turn of a rollout is an answer of the file and only the revision is sampled, so that a method that
learns from critiques can start from logs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from didact.data.files import read_examples
from didact.data.rows import stem
from didact.errors import DataError, UsageError
from didact.tasks.base import BaseTaskConfig, Verdict
from didact.tasks.dataset_task import DatasetTask, EvalFraction, held_out_keys
from didact.tasks.verifiers import make_verifier
from didact.types import Example, Feedback, Problem


class OfflineTaskConfig(BaseTaskConfig):
    """A file of recorded answers."""

    path: Path
    """The file, as `didact data import` writes it."""
    eval_path: Path | None = None
    """A second one to evaluate on; then all of `path` is for training."""
    verifier: str | dict[str, Any] = "exact"
    """See tasks/verifiers.py. With none every reward is missing, and only feedback modelling learns."""
    eval_fraction: EvalFraction = 0.2
    critique_sources: list[str] | None = None
    """Train only on answers with a critique from one of these sources; null for any."""

    def build(self, seed: int) -> OfflineTask:
        return OfflineTask(self, seed=seed)


class OfflineTask(DatasetTask):
    """Problems, answers and critiques of a file of `Example` lines.

    Only answers with a usable critique are trained on. Without `eval_path` the problems are split by a hash
    of the question, so that one question is on one side.
    """

    def __init__(self, config: OfflineTaskConfig, *, seed: int = 0) -> None:
        path, eval_path = config.path, config.eval_path
        self.name = stem(path)
        self._verifier = make_verifier(config.verifier)
        if not self._verifier.reference_is_answer:
            raise UsageError(
                f"task 'offline' needs references that are answers, not patterns: {config.verifier!r}"
            )
        by_question = _by_question(read_examples(path))
        if eval_path is None:
            held_out = set(held_out_keys(path, by_question, config.eval_fraction, "recorded-split"))
        else:
            others = _by_question(read_examples(eval_path))
            if shared := sorted(by_question.keys() & others.keys()):
                other = others[shared[0]][0].problem.id
                raise DataError(f"{eval_path}: {other!r} asks what {path} trains on: remove one of the two")
            by_question |= others
            held_out = set(others)
        self._check_references(by_question)
        evaluation = [_problem(rows) for key, rows in by_question.items() if key in held_out]
        usable = [
            [row for row in rows if any(_is_usable(f, config.critique_sources) for f in row.feedback)]
            for key, rows in by_question.items()
            if key not in held_out
        ]
        training = [(_problem(rows), tuple(row.completion for row in rows)) for rows in usable if rows]
        if not training:
            raise DataError(
                f"{path} has no answer with a critique in words to train on: run "
                f"`didact critique run {path}`, or import one that people wrote"
            )
        self._answers = {problem.id: answers for problem, answers in training}
        self.offline = self
        train, files = [problem for problem, _ in training], (path, eval_path, self._verifier.file)
        super().__init__(train, evaluation, files=files, seed=seed, stream="recorded-order")

    def answers(self, problem: Problem) -> Sequence[str]:
        return self._answers[problem.id]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """No reward where the verifier needs a reference and there is none."""
        if problem.reference is None and self._verifier.needs_reference:
            return Verdict(None, False)
        row = {**problem.metadata, "prompt": problem.question, "reference": problem.reference}
        return self._verifier.verify(answer, problem.reference or "", row)

    def _check_references(self, by_question: Mapping[str, Sequence[Example]]) -> None:
        """Refuse two references of one question, and a reference that the verifier cannot use."""
        for rows in by_question.values():
            known = {row.problem.reference: row.id for row in rows if row.problem.reference is not None}
            if len(known) > 1:
                (one, first), (other, second) = list(known.items())[:2]
                raise DataError(
                    f"rows {first!r} and {second!r} ask the same question, but their references differ "
                    f"({one!r}, {other!r}): correct one of them"
                )
            for reference, identity in known.items():
                if wrong := self._verifier.check_reference(reference):
                    raise DataError(f"row {identity!r}, reference: {wrong}")


def _problem(rows: Sequence[Example]) -> Problem:
    """The first problem of these rows that has a reference, else the first."""
    return next((row.problem for row in rows if row.problem.reference is not None), rows[0].problem)


def _is_usable(feedback: Feedback, sources: Sequence[str] | None) -> bool:
    return feedback.ok and bool(feedback.text.strip()) and (sources is None or feedback.source in sources)


def _by_question(rows: Iterable[Example]) -> dict[str, list[Example]]:
    """Rows by question, white space ignored."""
    found: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        found[row.problem.question_key].append(row)
    return dict(found)
