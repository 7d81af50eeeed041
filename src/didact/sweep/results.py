"""What a sweep found: plain data for the terminal, results.json and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from didact.evaluation.alarms import Alarm
from didact.evaluation.results import ArmResult, CurvePoint
from didact.evaluation.stats import Estimate
from didact.jsonl import read_package_yaml

COLUMNS: dict[str, dict[str, str]] = read_package_yaml("didact.sweep", "columns.yaml")
"""`heading` and `meaning` of the page's columns, by their names in results.json."""


@dataclass(frozen=True, kw_only=True)
class CellResult(ArmResult):
    """One finished run, with the alarms that stand at its end; `method` is the arm."""

    task: str
    seed: int
    path: str
    """Its run directory within the sweep's."""
    area: float
    """Mean accuracy over the budget, in [0, 1]."""
    cost_usd: float
    leak_rate: float | None
    """Share of the critiques read in training that state the answer; None if not measured."""
    mentions_critique: float | None
    """Share of second answers that speak of their critique."""

    def to_json(self) -> dict[str, Any]:
        """The run's numbers, with its curve as [sampled tokens, accuracy]."""
        return {
            "task": self.task,
            "arm": self.method,
            "seed": self.seed,
            "path": self.path,
            "accuracy": self.accuracy,
            "area": self.area,
            "after_feedback": self.accuracy_after_feedback,
            "after_own_critique": self.accuracy_after_own_critique,
            "steps": self.steps,
            "sampled_tokens": self.sampled_tokens,
            "feedback_tokens": self.feedback_tokens,
            "cost_usd": self.cost_usd,
            "leak_rate": self.leak_rate,
            "mentions_critique": self.mentions_critique,
            "seconds": round(self.seconds, 1),
            "curve": [[point.sampled_tokens, point.accuracy] for point in self.curve],
            "alarms": [alarm._asdict() for alarm in self.alarms],
        }


@dataclass
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
    improvement: Estimate | None
    """None for the baseline, and without a finished run of it."""
    difference: tuple[float, float, float] | None
    """Mean and interval against the baseline, paired by problem, over the seeds that both have."""
    to_method: tuple[float, float, float] | None
    """Of a control, the same against the method that it belongs to; None of a method."""
    p: float | None
    """As it came out, not corrected."""
    p_holm: float | None
    shown: CellResult
    """The run whose rollouts are shown."""


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
    equal_steps: int | None
    """The step at which the first run ends; None where all of them end there."""
    arms: Sequence[ArmSummary]


class Pooled(NamedTuple):
    """An arm over all tasks."""

    arm: str
    final: Estimate
    improvement: Estimate | None


@dataclass(frozen=True)
class SweepResults:
    """A whole sweep."""

    title: str
    baseline: str
    notes: Sequence[str]
    comparisons: int
    """Tests that the Holm correction is over."""
    tasks: Sequence[TaskResults]
    pooled: Sequence[Pooled]
    """Empty for a single task."""
    cells: Sequence[CellResult]
    missing: Mapping[str, str]
    """Cells without a result by name, with the reason."""
    details: Mapping[str, str]
    """How it was run: command, versions, machine."""

    @property
    def alarms(self) -> list[tuple[str, Alarm]]:
        """All alarms, each with the name of its cell."""
        return [(cell.path, alarm) for cell in self.cells for alarm in cell.alarms]

    def to_json(self) -> dict[str, Any]:
        """What results.json holds."""
        definitions = {name: column["meaning"] for name, column in COLUMNS.items()}
        head = {"title": self.title, "baseline": self.baseline, "definitions": definitions}
        return {key: _plain(value) for key, value in (head | vars(self)).items()}


def _plain(value: Any) -> Any:
    """Records as mappings; arms without their curves and rollouts."""
    if isinstance(value, CellResult):
        return value.to_json()
    if isinstance(value, TaskResults | ArmSummary):
        value = {key: of for key, of in vars(value).items() if key not in ("curve", "shown")}
    elif isinstance(value, Estimate | Pooled):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(of) for key, of in value.items()}
    return [_plain(of) for of in value] if isinstance(value, list | tuple) else value
