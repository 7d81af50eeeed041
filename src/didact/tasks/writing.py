"""Pieces to write, with no verifier: a judge scores them, and where it fails there is no reward.

The task knows no model. The scorer is bound to it (`bind_judge`), as `feedback.writing_judge.RubricJudge`
over any chat model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from didact.errors import UsageError
from didact.tasks.base import Verdict
from didact.tasks.dataset_task import DatasetTask, shipped
from didact.tasks.prompts import PromptSource, load_prompts
from didact.tasks.verifiers import none
from didact.types import Problem


class WritingTaskConfig(PromptSource):
    """Prompts to write to."""

    path: str | Path = shipped("didact.tasks", "writing_prompts.jsonl")
    """A file or dataset of prompts; by default the set that ships with Didact."""

    def build(self, seed: int) -> WritingTask:
        """See `WritingTask`."""
        return WritingTask(self, seed=seed)


class WritingTask(DatasetTask):
    """Prompts to write to, read like those of `PromptsTask`.

    Args:
        config: The settings.
        seed: Seeds the order of the training prompts.

    Raises:
        DataError: a file or row that cannot be used, naming the row, the column and the cure.
    """

    name = "writing"
    needs_judge = True

    def __init__(self, config: WritingTaskConfig, *, seed: int = 0) -> None:
        split, _ = load_prompts(config, none())
        super().__init__(split.train, split.evaluation, files=split.files, seed=seed, stream="jsonl-order")

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer; `verify_many` is faster for several."""
        return self.verify_many([(problem, answer)])[0]

    def verify_many(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, answer), in order, scored as one batch.

        Raises:
            UsageError: no scorer is bound, or none of its requests can succeed.
        """
        if self.judge is None:
            raise UsageError(
                "the task 'writing' has no verifier, and no judge was bound to it: name one for its rewards"
            )
        return self.judge.score(asked)
