r"""Mathematical problems with one right answer, verified as mathematics by `math-verify`.

An answer is right when the expression in its last \boxed{…} (or its last number) is the same as the gold
one: 1/2, 0.5 and \frac{1}{2} are. An expression that is not worked out, as \boxed{5+5} for 10, is wrong
where the gold answer is a number: it would be right for repeating the question.

What a model wrote can neither raise nor hang: it is cut to its end and to a length, and compared in a
process with limits (`worker`). Who exceeds them is wrong. Only where that process itself fails has the
verdict no reward, and an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from didact.errors import DataError, UsageError, did_you_mean
from didact.tasks.base import Verdict
from didact.tasks.dataset_task import DatasetTask, check_fraction, read_split
from didact.tasks.math.answers import boxed, integer, last_number
from didact.tasks.math.checker import MathChecker, shared_checker
from didact.tasks.math.load import ANSWER, SHAPES, Wording, load
from didact.types import Problem

FORMS = ("boxed", "number", "either")
INSTRUCTIONS = {
    "boxed": r"Think step by step, and put the final answer into \boxed{}.",
    "number": "Think step by step, and end with the answer as a number.",
    "either": r"Think step by step, and put the final answer into \boxed{}.",
}
"""What follows a question, by the form of the answer."""


class MathTask(DatasetTask):
    r"""Problems with a final answer.

    Args:
        path: JSON lines of problems (see `load` for the shapes); without it, the set that ships with Didact.
        eval_path: A second file to evaluate on, as MATH-500 for DAPO; then all of `path` is for training.
        shape: "auto", or one of "own", "math500", "aime", "deepmath" and "dapo", for both files.
        conflicts: "refuse" a file with two answers to one question, or "skip" such questions;
            `left_out` then names them.
        form: "boxed": the last \boxed{…} is the answer, and a text without one has none. "number": the
            last number is. "either": the box, or the last number where there is no box.
        instruction: What follows every question; None for the form's own, "" for nothing.
        format_penalty: Taken from the reward of an answer that has not the form, in [0, 1]. The RLTF
            paper's code takes 0.1.
        unevaluated: Also accept 5+5 for 10.
        eval_fraction: About this part of the problems is kept for evaluation, in (0, 1), by a hash of
            the question alone.
        seed: The order of the training problems; each pass over them has an order of its own.

    Raises:
        UsageError: a setting out of range.
        DataError: a file or row that cannot be used, naming the line, the column and the cure.
    """

    name = "math"

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        eval_path: str | Path | None = None,
        shape: str = "auto",
        conflicts: str = "refuse",
        form: str = "boxed",
        instruction: str | None = None,
        format_penalty: float = 0.0,
        unevaluated: bool = False,
        eval_fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        _check(shape, conflicts, form, format_penalty, eval_fraction)
        self.form, self.format_penalty, self.unevaluated = form, format_penalty, unevaluated
        self.checker: MathChecker = shared_checker()
        """Compares expressions; started at the first answer that needs it."""
        file = shipped() if path is None else path
        asked = INSTRUCTIONS[form] if instruction is None else instruction.strip()
        wording = Wording(asked, "%s" if form == "number" else r"\boxed{%s}")
        skip = conflicts == "skip"
        split = read_split(
            lambda f: load(f, shape, wording, skip_conflicts=skip), file, eval_path, eval_fraction
        )
        super().__init__(
            split.train, split.evaluation, files=(file, eval_path), seed=seed, stream="math-order"
        )
        self.left_out = split.left_out
        """Why, by file and line, rows are not used."""
        if form == "number":
            _check_numbers(self.problems())

    def final_answer(self, answer: str) -> str | None:
        """What counts as the answer in a text, by the task's form; None where nothing does."""
        if self.form == "number":
            return last_number(answer)
        found = boxed(answer)
        return last_number(answer) if found is None and self.form == "either" else found

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer: 1 for right and 0 for wrong, less the penalty where it has not the form.

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
        right, error = self._same(gold, final)
        if error is not None:
            return Verdict(None, False, error)
        return Verdict(float(right) - penalty, right)

    def _same(self, gold: str, final: str) -> tuple[bool, str | None]:
        """(is it right, why nobody could say)."""
        if " ".join(gold.split()) == " ".join(final.split()):
            return True, None
        wanted, given = integer(gold), integer(final)
        if wanted is not None and given is not None:
            return wanted == given, None
        compared = self.checker.compare(gold, final, loose=self.unevaluated)
        return compared.equal, compared.error


def shipped() -> Path:
    """The file of the problems that ship with Didact."""
    return Path(str(resources.files("didact.tasks.math") / "problems.jsonl"))


def _check(shape: str, conflicts: str, form: str, format_penalty: float, eval_fraction: float) -> None:
    words = {
        "shape": (shape, ["auto", *SHAPES]),
        "conflicts": (conflicts, ["refuse", "skip"]),
        "form": (form, list(FORMS)),
    }
    for name, (word, valid) in words.items():
        if word not in valid:
            raise UsageError(f"task 'math' has no {name} {word!r}: {did_you_mean(word, valid)}")
    if not 0 <= format_penalty <= 1:
        raise UsageError(f"task 'math': format_penalty must lie between 0 and 1, not {format_penalty}")
    check_fraction(eval_fraction, "task 'math': ")


def _check_numbers(problems: Sequence[Problem]) -> None:
    """Refuse gold answers that no last number could be."""
    for problem in problems:
        gold = str(problem.metadata[ANSWER])
        if last_number(gold) is None or last_number(gold) != gold.replace(",", "").replace(" ", ""):
            raise DataError(
                f"problem {problem.id!r}: the answer {gold!r} is not a plain number, which form 'number' "
                "needs; set form to boxed"
            )
