"""From run directories to results: one record a run, then means and intervals an arm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

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
from didact.sweep.results import ArmSummary, CellResult, Pooled, SweepResults, TaskResults
from didact.sweep.run import CellState, is_finished
from didact.training.summary import arm_result, right_answers

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
    """Everything that the finished cells of a plan in the directory `out` show.

    Args:
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
    by_task = {task: [cell for cell in cells if cell.task == task] for task in plan.file.tasks}
    tasks = [_task(plan, out, task, found) for task, found in by_task.items() if found]
    tested = [(arm, arm.p) for task in tasks for arm in task.arms if arm.p is not None]
    for (arm, _), corrected in zip(tested, holm([p for _, p in tested]), strict=True):
        arm.p_holm = corrected
    return SweepResults(
        title=plan.file.title,
        baseline=plan.baseline,
        notes=_notes(plan, cells, len(tested)),
        comparisons=len(tested),
        tasks=tasks,
        pooled=_pooled(plan, cells) if len(tasks) > 1 else [],
        cells=cells,
        missing=missing,
        details=details or {},
    )


def cell_result(cell: Cell, out: Path) -> CellResult:
    """What one finished run in the sweep's directory shows."""
    run = RunDir(out / cell.name)
    arm = arm_result(run.path, cell.arm)
    records = list(read_jsonl(run.metrics))
    curve = list({p.sampled_tokens: p for p in arm.curve}.values())
    tokens = [p.sampled_tokens for p in curve]
    until = cell.config.max_sampled_tokens or max(tokens, default=0)
    area = arm.accuracy  # of what samples nothing, as sft: it has no curve by tokens
    if curve and until:
        area = area_under_curve(tokens, [p.accuracy for p in curve], until=until)
    alarms = [alarm for alarm in arm.alarms if alarm.stands]
    return CellResult(
        **vars(dataclasses.replace(arm, curve=curve, alarms=alarms)),
        task=cell.task,
        seed=cell.seed,
        path=cell.name,
        area=area,
        cost_usd=sum(r.get(f"{who}_cost_usd", 0.0) for r in records for who in ("feedback", "reward")),
        leak_rate=_mean([r.get("leak_rate") for r in records]),
        mentions_critique=_mean([r.get("mentions_critique") for r in records]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _estimate(values: Sequence[float | None]) -> Estimate | None:
    known = [v for v in values if v is not None]
    return iqm_interval([known], seed=SEED) if known else None


def _task(plan: Plan, out: Path, task: str, cells: Sequence[CellResult]) -> TaskResults:
    """All arms of a task that have a finished run."""
    config = next(cell.config for cell in plan.cells if cell.task == task)
    cure = "remove the one that is not of this sweep, and run it again"
    right = right_answers([(out / cell.path, cell.steps) for cell in cells], cure)
    correct = {cell.path: answers for cell, answers in zip(cells, right, strict=True)}
    by_arm = {arm.name: [cell for cell in cells if cell.method == arm.name] for arm in plan.arms}
    ends = {cell.steps for cell in cells}
    equal_steps = min(ends) if len(ends) > 1 else None
    tokens = config.max_sampled_tokens
    budget = f"at most {config.steps:,} steps" if tokens is None else f"{tokens:,} sampled policy tokens"
    return TaskResults(
        task=task,
        n_eval=len(right[0]),
        budget="different for each arm" if plan.file.unequal_budgets else budget,
        base_accuracy=_mean([c.curve[0].accuracy for c in cells if c.curve and c.curve[0].step == 0]),
        equal_steps=equal_steps,
        arms=[
            _arm(arm, plan.baseline, by_arm, correct, equal_steps) for arm in plan.arms if by_arm[arm.name]
        ],
    )


def _arm(
    arm: Arm,
    baseline: str,
    by_arm: Mapping[str, Sequence[CellResult]],
    correct: Mapping[str, Sequence[float]],
    equal_steps: int | None,
) -> ArmSummary:
    """The means and intervals of an arm, and what tells it from the baseline and from its method."""
    cells = by_arm[arm.name]
    others = by_arm[baseline] if arm.name != baseline else []
    mine, theirs = ([c.accuracy for c in run] for run in (cells, others))
    measured = [cell.curve for cell in cells if cell.curve and equal_steps is not None]
    return ArmSummary(
        arm=arm.name,
        control=arm.control,
        seeds=tuple(cell.seed for cell in cells),
        final=iqm_interval([mine], seed=SEED),
        area=iqm_interval([[cell.area for cell in cells]], seed=SEED),
        at_equal_steps=_estimate([read_off(curve, "step", equal_steps or 0) for curve in measured]),
        after_feedback=_estimate([cell.accuracy_after_feedback for cell in cells]),
        after_own_critique=_estimate([cell.accuracy_after_own_critique for cell in cells]),
        curve=mean_curve([cell.curve for cell in cells]),
        sampled_tokens=float(np.mean([cell.sampled_tokens for cell in cells])),
        feedback_tokens=float(np.mean([cell.feedback_tokens for cell in cells])),
        cost_usd=float(np.mean([cell.cost_usd for cell in cells])),
        seconds=float(np.mean([cell.seconds for cell in cells])),
        leak_rate=_mean([cell.leak_rate for cell in cells]),
        mentions_critique=_mean([cell.mentions_critique for cell in cells]),
        improvement=probability_of_improvement([mine], [theirs], seed=SEED) if theirs else None,
        difference=_difference(cells, others, correct),
        to_method=_difference(cells, by_arm[arm.of], correct) if arm.of else None,
        p=permutation_p(mine, theirs, seed=SEED) if len(mine) > 1 and len(theirs) > 1 else None,
        p_holm=None,
        shown=cells[0],
    )


def read_off(curve: Sequence[CurvePoint], axis: str, at: float) -> float:
    """The accuracy at a `step` or number of `sampled_tokens`, on the line between two evaluations."""
    return float(np.interp(at, [getattr(p, axis) for p in curve], [p.accuracy for p in curve]))


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
        heights = [read_off(curve, "sampled_tokens", point.sampled_tokens) for curve in measured]
        mean, low, high, _ = iqm_interval([heights], seed=SEED, n_resamples=2_000)
        band = (mean, mean) if low is None or high is None else (low, high)
        found.append(dataclasses.replace(point, accuracy=mean, ci95=band))
    return found


def _difference(
    cells: Sequence[CellResult], others: Sequence[CellResult], correct: Mapping[str, Sequence[float]]
) -> tuple[float, float, float] | None:
    """The mean lead over others by problem and its interval, over the seeds that both have; else None."""
    by_seed = {cell.seed: cell.path for cell in others}
    both = [(cell.path, by_seed[cell.seed]) for cell in cells if cell.seed in by_seed]
    if not both:
        return None
    a_V, b_V = (np.mean([correct[pair[side]] for pair in both], axis=0) for side in (0, 1))
    if np.count_nonzero(~np.isnan(a_V - b_V)) < 2:
        return None
    return paired_difference(a_V, b_V, seed=SEED)[:3]


def _pooled(plan: Plan, cells: Sequence[CellResult]) -> list[Pooled]:
    """Over all tasks, for the arms that have a finished run on each of them."""

    def scores(arm: str) -> list[list[float]]:
        return [[c.accuracy for c in cells if (c.task, c.method) == (task, arm)] for task in plan.file.tasks]

    baseline, rows = scores(plan.baseline), []
    for arm in plan.arms:
        mine = scores(arm.name)
        if all(mine):
            against = None
            if arm.name != plan.baseline and all(baseline):
                against = probability_of_improvement(mine, baseline, seed=SEED)
            rows.append(Pooled(arm.name, iqm_interval(mine, seed=SEED), against))
    return rows


def _notes(plan: Plan, cells: Sequence[CellResult], comparisons: int) -> list[str]:
    """What a reader must know before believing the table."""
    notes = []
    seeds = len(plan.file.seeds)
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
