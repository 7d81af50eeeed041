"""From run directories to results: one record a run, then means and intervals an arm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from didact.errors import DataError
from didact.evaluation.results import CurvePoint
from didact.evaluation.stats import (
    Estimate,
    area_under_curve,
    holm,
    iqm_interval,
    paired_difference,
    permutation_p,
    probability_of_improvement,
)
from didact.run_dir import RunDir, read_jsonl
from didact.sweep.plan import Arm, Cell, Plan
from didact.sweep.results import ArmSummary, CellResult, SweepResults, TaskResults
from didact.sweep.run import CellState, is_finished
from didact.training.summary import READABLE, arm_result, correct_or_nan

SEED = 0
"""Of every bootstrap: the same run directories give the same numbers."""
SPENT = 0.9
"""A run that used a smaller share of its token budget ended early, and gets a note."""


def collect(
    plan: Plan,
    out: Path,
    *,
    states: Mapping[str, CellState] | None = None,
    details: Mapping[str, str] | None = None,
) -> SweepResults:
    """Everything that the finished cells of a plan show.

    Args:
        plan: Which cells there should be.
        out: The sweep's directory.
        states: How cells ended, for the reasons of those that are missing.
        details: How it was run, for the page.

    Raises:
        DataError: runs of one task were evaluated on different problems.
    """
    cells, missing = [], {}
    for cell in plan.cells:
        if is_finished(cell, out):
            cells.append(cell_result(cell, out))
        else:
            state = (states or {}).get(cell.name)
            missing[cell.name] = (state.reason if state else "") or "not finished"
    found = [_task(plan, out, task, [c for c in cells if c.task == task]) for task in plan.tasks]
    tasks, comparisons = _corrected([task for task in found if task is not None])
    return SweepResults(
        title=plan.title,
        baseline=plan.baseline,
        tasks=tasks,
        cells=cells,
        missing=missing,
        comparisons=comparisons,
        pooled=_pooled(plan, cells) if len(tasks) > 1 else (),
        notes=_notes(plan, cells, comparisons),
        details=details or {},
    )


def cell_result(cell: Cell, out: Path) -> CellResult:
    """What one finished run in the sweep's directory shows; of its alarms, those that stand at its end."""
    run = RunDir(out / cell.name)
    arm = arm_result(run.path, cell.arm)
    records = list(read_jsonl(run.metrics))
    curve = list({p.sampled_tokens: p for p in arm.curve}.values())
    until = cell.config.max_sampled_tokens or curve[-1].sampled_tokens
    return CellResult(
        task=cell.task,
        arm=cell.arm,
        seed=cell.seed,
        path=cell.name,
        accuracy=arm.accuracy,
        area=area_under_curve([p.sampled_tokens for p in curve], [p.accuracy for p in curve], until=until)
        if curve and until  # what samples nothing, as sft, has no curve by tokens
        else arm.accuracy,
        after_feedback=arm.accuracy_after_feedback,
        after_own_critique=arm.accuracy_after_own_critique,
        curve=curve,
        steps=arm.steps,
        sampled_tokens=arm.sampled_tokens,
        feedback_tokens=arm.feedback_tokens,
        cost_usd=sum(r.get(f"{who}_cost_usd", 0.0) for r in records for who in ("feedback", "reward")),
        leak_rate=_mean(records, "leak_rate"),
        mentions_critique=_mean(records, "mentions_critique"),
        seconds=arm.seconds,
        alarms=[alarm for alarm in arm.alarms if alarm.stands],
    )


def _mean(records: Iterable[Mapping[str, Any]], key: str) -> float | None:
    values = [record[key] for record in records if record.get(key) is not None]
    return float(np.mean(values)) if values else None


def _task(plan: Plan, out: Path, task: str, cells: Sequence[CellResult]) -> TaskResults | None:
    """All arms of a task that have a finished run; None where none has."""
    if not cells:
        return None
    config = next(cell.config for cell in plan.cells if cell.task == task)
    answers = {cell.path: _answers(out / cell.path, cell.steps) for cell in cells}
    asked = {path: [problem for problem, _ in found] for path, found in answers.items()}
    first = cells[0].path
    for path, problems in asked.items():
        if problems != asked[first]:
            raise DataError(
                f"{out / path} and {out / first} were evaluated on different problems, so they cannot be "
                "compared: remove the one that is not of this sweep, and run it again"
            )
    equal_steps = _equal_steps(cells)
    correct = {path: np.array([right for _, right in found]) for path, found in answers.items()}
    baseline = [cell for cell in cells if cell.arm == plan.baseline]
    arms = []
    for arm in plan.arms:
        mine = [cell for cell in cells if cell.arm == arm.name]
        if mine:
            summary = _summary(arm, mine, out, equal_steps)
            if arm.of is not None:
                method = [cell for cell in cells if cell.arm == arm.of]
                summary = dataclasses.replace(summary, to_method=_difference(mine, method, correct))
            arms.append(_compared(summary, mine, baseline, correct) if arm.name != plan.baseline else summary)
    tokens = config.max_sampled_tokens
    budget = f"at most {config.steps:,} steps" if tokens is None else f"{tokens:,} sampled policy tokens"
    start = [cell.curve[0].accuracy for cell in cells if cell.curve and cell.curve[0].step == 0]
    return TaskResults(
        task=task,
        n_eval=len(asked[first]),
        budget="different for each arm" if plan.unequal_budgets else budget,
        base_accuracy=float(np.mean(start)) if start else None,
        arms=arms,
        equal_steps=equal_steps,
    )


def _equal_steps(cells: Sequence[CellResult]) -> int | None:
    """The step at which the first of several runs ends; None where all of them end there."""
    steps = {cell.steps for cell in cells}
    return min(steps) if len(steps) > 1 else None


def accuracy_at(curve: Sequence[CurvePoint], step: int | None) -> float | None:
    """The accuracy at a step, between two evaluations on the line that joins them; None without either."""
    if step is None or not curve:
        return None
    return float(np.interp(step, [p.step for p in curve], [p.accuracy for p in curve]))


def _answers(path: Path, step: int) -> list[tuple[tuple[Any, ...], float]]:
    """(problem, first answer right) of an evaluation; NaN if unverified."""
    rollouts = RunDir(path).read_evaluation(step)
    return [((r.problem.id, r.problem.messages), correct_or_nan(r.turns[0])) for r in rollouts]


def _summary(arm: Arm, cells: Sequence[CellResult], out: Path, equal_steps: int | None) -> ArmSummary:
    def estimate(values: Sequence[float | None]) -> Estimate | None:
        known = [v for v in values if v is not None]
        return iqm_interval([known], seed=SEED) if known else None

    def mean(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known else None

    shown = cells[0]
    return ArmSummary(
        arm=arm.name,
        control=arm.control,
        seeds=tuple(cell.seed for cell in cells),
        final=iqm_interval([[cell.accuracy for cell in cells]], seed=SEED),
        area=iqm_interval([[cell.area for cell in cells]], seed=SEED),
        at_equal_steps=estimate([accuracy_at(cell.curve, equal_steps) for cell in cells]),
        after_feedback=estimate([cell.after_feedback for cell in cells]),
        after_own_critique=estimate([cell.after_own_critique for cell in cells]),
        curve=mean_curve([cell.curve for cell in cells]),
        sampled_tokens=mean([cell.sampled_tokens for cell in cells]) or 0.0,
        feedback_tokens=mean([cell.feedback_tokens for cell in cells]) or 0.0,
        cost_usd=mean([cell.cost_usd for cell in cells]) or 0.0,
        seconds=mean([cell.seconds for cell in cells]) or 0.0,
        leak_rate=mean([cell.leak_rate for cell in cells]),
        mentions_critique=mean([cell.mentions_critique for cell in cells]),
        rollouts=RunDir(out / shown.path).read_evaluation(shown.steps)[:READABLE],
    )


def mean_curve(curves: Sequence[Sequence[CurvePoint]]) -> list[CurvePoint]:
    """The interquartile mean of several learning curves, with pointwise intervals over runs.

    Runs are measured at different numbers of sampled tokens, so each is read off by linear interpolation
    at the first run's positions, up to where the shortest ends.
    """
    measured = [curve for curve in curves if curve]
    if not measured:
        return []
    end = min(curve[-1].sampled_tokens for curve in measured)
    points = [p for p in measured[0] if p.sampled_tokens < end]
    points.append(dataclasses.replace(measured[0][-1], sampled_tokens=end))
    found = []
    for point in points:
        heights = [
            float(np.interp(point.sampled_tokens, [p.sampled_tokens for p in c], [p.accuracy for p in c]))
            for c in measured
        ]
        estimate = iqm_interval([heights], seed=SEED, n_resamples=2_000)
        low, high = estimate.low, estimate.high
        band = (estimate.value, estimate.value) if low is None or high is None else (low, high)
        found.append(dataclasses.replace(point, accuracy=estimate.value, ci95=band))
    return found


def _compared(
    arm: ArmSummary,
    cells: Sequence[CellResult],
    baseline: Sequence[CellResult],
    correct: Mapping[str, Any],
) -> ArmSummary:
    """An arm with what tells it from the baseline, where the baseline has a finished run."""
    if not baseline:
        return arm
    mine, theirs = ([c.accuracy for c in run] for run in (cells, baseline))
    return dataclasses.replace(
        arm,
        improvement=probability_of_improvement([mine], [theirs], seed=SEED),
        difference=_difference(cells, baseline, correct),
        p=permutation_p(mine, theirs, seed=SEED) if len(mine) > 1 and len(theirs) > 1 else None,
    )


def _difference(
    cells: Sequence[CellResult], others: Sequence[CellResult], correct: Mapping[str, Any]
) -> tuple[float, float, float] | None:
    """How far some runs are ahead of others, problem by problem over the seeds that both have, with its
    interval; None without such seeds."""
    by_seed = {cell.seed: cell.path for cell in others}
    both = [(cell.path, by_seed[cell.seed]) for cell in cells if cell.seed in by_seed]
    if not both:
        return None
    a_V, b_V = (np.mean([correct[pair[side]] for pair in both], axis=0) for side in (0, 1))
    if np.count_nonzero(~np.isnan(a_V - b_V)) < 2:
        return None
    found = paired_difference(a_V, b_V, seed=SEED)
    return found.mean, found.low, found.high


def _corrected(tasks: Sequence[TaskResults]) -> tuple[list[TaskResults], int]:
    """The tasks with corrected p-values, and how many comparisons these are over."""
    found = [arm.p for task in tasks for arm in task.arms if arm.p is not None]
    corrected = iter(holm(found))

    def told(arm: ArmSummary) -> ArmSummary:
        return arm if arm.p is None else dataclasses.replace(arm, p_holm=next(corrected))

    done = [dataclasses.replace(task, arms=[told(arm) for arm in task.arms]) for task in tasks]
    return done, len(found)


def _pooled(plan: Plan, cells: Sequence[CellResult]) -> list[tuple[str, Estimate, Estimate | None]]:
    """Over all tasks, for the arms that have a finished run on each of them."""

    def scores(arm: str) -> list[list[float]]:
        return [[c.accuracy for c in cells if (c.task, c.arm) == (task, arm)] for task in plan.tasks]

    baseline, rows = scores(plan.baseline), []
    for arm in plan.arms:
        mine = scores(arm.name)
        if all(mine):
            against = None
            if arm.name != plan.baseline and all(baseline):
                against = probability_of_improvement(mine, baseline, seed=SEED)
            rows.append((arm.name, iqm_interval(mine, seed=SEED), against))
    return rows


def _notes(plan: Plan, cells: Sequence[CellResult], comparisons: int) -> list[str]:
    """What a reader must know before believing the table."""
    notes = []
    seeds = len(plan.seeds)
    if comparisons:
        least = 2 / math.comb(2 * seeds, seeds)
        notes.append(
            f"{comparisons} comparisons with {plan.baseline} were made; p-values are corrected for that "
            f"(Holm). With {seeds} seeds an arm no uncorrected p can be below {least:.2g}."
        )
    if seeds < 4:
        notes.append(
            f"{seeds} {'seed' if seeds == 1 else 'seeds'} an arm: the interquartile mean is a plain mean "
            "here, and a bootstrap over so few runs gives intervals that are too narrow. Take five or more "
            "before you claim anything."
        )
    config = {cell.name: cell.config for cell in plan.cells}
    short = [
        cell.path
        for cell in cells
        if cell.sampled_tokens < SPENT * (config[cell.path].max_sampled_tokens or 0)
    ]
    if short:
        notes.append(
            f"{len(short)} runs ended by `steps` before their budget of tokens was spent, as {short[0]}: "
            "raise `steps`."
        )
    return notes
