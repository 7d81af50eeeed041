"""A sweep's page: one self-contained file, without scripts and without an address in it.

As in report.py, whatever a model, a critic or a file wrote goes through `plain_text` and the template's
autoescaping; the ready-made pieces are the SVGs of the curves, which matplotlib escapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from didact.evaluation.learning_curve_plot import PLOT_STYLES, inline_svg, plot_style
from didact.evaluation.report import dialogue, percent, render
from didact.evaluation.results import ArmResult, Report
from didact.evaluation.stats import Estimate
from didact.evaluation.text_sanitizer import plain_name, plain_text
from didact.jsonl import write_atomically
from didact.sweep.results import DEFINITIONS, ArmSummary, SweepResults, TaskResults

HEADINGS = {
    "final": "First answer right",
    "area": "Over the whole budget",
    "equal_steps": "At equal steps",
    "improvement": "Chance of beating the baseline",
    "difference": "Difference, points",
    "to_method": "Control against its method, points",
    "p": "p (Holm)",
    "tokens": "Policy and critic tokens",
}
"""What the page calls the entries of `DEFINITIONS`."""


def write_sweep_report(path: Path | str, results: SweepResults) -> Path:
    """Write the page as one HTML file, whole or not at all; its directory is made where it is missing.

    Returns:
        The path that was written.
    """
    page = render("sweep.html.j2", _view(results))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, page.encode("utf-8", "replace"))
    return target


def summary(results: SweepResults) -> str:
    """One sentence per task: the arm with the highest final accuracy, beside the baseline."""
    if not results.tasks:
        return "No run has finished yet."
    return " ".join(_finding(task, results.baseline) for task in results.tasks)


def _finding(task: TaskResults, baseline: str) -> str:
    best = max(task.arms, key=lambda arm: arm.final.value)
    told = f"On {task.task}, {best.arm} ends highest: {_with_interval(best.final)} of first answers right"
    other = next((arm for arm in task.arms if arm.arm == baseline), None)
    if other is None or other is best:
        return f"{told}."
    return f"{told}; {baseline} has {_with_interval(other.final)}."


def _with_interval(estimate: Estimate) -> str:
    ends = interval(estimate)
    return percent(estimate.value, 1) + (f" [{ends}]" if ends else "")


def interval(estimate: Estimate | None) -> str:
    """The ends of an interval in per cent; empty where there is none.

    >>> interval(Estimate(0.5, 0.25, 0.75, 4)), interval(Estimate(0.5, None, None, 1))
    ('25–75 %', '')
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f} %"


def _view(results: SweepResults) -> dict[str, Any]:
    """The template's words: only plain text and numbers."""
    return {
        "title": plain_text(results.title),
        "summary": plain_text(summary(results)),
        "baseline": plain_name(results.baseline),
        "looks": PLOT_STYLES,
        "tasks": [_task(i, task, results.baseline) for i, task in enumerate(results.tasks)],
        "pooled": [
            {"arm": plain_name(arm), "final": _cell(final), "improvement": _cell(better)}
            for arm, final, better in results.pooled
        ],
        "missing": {plain_name(name, 120): plain_text(why, 400) for name, why in results.missing.items()},
        "alarms": [
            {"cell": plain_name(name, 120), "name": alarm.name, "step": alarm.step, "text": alarm.message}
            for name, alarm in results.alarms
        ],
        "notes": [plain_text(note) for note in results.notes],
        "definitions": {HEADINGS[key]: text for key, text in DEFINITIONS.items()},
        "headings": HEADINGS,
        "runs": [
            {
                "name": plain_name(cell.path, 120),
                "accuracy": cell.accuracy,
                "area": cell.area,
                "tokens": cell.sampled_tokens,
                "feedback_tokens": cell.feedback_tokens,
                "steps": cell.steps,
            }
            for cell in results.cells
        ],
        "details": {plain_text(k): plain_text(v) for k, v in results.details.items()},
    }


def _task(index: int, task: TaskResults, baseline: str) -> dict[str, Any]:
    arms = [_arm(i, arm, arm.arm == baseline) for i, arm in enumerate(task.arms)]
    return {
        "id": f"task-{index}",
        "name": plain_name(task.task, 120),
        "n_eval": task.n_eval,
        "budget": plain_text(task.budget),
        "base": task.base_accuracy,
        "equal_steps": task.equal_steps,
        "curves": Markup(_own_ids(_curves(task, f"task-{index}-caption"), f"task-{index}-")),
        "arms": arms,
        "controlled": any(arm["to_method"] for arm in arms),
        "told": [arm for arm in arms if arm["rollouts"]],
    }


def _arm(index: int, arm: ArmSummary, is_baseline: bool) -> dict[str, Any]:
    return {
        "index": index % len(PLOT_STYLES),
        "look": plot_style(index),
        "name": plain_name(arm.arm),
        "control": arm.control,
        "is_baseline": is_baseline,
        "seeds": len(arm.seeds),
        "seed": arm.seeds[0],
        "final": _cell(arm.final),
        "area": _cell(arm.area),
        "equal_steps": _cell(arm.at_equal_steps),
        "after": _cell(arm.after_feedback),
        "own": _cell(arm.after_own_critique),
        "improvement": _cell(arm.improvement),
        "difference": _points(arm.difference),
        "to_method": _points(arm.to_method),
        "p": arm.p_holm,
        "tokens": arm.sampled_tokens,
        "feedback_tokens": arm.feedback_tokens,
        "cost_usd": arm.cost_usd,
        "leak_rate": arm.leak_rate,
        "mentions": arm.mentions_critique,
        "seconds": arm.seconds,
        "rollouts": [dialogue(rollout) for rollout in arm.rollouts],
    }


def _cell(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"value": estimate.value, "interval": interval(estimate)}


def _points(difference: Sequence[float] | None) -> dict[str, str] | None:
    if difference is None:
        return None
    mean, low, high = (f"{100 * x:+.1f}".replace("-", "−") for x in difference)
    return {"mean": mean, "interval": f"{low} to {high}"}


def _curves(task: TaskResults, caption: str) -> str:
    """The curves of a task, drawn as those of any comparison; the bands are those over seeds."""
    arms = [
        ArmResult(
            method=arm.arm,
            accuracy=arm.final.value,
            ci95=(arm.final.low or 0.0, arm.final.high or 0.0),
            accuracy_after_feedback=None,
            after_ci95=None,
            seconds=arm.seconds,
            sampled_tokens=round(arm.sampled_tokens),
            feedback_tokens=round(arm.feedback_tokens),
            steps=0,
            curve=arm.curve,
        )
        for arm in task.arms
    ]
    drawn = Report(title="", task=task.task, n_eval=task.n_eval, seed=0, arms=arms, summary="")
    return inline_svg(drawn, described_by=caption)


def _own_ids(svg: str, prefix: str) -> str:
    """The SVG with ids that no other figure of the page has; the caption it points to keeps its own."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    return re.sub(r'href="#', f'href="#{prefix}', svg)
