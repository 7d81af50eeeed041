"""What a sweep found: plain data for the terminal, results.json and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from didact.evaluation.alarms import Alarm
from didact.evaluation.results import CurvePoint
from didact.evaluation.stats import Estimate
from didact.types import Rollout

DEFINITIONS = {
    "final": "First answers right without feedback at the end: the interquartile mean over seeds (the mean "
    "of the middle half of the runs), with a percentile bootstrap over runs.",
    "area": "Mean accuracy over the whole budget (area under the learning curve by sampled tokens, divided "
    "by the budget), interquartile mean over seeds.",
    "equal_steps": "The same as the first, at the step at which the first run of the task ends, read off "
    "each learning curve on the line between two evaluations. Whoever samples two answers a problem has used "
    "more tokens by then. Only where a budget of tokens ends runs after different numbers of steps.",
    "improvement": "Probability that a run of this arm beats a run of the baseline, ties for half; 50 % is "
    "no difference.",
    "difference": "Difference to the baseline in accuracy, averaged over seeds problem by problem, with a "
    "paired bootstrap over problems: it speaks of other problems, the intervals over seeds of other seeds.",
    "to_method": "The same for a control, against the method that it belongs to: below zero is what that "
    "which the control takes away was worth.",
    "p": "Two-sided permutation test over seeds, corrected for the number of comparisons in the whole sweep "
    "(Holm).",
    "tokens": "Means over seeds. Policy tokens are those that the trained model sampled for training; tokens "
    "that a critic model generated are counted apart. A program's critiques cost none. USD are what "
    "critics and judges that give rewards cost.",
}
"""What the columns mean, by their names in results.json."""


@dataclass(frozen=True)
class CellResult:
    """One finished run."""

    task: str
    arm: str
    seed: int
    path: str
    """Its run directory within the sweep's."""
    accuracy: float
    """First answers right without feedback at the end, in [0, 1]."""
    area: float
    """Mean accuracy over the budget, in [0, 1]."""
    after_feedback: float | None
    """Right after at most one critique; None where it was not measured."""
    after_own_critique: float | None
    curve: Sequence[CurvePoint]
    steps: int
    sampled_tokens: int
    feedback_tokens: int
    cost_usd: float
    leak_rate: float | None
    """Share of the critiques read in training that state the answer; None if not measured."""
    mentions_critique: float | None
    """Share of second answers that speak of their critique."""
    seconds: float
    """Training time, evaluation aside."""
    alarms: Sequence[Alarm] = ()

    def to_json(self) -> dict[str, Any]:
        """The run's numbers, with its curve as [sampled tokens, accuracy]."""
        plain = {k: v for k, v in vars(self).items() if k not in ("curve", "alarms", "seconds")}
        return {
            **plain,
            "seconds": round(self.seconds, 1),
            "curve": [[point.sampled_tokens, point.accuracy] for point in self.curve],
            "alarms": [alarm._asdict() for alarm in self.alarms],
        }


@dataclass(frozen=True)
class ArmSummary:
    """One arm on one task, over its finished seeds."""

    arm: str
    control: str | None
    """Which control it is, if one."""
    seeds: tuple[int, ...]
    final: Estimate
    area: Estimate
    at_equal_steps: Estimate | None
    """First answers right at the task's `equal_steps`."""
    after_feedback: Estimate | None
    after_own_critique: Estimate | None
    curve: Sequence[CurvePoint]
    """Interquartile means and their intervals, where all of the seeds were measured or can be read off."""
    sampled_tokens: float
    feedback_tokens: float
    cost_usd: float
    seconds: float
    leak_rate: float | None
    mentions_critique: float | None
    improvement: Estimate | None = None
    """None for the baseline, and without a finished run of it."""
    difference: tuple[float, float, float] | None = None
    """Mean and interval against the baseline, paired by problem, over the seeds that both have."""
    to_method: tuple[float, float, float] | None = None
    """Of a control, the same against the method that it belongs to; None of a method."""
    p: float | None = None
    """As it came out, not corrected."""
    p_holm: float | None = None
    rollouts: Sequence[Rollout] = ()
    """The ones to read."""

    def to_json(self) -> dict[str, Any]:
        """The arm's numbers, without its curve and rollouts."""
        values = {k: v for k, v in vars(self).items() if k not in ("curve", "rollouts")}
        return {
            key: value._asdict() if isinstance(value, Estimate) else value for key, value in values.items()
        }


@dataclass(frozen=True)
class TaskResults:
    """All arms on one task."""

    task: str
    n_eval: int
    """Evaluation problems, the same for every run."""
    budget: str
    """What every run might use, in words."""
    base_accuracy: float | None
    """Of the model before training; None where it was not evaluated."""
    arms: Sequence[ArmSummary]
    equal_steps: int | None = None
    """The step at which the first run ends; None where all of them end there."""


@dataclass(frozen=True)
class SweepResults:
    """A whole sweep."""

    title: str
    baseline: str
    tasks: Sequence[TaskResults]
    cells: Sequence[CellResult]
    missing: Mapping[str, str]
    """Cells without a result by name, with the reason."""
    comparisons: int
    """Tests that the Holm correction is over."""
    pooled: Sequence[tuple[str, Estimate, Estimate | None]] = ()
    """Per arm, over all tasks: its IQM, and its probability of improvement; empty for a single task."""
    notes: Sequence[str] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    """How it was run: command, versions, machine."""

    @property
    def alarms(self) -> list[tuple[str, Alarm]]:
        """All alarms, each with the name of its cell."""
        return [(cell.path, alarm) for cell in self.cells for alarm in cell.alarms]

    def to_json(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "title": self.title,
            "baseline": self.baseline,
            "definitions": DEFINITIONS,
            "notes": list(self.notes),
            "comparisons": self.comparisons,
            "tasks": [
                {
                    "task": t.task,
                    "n_eval": t.n_eval,
                    "budget": t.budget,
                    "base_accuracy": t.base_accuracy,
                    "equal_steps": t.equal_steps,
                    "arms": [arm.to_json() for arm in t.arms],
                }
                for t in self.tasks
            ],
            "pooled": [
                {"arm": arm, "final": final._asdict(), "improvement": None if p is None else p._asdict()}
                for arm, final, p in self.pooled
            ],
            "cells": [cell.to_json() for cell in self.cells],
            "missing": dict(self.missing),
            "details": dict(self.details),
        }
