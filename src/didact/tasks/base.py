"""The contract of a task, and a base class with a default for everything that a run may ask of one.

A task needs `name`, `train_problem`, `eval_problems` and `verify`. A subclass of `BaseTask` overrides the
hooks that apply to it; any other object with the four members gets the defaults from `as_base_task`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from didact.errors import DataError
from didact.settings import Section
from didact.types import Message, Problem, Turn


class Verdict(NamedTuple):
    """The result of verifying one answer."""

    reward: float | None
    """R(x₀, y), usually in [0, 1]; None if the answer could not be verified, which is not the same as 0."""
    correct: bool
    """The answer is fully right."""
    error: str | None = None
    """Why the verifier failed; None if it did not."""


class Task(Protocol):
    """Training problems, evaluation problems disjoint from them, and a verifier."""

    name: str

    def train_problem(self, index: int) -> Problem:
        """The index-th training problem, index ≥ 0; never an evaluation problem.

        A finite task starts a new epoch in another order once all problems were returned.
        """
        raise NotImplementedError

    def eval_problems(self, n: int) -> Sequence[Problem]:
        """The first n evaluation problems, or all if there are fewer, the same for every method and seed."""
        raise NotImplementedError

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer. A malformed answer scores 0; no answer makes this raise."""
        raise NotImplementedError


class Scorer(Protocol):
    """Scores answers that have no verifier, in batches."""

    def score(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, answer), in order.

        A failed request gives a verdict without reward and with an error, never 0.

        Raises:
            UsageError: no request can succeed, for example because the server rejects the key.
        """
        ...


class OfflineAnswers(Protocol):
    """Answers to training problems that were recorded earlier."""

    def answers(self, problem: Problem) -> Sequence[str]:
        """The recorded answers to a training problem, at least one, in the file's order."""
        ...


class PolicyLimits(NamedTuple):
    """What a task may have to know of the model that is trained on it."""

    prompt_tokens: Callable[[Sequence[Message]], int]
    """Length of a conversation as the model's chat template renders it."""
    answer_tokens: Callable[[str], int]
    """Length of an answer with its end token."""
    context: int | None
    """The model's longest sequence in tokens; None for no limit."""
    max_tokens: int
    """`sampling.max_tokens`."""
    chat_template: Mapping[str, Any]
    """Arguments of the chat template."""


class BaseTask(Task):
    """Defaults for the optional hooks of a task.

    Attributes:
        files: Every file that problems and verdicts depend on; a resumed run checks that they are unchanged.
        needs_judge: The task has no verifier of its own: rewards come from the scorer given to `bind_judge`.
        judge: That scorer; None before `bind_judge`.
        offline: Recorded answers; where there are some, first turns are not sampled.
        held_out_families: Names of the `families` that no training problem belongs to.
        critic_name: Which program criticises answers, a key of the table of program critics in `feedback/`:
            "reference" compares with the problem's reference, "tests" reports a code task's tests,
            "puzzle" checks a puzzle's own solution.
        critic_uses_reference: A wrong reference would change what the program critic writes. False for tests.
        packages: Installed distributions that problems and verdicts depend on, as "reasoning-gym"; a resumed
            run checks their versions.
    """

    files: tuple[Path, ...] = ()
    needs_judge: bool = False
    judge: Scorer | None = None
    offline: OfflineAnswers | None = None
    held_out_families: tuple[str, ...] = ()
    critic_name: str = "reference"
    critic_uses_reference: bool = True
    packages: tuple[str, ...] = ()

    def verify_many(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, answer), in order; override it where a batch is faster."""
        return [self.verify(problem, answer) for problem, answer in asked]

    def all_train_problems(self) -> Sequence[Problem] | None:
        """All training problems of a finite task; None if they are generated."""
        return None

    def all_problems(self) -> Sequence[Problem] | None:
        """All problems of a finite task, those for training first; None if they are generated."""
        return None

    def families(self) -> Mapping[str, Task]:
        """The tasks that a mixture consists of, by name; {name: self} for any other task."""
        return {self.name: self}

    def bind_judge(self, judge: Scorer) -> None:
        """Take rewards from this scorer from now on."""
        self.judge = judge

    def bind_policy(self, limits: PolicyLimits) -> None:
        """Called once with the limits of the model that is trained; a task may leave out what does not fit.

        Raises:
            DataError: no problem fits.
        """

    def write_beside(self, folder: Path) -> None:
        """Called after the trained model was saved to `folder`; a task may add a file there."""


class BaseTaskConfig(Section):
    """Settings of a task: a frozen pydantic model that builds it."""

    def build(self, seed: int) -> BaseTask:
        """The task; see `make_task`.

        Raises:
            UsageError: a setting that cannot be used, or a package that is not installed.
            DataError: a file that cannot be used.
        """
        raise NotImplementedError


class _Adapted(BaseTask):
    """A task that is no `BaseTask`, with the defaults for the hooks that it lacks."""

    def __init__(self, task: Task) -> None:
        self._task = task
        for name in ("name", *dir(BaseTask)):
            if not name.startswith("_") and hasattr(task, name):
                setattr(self, name, getattr(task, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_task"], name)


def as_base_task(task: Task) -> BaseTask:
    """The task itself if it is a `BaseTask`, else a wrapper that adds the defaults of the missing hooks."""
    return task if isinstance(task, BaseTask) else _Adapted(task)  # type: ignore[abstract]


def verify_turns(task: Task, asked: Sequence[tuple[Problem, Turn]]) -> list[Verdict]:
    """One verdict for each turn's answer, in order; thoughts without an answer score 0 at most."""
    verdicts = as_base_task(task).verify_many([(problem, turn.answer) for problem, turn in asked])
    return [
        Verdict(min(v.reward, 0.0), False) if turn.only_thoughts and v.reward is not None else v
        for v, (_, turn) in zip(verdicts, asked, strict=True)
    ]


def validate_task(task: Task, n: int = 8) -> None:
    """Check that the references of n evaluation problems get full marks.

    Problems without a reference, or without a verifier, are skipped.

    Raises:
        DataError: naming the first problem whose verifier does not accept its reference.
    """
    for problem in task.eval_problems(n):
        validate_problem(task, problem)


def validate_problem(task: Task, problem: Problem) -> None:
    """Check that one problem's reference gets full marks; see `validate_task`."""
    if problem.reference is None:
        return
    verdict = task.verify(problem, problem.reference)
    if verdict.reward is None and verdict.error is None:
        return
    if not verdict.correct:
        raise DataError(
            f"task {task.name!r}, problem {problem.id!r}: its own reference "
            f"{problem.reference!r} scores {verdict.error or verdict.reward}, so no answer could "
            "be right. Check the reference column and the verifier."
        )
