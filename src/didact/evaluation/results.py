"""Results of a comparison of methods, for the report, the plot and the JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from didact.evaluation.alarms import Alarm
from didact.types import Rollout

CI: TypeAlias = tuple[float, float]
"""The two ends of a 95 % interval."""


@dataclass(frozen=True)
class CurvePoint:
    """First-turn accuracy at one moment of training."""

    step: int
    sampled_tokens: int
    """Tokens that the policy had generated for training until then."""
    seconds: float
    accuracy: float
    """In [0, 1]."""
    ci95: CI


@dataclass(frozen=True)
class ArmResult:
    """One method's run."""

    method: str
    accuracy: float
    """First answers that are right, without feedback, in [0, 1]: the number that counts."""
    ci95: CI
    accuracy_after_feedback: float | None
    """Right after at most one critique; None where it was not measured."""
    after_ci95: CI | None
    seconds: float
    """Training time, evaluation aside."""
    sampled_tokens: int
    """Tokens that the policy generated for training."""
    feedback_tokens: int
    """Tokens that a critic model generated; a program's critiques cost none."""
    steps: int
    curve: Sequence[CurvePoint] = ()
    """In order of training; empty for an arm that is not trained."""
    difference: tuple[float, float, float] | None = None
    """Mean and interval of this accuracy minus the baseline's, paired by problem."""
    rollouts: Sequence[Rollout] = ()
    """A few to read in the report."""
    accuracy_after_own_critique: float | None = None
    """Right after at most one critique that the model wrote itself; None where it was not measured."""
    own_critique_ci95: CI | None = None
    reward: float | None = None
    """Mean reward of first answers without feedback; None in a run of before it was measured."""
    alarms: Sequence[Alarm] = ()
    """What looked wrong in its metrics, until it was evaluated."""

    def to_json(self) -> dict[str, Any]:
        """The arm's numbers, without its curve and rollouts."""
        return {
            "method": self.method,
            "accuracy": self.accuracy,
            "ci95": list(self.ci95),
            "reward": self.reward,
            "accuracy_after_feedback": self.accuracy_after_feedback,
            "accuracy_after_own_critique": self.accuracy_after_own_critique,
            "own_critique_ci95": None if self.own_critique_ci95 is None else list(self.own_critique_ci95),
            "seconds": round(self.seconds, 3),
            "sampled_tokens": self.sampled_tokens,
            "steps": self.steps,
        }


@dataclass(frozen=True)
class Report:
    """A comparison of methods on one task."""

    title: str
    task: str
    n_eval: int
    """Evaluation problems, the same for every arm."""
    seed: int
    arms: Sequence[ArmResult]
    summary: str
    baseline: str = "grpo"
    """The arm that every `difference` is against."""
    details: Mapping[str, str] = field(default_factory=dict)
    """How it was run: command, versions, machine, minutes."""

    def to_json(self) -> dict[str, Any]:
        """The numbers that `didact demo --json` writes."""
        return {
            "task": self.task,
            "n_eval": self.n_eval,
            "seed": self.seed,
            "results": [arm.to_json() for arm in self.arms],
        }
