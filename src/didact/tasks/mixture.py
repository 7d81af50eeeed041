"""Several reasoning-gym generators in one task: some to train on in turn, others for evaluation only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from didact.errors import UsageError
from didact.settings import validate_settings
from didact.tasks.base import BaseTask, BaseTaskConfig, Task, Verdict
from didact.tasks.reasoning_gym import ReasoningGymTask, ReasoningGymTaskConfig
from didact.types import Problem

_SEPARATOR = "::"


class MixtureTaskConfig(BaseTaskConfig):
    """Generators by name."""

    parts: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Generator → its settings, as those of `ReasoningGymTaskConfig`: the generators that are trained on. A
    name may be any if the settings name the `generator`."""
    held_out: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The same for generators that are only evaluated on."""

    def build(self, seed: int) -> MixtureTask:
        """See `MixtureTask`."""
        return MixtureTask(self, seed=seed)


class MixtureTask(BaseTask):
    """Problems of several generators.

    Training, and `eval_problems`, take the trained generators in turn. `families` has the problems of each
    generator, those that are held out too.

    Args:
        config: The settings.
        seed: Run seed in [0, 100): which training problems are drawn.

    Raises:
        UsageError: a name that is used twice, or a generator or setting that does not exist.
    """

    name = "mixture"
    packages = ReasoningGymTask.packages

    def __init__(self, config: MixtureTaskConfig, *, seed: int = 0) -> None:
        parts, others = config.parts, config.held_out
        if both := sorted(parts.keys() & others.keys()):
            raise UsageError(f"task 'mixture': {both[0]!r} is trained on and held out: leave it out of one")
        if odd := [name for name in (*parts, *others) if _SEPARATOR in name]:
            raise UsageError(f"task 'mixture': the name {odd[0]!r} holds {_SEPARATOR!r}: choose another")
        self.held_out_families = tuple(others)
        self._trained = tuple(parts)
        self._tasks = {
            name: validate_settings(
                ReasoningGymTaskConfig, {"generator": name, **settings}, f"task 'mixture', part {name!r}"
            ).build(seed)
            for name, settings in {**parts, **others}.items()
        }

    def train_problem(self, index: int) -> Problem:
        """Problem i // P of part i mod P, for P parts."""
        name = self._trained[index % len(self._trained)]
        return _named(name, self._tasks[name].train_problem(index // len(self._trained)))

    def eval_problems(self, n: int) -> Sequence[Problem]:
        """The parts' evaluation problems in turn, n in all; none that is held out."""
        each = -(-n // len(self._trained))
        found = [[_named(name, p) for p in self._tasks[name].eval_problems(each)] for name in self._trained]
        return [problem for row in zip(*found, strict=False) for problem in row][:n]

    def families(self) -> Mapping[str, Task]:
        """Each generator as a task, those trained on first, with problem ids as in this task."""
        return {name: _Family(self, name) for name in self._tasks}

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer by its own generator."""
        name, _, own = problem.id.partition(_SEPARATOR)
        return self._tasks[name].verify(problem.model_copy(update={"id": own}), answer)


class _Family(BaseTask):
    """One generator of a mixture."""

    def __init__(self, mixture: MixtureTask, name: str) -> None:
        self.mixture, self.name = mixture, name

    def train_problem(self, index: int) -> Problem:
        return _named(self.name, self.mixture._tasks[self.name].train_problem(index))

    def eval_problems(self, n: int) -> Sequence[Problem]:
        return [_named(self.name, p) for p in self.mixture._tasks[self.name].eval_problems(n)]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return self.mixture.verify(problem, answer)


def _named(name: str, problem: Problem) -> Problem:
    return problem.model_copy(update={"id": f"{name}{_SEPARATOR}{problem.id}"})
