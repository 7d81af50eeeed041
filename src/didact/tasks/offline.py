"""Answers that were given already, and what was said about them: a data file as a task.

Its problems are those of the file, its answers are the file's, so that a method that learns from
critiques can start from logs: the first turn is given, only the revision is sampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from didact.data.files import read_examples
from didact.errors import DataError, UsageError
from didact.tasks.base import OfflineAnswers, Verdict
from didact.tasks.dataset_task import DatasetTask, check_fraction, held_out_keys
from didact.tasks.verifiers import make_verifier
from didact.types import Example, Feedback, Problem

__all__ = ["OfflineAnswers", "OfflineTask"]


class OfflineTask(DatasetTask):
    """Problems, given answers and their verifier from a file of `Example` lines.

    Only answers with a usable critique are trained on. Without `eval_path` a part of the problems is
    kept for evaluation, chosen by a hash of what is asked, so that one question stays on one side.

    Args:
        path: The file, as `didact data import` writes it.
        eval_path: A second file to evaluate on; then all of `path` is for training.
        verifier: How an answer is verified; see `didact.tasks.verifiers`. With "none" every reward is
            None, and only feedback modelling learns.
        eval_fraction: About this part of the problems is kept for evaluation, in (0, 1).
        said_by: Only answers with a critique by one of these sources are trained on; None for any.
        seed: The order of the training problems; each pass over them has an order of its own.

    Raises:
        DataError: a file or row that cannot be used, or nothing to train on.
        UsageError: an unknown verifier or a setting out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        eval_path: str | Path | None = None,
        verifier: str | Mapping[str, Any] = "exact",
        eval_fraction: float = 0.2,
        said_by: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        check_fraction(eval_fraction)
        self.name = Path(path).stem
        self._verifier = make_verifier(verifier)
        if not self._verifier.reference_is_answer:
            raise UsageError(f"task 'recorded' needs references that are answers, not patterns: {verifier!r}")
        by_question = _by_question(read_examples(Path(path)))
        if eval_path is None:
            held_out = set(held_out_keys(Path(path), by_question, eval_fraction, "recorded-split"))
        else:
            others = _by_question(read_examples(Path(eval_path)))
            if shared := sorted(by_question.keys() & others.keys()):
                other = others[shared[0]][0].problem.id
                raise DataError(f"{eval_path}: {other!r} asks what {path} trains on: remove one of the two")
            by_question |= others
            held_out = set(others)
        self._check_references(by_question)
        evaluation = [_problem(rows) for key, rows in by_question.items() if key in held_out]
        training = [
            [row for row in rows if any(_usable(f, said_by) for f in row.feedback)]
            for key, rows in by_question.items()
            if key not in held_out
        ]
        train = [_problem(rows) for rows in training if rows]
        self._answers = {_problem(rows).id: tuple(r.completion for r in rows) for rows in training if rows}
        if not train:
            raise DataError(
                f"{path} has no answer with a critique in words to train on: run "
                f"`didact critique run {path}`, or import one that people wrote"
            )
        files = (path, eval_path, self._verifier.file)
        super().__init__(train, evaluation, files=files, seed=seed, stream="recorded-order")
        self.offline = self

    def _check_references(self, by_question: Mapping[str, Sequence[Example]]) -> None:
        """Refuse two references of one question, and one that the verifier cannot use."""
        for rows in by_question.values():
            known = {row.problem.reference: row.id for row in rows if row.problem.reference is not None}
            if len(known) > 1:
                (one, first), (other, second) = list(known.items())[:2]
                raise DataError(
                    f"rows {first!r} and {second!r} ask the same question, but their references differ "
                    f"({one!r}, {other!r}): mend one of them"
                )
            for reference, identity in known.items():
                if wrong := self._verifier.check_reference(reference):
                    raise DataError(f"row {identity!r}, reference: {wrong}")

    def answers(self, problem: Problem) -> Sequence[str]:
        """What was answered to a training problem, in the file's order."""
        return self._answers[problem.id]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer with the task's verifier; without a reference nothing is verified."""
        if problem.reference is None and self._verifier.needs_reference:
            return Verdict(None, False)
        row = {**problem.metadata, "prompt": problem.question, "reference": problem.reference}
        return self._verifier.verify(answer, problem.reference or "", row)


def _problem(rows: Sequence[Example]) -> Problem:
    """What the rows of one question ask: the first problem that has a reference, else the first."""
    return next((row.problem for row in rows if row.problem.reference is not None), rows[0].problem)


def _usable(feedback: Feedback, said_by: Sequence[str] | None) -> bool:
    return feedback.ok and bool(feedback.text.strip()) and (said_by is None or feedback.source in said_by)


def _by_question(rows: Iterable[Example]) -> dict[str, list[Example]]:
    """Rows by what is asked, white space aside, under the first one's problem."""
    found: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        found[row.problem.question_key].append(row)
    return dict(found)
