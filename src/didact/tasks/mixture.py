"""Several generators in one task: trained on in turn, and others held out for evaluation alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from didact.errors import UsageError
from didact.tasks.base import BaseTask, Task, Verdict
from didact.tasks.procedural import BoxedProceduralTask
from didact.types import Problem

_MARK = "::"


class MixtureTask(BaseTask):
    """Problems of several reasoning-gym generators.

    Training takes them in turn. So do evaluation's first problems; `families` gives each generator's own, and
    those of the generators that training never sees.

    Args:
        parts: Generator → its settings: those that are trained on, at least one. A name may be any where the
            settings name the `generator`.
        held_out: The same for generators that only evaluation asks.
        seed: Run seed in [0, 100): which training problems are drawn.

    Raises:
        UsageError: no part, a name twice, or a generator or setting that does not exist.
    """

    def __init__(
        self,
        parts: dict[str, dict[str, Any]],
        held_out: dict[str, dict[str, Any]] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if not parts:
            raise UsageError("task 'mixture': parts names no generator, so there is nothing to train on")
        others = held_out or {}
        if both := sorted(parts.keys() & others.keys()):
            raise UsageError(f"task 'mixture': {both[0]!r} is trained on and held out: leave it out of one")
        if odd := [name for name in (*parts, *others) if _MARK in name]:
            raise UsageError(f"task 'mixture': the name {odd[0]!r} holds {_MARK!r}: choose another")
        self.name = "mixture"
        self.held_out_families = tuple(others)
        self._trained = tuple(parts)
        self._tasks = {name: _generator(name, made, seed) for name, made in {**parts, **others}.items()}

    def train_problem(self, index: int) -> Problem:
        """Problem i // P of part i mod P, for P parts."""
        name = self._trained[index % len(self._trained)]
        return _marked(name, self._tasks[name].train_problem(index // len(self._trained)))

    def eval_problems(self, n: int) -> Sequence[Problem]:
        """The parts' evaluation problems in turn, n in all; none that is held out."""
        each = -(-n // len(self._trained))
        found = [[_marked(name, p) for p in self._tasks[name].eval_problems(each)] for name in self._trained]
        return [problem for row in zip(*found, strict=False) for problem in row][:n]

    def families(self) -> dict[str, Task]:
        """Each generator as a task of its own, those trained on first; problems as this task names them."""
        return {name: _Family(self, name) for name in self._tasks}

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer by its own generator."""
        name, _, own = problem.id.partition(_MARK)
        return self._tasks[name].verify(problem.model_copy(update={"id": own}), answer)


class _Family(BaseTask):
    """One generator of a mixture."""

    def __init__(self, mixture: MixtureTask, name: str) -> None:
        self.mixture, self.name = mixture, name

    def train_problem(self, index: int) -> Problem:
        return _marked(self.name, self.mixture._tasks[self.name].train_problem(index))

    def eval_problems(self, n: int) -> Sequence[Problem]:
        return [_marked(self.name, p) for p in self.mixture._tasks[self.name].eval_problems(n)]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return self.mixture.verify(problem, answer)


def _generator(name: str, settings: Mapping[str, Any], seed: int) -> BoxedProceduralTask:
    own = dict(settings)
    return BoxedProceduralTask(str(own.pop("generator", name)), own, seed=seed)


def _marked(name: str, problem: Problem) -> Problem:
    return problem.model_copy(update={"id": f"{name}{_MARK}{problem.id}"})
