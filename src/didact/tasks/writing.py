"""Pieces to write, with no verifier: a judge scores them, and where it fails there is no reward.

The task knows no model. Who makes it binds a scorer to it (`bind`), as `feedback.writing_judge.RubricJudge`
over any chat model.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol, runtime_checkable

from didact.errors import UsageError
from didact.tasks.base import Scorer, Verdict
from didact.tasks.jsonl import JsonlTask
from didact.types import Problem


@runtime_checkable
class JudgeScoredTask(Protocol):
    """A task whose rewards come from a scorer, which has to be bound to it before it verifies."""

    @property
    def bound(self) -> bool:
        """Has it a scorer?"""
        ...

    def bind(self, scorer: Scorer) -> None:
        """Take this scorer from now on."""
        ...


class WritingTask(JsonlTask):
    """Prompts to write to, from a file of JSON lines or from the set that ships with Didact.

    Args:
        path: The file: {"prompt": …} a line, or chat messages; see `JsonlTask`. None for the shipped set.
        eval_path: A second file to evaluate on; then all of `path` is for training.
        prompt_column: The column of the prompt.
        eval_fraction: About this part of the prompts is kept for evaluation, in (0, 1).
        seed: The order of the training prompts; each pass over them has an order of its own.

    Raises:
        DataError: a file or row that cannot be used, naming the line, the column and the cure.
        UsageError: a setting out of range.
    """

    needs_judge = True

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        eval_path: str | Path | None = None,
        prompt_column: str = "prompt",
        eval_fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(
            shipped() if path is None else path,
            eval_path=eval_path,
            verifier="none",
            prompt_column=prompt_column,
            eval_fraction=eval_fraction,
            seed=seed,
        )
        self.name = "writing"

    @property
    def bound(self) -> bool:
        """Has it a scorer?"""
        return self.judge is not None

    def bind(self, scorer: Scorer) -> None:
        """The same as `bind_judge`."""
        self.bind_judge(scorer)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer; `verify_many` is faster for several."""
        return self.verify_many([(problem, answer)])[0]

    def verify_many(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, answer), in order, scored as one batch.

        Raises:
            UsageError: no scorer is bound, or none of its requests can ever succeed.
        """
        if self.judge is None:
            raise UsageError(
                "the task 'writing' has no verifier, and no judge was bound to it: name one for its rewards"
            )
        return self.judge.score(asked)


def shipped() -> Path:
    """The file of the prompts that ship with Didact."""
    return Path(str(resources.files("didact.tasks") / "writing_prompts.jsonl"))
