r"""Math problems with one right answer, compared as expressions by `math-verify`.

An answer is right if the expression in its last \boxed{…} (or its last number) equals the reference: 1/2, 0.5
and \frac{1}{2} are equal. If the reference is a number, an unevaluated expression, as \boxed{5+5} for 10, is
wrong, because repeating the question would otherwise be right.

No text of a model raises or hangs: it is truncated and compared in a process with limits (`worker`). An
answer that exceeds them is wrong. If that process itself fails, the verdict has no reward and an error.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from didact.distributed import on_main_process
from didact.errors import DataError
from didact.tasks.base import BaseTaskConfig, Verdict
from didact.tasks.dataset_task import DatasetTask, EvalFraction, LoadedFile, shipped, split_problems
from didact.tasks.math import notation
from didact.tasks.math.answers import boxed, boxes
from didact.tasks.math.checker import Compared, MathChecker, shared_checker
from didact.tasks.math.load import ANSWER, load
from didact.tasks.numbers import last_number
from didact.types import Problem

INSTRUCTIONS = {
    "boxed": r"Think step by step, and put the final answer into \boxed{}.",
    "number": "Think step by step, and end with the answer as a number.",
    "either": r"Think step by step, and put the final answer into \boxed{}.",
}
"""Follows a question, by the form of the answer."""


class MathTaskConfig(BaseTaskConfig):
    """Math problems with a final answer."""

    path: Path = shipped("didact.tasks.math", "problems.jsonl")
    """A file of problems, in one of the shapes of tasks/math/load.py; by default the set that ships with
    Didact."""
    eval_path: Path | None = None
    """A second one to evaluate on, as MATH-500 for DAPO; then all of `path` is for training."""
    shape: Literal["auto", "own", "math500", "aime", "deepmath", "dapo"] = "auto"
    """The columns of both files; auto decides by each row."""
    conflicts: Literal["refuse", "skip"] = "refuse"
    """Refuse a file with two answers to one question, or skip such questions."""
    form: Literal["boxed", "number", "either"] = "boxed"
    r"""Where the answer of a text is: in the last \boxed{…}, the last number, or the box and else the
    number."""
    instruction: str | None = None
    """Follows every question; null for the form's own, "" for none."""
    format_penalty: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Subtracted from the reward of an answer that has not the form. The code of the RLTF paper uses 0.1."""
    unevaluated: bool = False
    """Also accept 5+5 for 10."""
    eval_fraction: EvalFraction = 0.2

    def build(self, seed: int) -> MathTask:
        return MathTask(self, seed=seed)


class MathTask(DatasetTask):
    """Problems with a final answer.

    Attributes:
        checker: Compares expressions; its process starts at the first answer that needs it.
        left_out: The reason, by file and row, why a row is not used.
    """

    name = "math"
    packages = ("math-verify",) if find_spec("math_verify") else ()

    def __init__(self, config: MathTaskConfig, *, seed: int = 0) -> None:
        self.form, self.format_penalty = config.form, config.format_penalty
        self.unevaluated = config.unevaluated
        self.checker: MathChecker = shared_checker()
        instruction = INSTRUCTIONS[self.form] if config.instruction is None else config.instruction.strip()
        reference = "%s" if self.form == "number" else r"\boxed{%s}"

        def read(path: Path) -> LoadedFile:
            return load(path, config.shape, instruction, reference, skip_conflicts=config.conflicts == "skip")

        evaluation = None if config.eval_path is None else read(config.eval_path)
        split = split_problems(read(config.path), evaluation, config.eval_fraction)
        super().__init__(split.train, split.evaluation, files=split.files, seed=seed, stream="math-order")
        self.left_out = split.left_out
        for problem in self.all_problems() if self.form == "number" else ():
            gold = str(problem.metadata[ANSWER])
            found = last_number(gold)
            if found is None or (found.start, found.end) != (0, len(gold)):
                raise DataError(
                    f"problem {problem.id!r}: the answer {gold!r} is not a plain number, which form 'number' "
                    "needs; set form to boxed"
                )

    def final_answer(self, answer: str) -> str | None:
        """The answer in a text, by the task's form; None if there is none."""
        box, number = boxed(answer), last_number(answer)
        if self.form == "number" or (self.form == "either" and box is None):
            return None if number is None else number.written
        return box

    @on_main_process
    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer: 1 if right, else 0, minus the penalty if it has not the form.

        Raises:
            UsageError: math-verify is not installed, and an answer cannot be compared without it.
        """
        final = self.final_answer(answer)
        has_form = final is not None if self.form == "number" else boxed(answer) is not None
        penalty = 0.0 if has_form else self.format_penalty
        gold = problem.metadata.get(ANSWER)
        if not isinstance(gold, str):
            return Verdict(None, False, f"problem {problem.id!r} has no gold answer in its metadata")
        if final is None:
            return Verdict(0.0 - penalty, False)
        compared = self._compare(gold, final)
        several, parts = boxes(answer), gold.count(",") + 1
        if not compared.equal and self.form != "number" and 1 < parts <= len(several):
            compared = self._compare(gold, ", ".join(several[-parts:]))  # a box for each
        if compared.error is not None:
            return Verdict(None, False, compared.error)
        return Verdict(float(compared.equal) - penalty, compared.equal)

    def _compare(self, gold: str, final: str) -> Compared:
        wanted, unit = notation.split_unit(notation.rewritten(gold))
        given, other = notation.split_unit(notation.rewritten(final))
        decided = False if unit and other and unit != other else notation.compare(wanted, given)
        if decided is not None:
            return Compared(decided)
        return self.checker.compare(wanted, given, loose=self.unevaluated)
